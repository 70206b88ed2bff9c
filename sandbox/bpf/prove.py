"""Prove, for each forbidden act, that a stack of filters lets no call through that does it.

    prove_acts([filter], ["mount.classic", "tty.sti"]) -> {"mount.classic": Proof(PROVEN), ...}

The filters are bytes, oldest first: what `assemble` hands to the kernel, or what `read_live` got back from
it. A proof is about those bytes and nothing else; another loader compiles other bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from holdfast.sandbox.bpf.abi import Abi, host_abis
from holdfast.sandbox.bpf.acts import ACTS, OUT_OF_SIGHT
from holdfast.sandbox.bpf.attempt import Attempt, Question
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.missing import MissingSolverError
from holdfast.sandbox.bpf.proof import Proof, Verdict, combine_proofs
from holdfast.sandbox.bpf.replay import replay_all
from holdfast.sandbox.refusal import BadInputError

__all__ = ["prove", "prove_acts"]

TIMEOUT_MS = 10_000


def prove_acts(
    filters: Sequence[bytes],
    acts: Iterable[str] | None = None,
    *,
    abis: Sequence[Abi] | None = None,
    timeout_ms: int = TIMEOUT_MS,
    replayed: bool = False,
) -> Mapping[str, Proof]:
    """One `Proof` for each act id, all of the catalogue by default, over all of `abis` (this machine's by default).

    `replayed` shows each counterexample to the kernel. Without z3-solver every answer is `NOT_RUN`, with the
    extra that installs it. Raises `BadInputError` for an unknown id, and for bytes that are no filter.
    """
    ids = tuple(ACTS if acts is None else acts)
    if unknown := [name for name in ids if name not in ACTS and name not in OUT_OF_SIGHT]:
        raise BadInputError(f"unknown act `{unknown[0]}`", hint=f"one of {', '.join([*ACTS, *OUT_OF_SIGHT])}")
    wanted = {name: ACTS[name].attempts if name in ACTS else () for name in ids}
    try:
        proofs = prove(filters, wanted, abis=abis, timeout_ms=timeout_ms, replayed=replayed)
    except MissingSolverError as missing:
        return {name: Proof(Verdict.NOT_RUN, str(missing)) for name in ids}
    unseen = {name: Proof(Verdict.CANNOT_TELL, why) for name, why in OUT_OF_SIGHT.items() if name in ids}
    return {**proofs, **unseen}


def prove(
    filters: Sequence[bytes],
    sets: Mapping[str, Sequence[Attempt]],
    *,
    abis: Sequence[Abi] | None = None,
    timeout_ms: int = TIMEOUT_MS,
    replayed: bool = False,
) -> dict[str, Proof]:
    """The same for any sets of calls; raises `MissingSolverError` without z3-solver."""
    programs = [decode(raw) for raw in filters]
    from holdfast.sandbox.bpf.solver import Oracle

    oracle = Oracle(programs, timeout_ms=timeout_ms)
    chosen = host_abis() if abis is None else tuple(abis)
    proofs = {
        name: combine_proofs({abi: _over(oracle.ask, attempts, abi) for abi in chosen})
        for name, attempts in sets.items()
    }
    return replay_all(filters, proofs) if replayed else proofs


def _over(ask: Callable[[Question], Proof], attempts: Sequence[Attempt], abi: Abi) -> Proof:
    """All attempts in one ABI: the worst answer, every question counted."""
    answers = [ask(question) for attempt in attempts for question in attempt.questions((abi,))]
    if not answers:
        return Proof(Verdict.NOT_RUN, "no such call there")
    worst = next(v for v in Verdict if any(a.verdict is v for a in answers))
    deciding = [a for a in answers if a.verdict is worst]
    reason = deciding[0].reason if worst is Verdict.PROVEN else "; ".join(a.reason for a in deciding)
    return Proof(
        worst, reason, sum(a.questions for a in answers), tuple(c for a in answers for c in a.counterexamples)
    )
