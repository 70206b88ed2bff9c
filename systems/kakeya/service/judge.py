"""What the controls say of one genuine-looking submission: pure, so that every branch is a table in a test.

    (tenant policy, identity, body, now) -> Refused(reason) | Judged(vrf, routing, grounding, contained)

Order: the summary's own id, its signature, the VRF proof, the way, and on the standard way the ensemble.
"""

import hmac
from dataclasses import dataclass, replace
from enum import Enum
from typing import final

from holdfast.systems.kakeya.ecvrf import InvalidProofError, verify
from holdfast.systems.kakeya.grounding import RagPolicy, overlap
from holdfast.systems.kakeya.pcs import Body, Grounding, canonical, pcs_id_of, sign
from holdfast.systems.kakeya.policy import Mode, Tenant
from holdfast.systems.kakeya.routing.canary import in_canary
from holdfast.systems.kakeya.routing.decision import Decision, Path, decide

__all__ = [
    "Ensemble",
    "Judged",
    "RefusedError",
    "VrfOutcome",
    "check_genuine",
    "judge_vrf",
    "route",
    "run_ensemble",
]


@final
class RefusedError(Exception):
    """401; `reason` is a word for clients and metrics."""

    def __init__(self, reason: str, field: str) -> None:
        super().__init__(f"`{field}` is refused: {reason}")
        self.reason = reason
        self.field = field


@final
class VrfOutcome(Enum):
    """What became of the VRF proof."""

    NOT_REQUIRED = "not_required"
    VERIFIED = "verified"
    MISSING = "missing"
    INVALID = "invalid"
    NO_KEY_NOW = "no_key_now"


@final
@dataclass(frozen=True, slots=True)
class Ensemble:
    """What the standard way found; `contained` means that the answer is held back."""

    best_overlap: float | None
    contained: bool


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """An accepted submission's record, as the response and the log carry it."""

    vrf: VrfOutcome
    decision: Decision
    ensemble: Ensemble | None
    """None on the fast path."""


def check_genuine(tenant: Tenant, body: Body) -> bytes:
    """The canonical payload, when the id is the digest that it claims to be and the signature is the tenant's."""
    pcs = body.pcs
    if not hmac.compare_digest(pcs.pcs_id, pcs_id_of(pcs.merkle_root, pcs.epoch, pcs.shard_id)):
        raise RefusedError("pcs_id_mismatch", "pcs_id")
    payload = canonical(pcs)
    if not hmac.compare_digest(sign(tenant.signing_key, payload), body.signature):
        raise RefusedError("bad_signature", "sig")
    return payload


def judge_vrf(tenant: Tenant, body: Body, payload: bytes, *, now: float) -> VrfOutcome:
    """Verify the proof over the signed payload; in mode enforce, and inside the canary, a failure refuses.

    Outside the canary `enforce` acts as `shadow`: the mismatch is recorded, the request goes on.
    """
    if not tenant.vrf.required:
        return VrfOutcome.NOT_REQUIRED
    outcome = _vrf_outcome(tenant.vrf.keys_at(now), body.vrf_proof, payload)
    enforced = tenant.vrf.mode is Mode.ENFORCE and _included(tenant, "vrf", body)
    if outcome is not VrfOutcome.VERIFIED and enforced:
        raise RefusedError(f"vrf_{outcome.value}", "vrf_proof")
    return outcome


def _vrf_outcome(keys: tuple[bytes, ...], proof: bytes | None, payload: bytes) -> VrfOutcome:
    if proof is None:
        return VrfOutcome.MISSING
    for key in keys:
        try:
            verify(key, payload, proof)
        except InvalidProofError:
            continue
        return VrfOutcome.VERIFIED
    return VrfOutcome.INVALID if keys else VrfOutcome.NO_KEY_NOW


def route(tenant: Tenant, body: Body, percent: float) -> Decision:
    """Fast or standard; outside the canary risk routing is off, so that request is the control arm's."""
    included = in_canary(percent, control="riskRouting", tenant=tenant.name, key=body.pcs.pcs_id)
    return decide(tenant.risk if included else replace(tenant.risk, enabled=False), body.estimate)


def run_ensemble(tenant: Tenant, body: Body) -> Ensemble:
    """The checks that the fast path skips: the best overlap of the answer with any of its sources."""
    if body.grounding is None or not tenant.rag.enabled or not _included(tenant, "rag", body):
        return Ensemble(None, contained=False)
    best = _best_overlap(body.grounding, tenant.rag)
    return Ensemble(best, contained=best < tenant.rag.min_overlap)


def is_fast(judged: Judged) -> bool:
    """Whether the ensemble was skipped."""
    return judged.decision.path is Path.FAST


def _best_overlap(grounding: Grounding, policy: RagPolicy) -> float:
    return max(overlap(grounding.answer, source, policy).score for source in grounding.sources)


def _included(tenant: Tenant, control: str, body: Body) -> bool:
    return in_canary(
        tenant.canary.get(control, 100), control=control, tenant=tenant.name, key=body.pcs.pcs_id
    )
