"""`kakeya` with one fault put in: `python kakeya_with_fault.py FAULT ARGUMENTS...`.

The rest is the real command, so that a gate sees what it would see of a system that has the fault.
"""

import hashlib
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

from holdfast.systems.kakeya import batch, cli
from holdfast.systems.kakeya.ecvrf import fast, plain, proof
from holdfast.systems.kakeya.ecvrf.edwards25519 import Q
from holdfast.systems.kakeya.identity import claims, gateway
from holdfast.systems.kakeya.routing import decision

grounding: Any = importlib.import_module("holdfast.systems.kakeya.grounding.overlap")
canonical: Any = importlib.import_module("holdfast.systems.kakeya.pcs.canonical")


def put(module: Any, name: str, replacement: Any) -> None:
    """In the module, and wherever the old object was imported by name."""
    old = getattr(module, name)
    for other in [m for n, m in sys.modules.items() if n.startswith("holdfast.systems.kakeya")]:
        if getattr(other, name, None) is old:
            setattr(other, name, replacement)


def hash_placeholder() -> None:
    """The "VRF" is a hash of key and input; c and s are there for the length."""

    def trace(key: bytes, alpha: bytes, pi: bytes, *, validate_key: bool = True) -> proof.Trace:
        beta = hashlib.sha512(key + alpha).digest()
        return proof.Trace(0, key, key, key, beta)

    for which in (fast, plain):
        put(which, "trace_verifying", trace)


def returns_true() -> None:
    """The values are computed, the comparison at the end is not made."""
    for which in (fast, plain):
        honest = which.trace_verifying

        def trusting(
            key: bytes,
            alpha: bytes,
            pi: bytes,
            *,
            validate_key: bool = True,
            honest: Callable[..., proof.Trace] = honest,
        ) -> proof.Trace:
            try:
                return honest(key, alpha, pi, validate_key=validate_key)
            except proof.InvalidProofError:
                return proof.Trace(0, b"", b"", b"", bytes(64))

        put(which, "trace_verifying", trusting)


def accepts_s_plus_q() -> None:
    """s is reduced instead of refused."""

    def lenient(text: bytes) -> proof.Proof:
        if len(text) != 80:
            raise proof.InvalidProofError("proof", "must be 80 bytes long")
        return proof.Proof(
            text[:32], int.from_bytes(text[32:48], "little"), int.from_bytes(text[48:], "little") % Q
        )

    put(proof, "parse_proof", lenient)


def jaccard_over_lists() -> None:
    """Duplicates count in the numerator, not below."""

    def counted(answer: str, source: str, policy: Any) -> Any:
        words = grounding.content_words(answer, policy)
        n = policy.shingle_size
        left = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        right = grounding.shingles(source, policy)
        shared = sum(s in right for s in left)
        total = len(set(left) | right)
        return grounding.Overlap(shared / total if total else 1.0, shared, total, grounded=True)

    put(grounding, "overlap", counted)


def nan_goes_fast() -> None:
    """The comparisons say when not to, and with NaN none of them does."""

    def decide(policy: decision.RiskPolicy, e: decision.Estimate | None) -> decision.Decision:
        if not policy.enabled or e is None:
            return decision.Decision(decision.Path.STANDARD, decision.Reason.RISK_ROUTING_DISABLED)
        if e.risk >= policy.skip_ensemble_below or e.high - e.low >= policy.max_ci_width:
            return decision.Decision(decision.Path.STANDARD, decision.Reason.HIGH_RISK)
        return decision.Decision(decision.Path.FAST, decision.Reason.LOW_RISK_NARROW_CI)

    put(decision, "decide", decide)


def never_fast() -> None:
    """Routing that is switched off can break nothing, and wins nothing."""
    put(decision, "decide", lambda *_: decision.Decision(decision.Path.STANDARD, decision.Reason.HIGH_RISK))


def fast_up_to_a_half() -> None:
    """The threshold is off by a factor of five."""
    honest = decision.decide

    def decide(policy: decision.RiskPolicy, e: decision.Estimate | None) -> decision.Decision:
        if e is not None and math.isfinite(e.risk) and e.risk < 0.5 and decision.is_sane(e):
            return decision.Decision(decision.Path.FAST, decision.Reason.LOW_RISK_NARROW_CI)
        return honest(policy, e)

    put(decision, "decide", decide)


def trusts_x_auth_verified() -> None:
    """The header alone is the proof."""
    honest = gateway._authenticate_connection

    def believing(given: dict[str, str], *rest: Any) -> str:
        return "believed" if given.get("x-auth-verified") == "true" else honest(given, *rest)

    put(gateway, "_authenticate_connection", believing)
    honest_identify = gateway.identify

    def identify(headers: Any, *rest: Any, **named: Any) -> claims.Identity:
        lines = list(headers)
        said = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in lines}
        if said.get("x-auth-verified") == "true" and "x-tenant-id" in said:
            return claims.Identity(said["x-tenant-id"], "", "believed")
        return honest_identify(lines, *rest, **named)

    put(gateway, "identify", identify)


def forgets_the_nonces() -> None:
    """A stamp is good for as long as its window is open."""
    from holdfast.systems.kakeya.identity.stamp import ReplayWindow

    ReplayWindow.admit = lambda self, nonce, stamped, now: None  # type: ignore[method-assign]


def trusts_every_peer() -> None:
    """Any process on the machine is the gateway."""
    gateway.GatewayTrust.knows = lambda self, peer: peer is not None  # type: ignore[method-assign]


def refuses_everybody() -> None:
    """No spoof gets in; nobody else does either."""
    gateway.GatewayTrust.knows = lambda self, peer: False  # type: ignore[method-assign]
    put(gateway, "check_stamp", _refuse)


def _refuse(*_: Any, **__: Any) -> None:
    from holdfast.systems.kakeya.identity import IdentityRefusedError, Refusal

    raise IdentityRefusedError(Refusal.NO_GATEWAY, "connection")


def last_digit_lost() -> None:
    """Rounded to nine decimals, then written as JSON writes floats."""
    put(canonical, "fixed9", lambda value: repr(round(value, 9)))


def says_nothing() -> None:
    """`batch` answers no line."""
    put(batch, "run_batch", lambda _: iter(()))


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        hash_placeholder, returns_true, accepts_s_plus_q, jaccard_over_lists, nan_goes_fast, never_fast, fast_up_to_a_half,
        trusts_x_auth_verified, forgets_the_nonces, trusts_every_peer, refuses_everybody, last_digit_lost, says_nothing,
    )
}  # fmt: skip

if __name__ == "__main__":
    if "serve" in sys.argv:
        import holdfast.systems.kakeya.service  # noqa: F401 - so that the fault reaches what it imported
    FAULTS[sys.argv[1]]()
    sys.exit(cli.run_command(sys.argv[2:]))
