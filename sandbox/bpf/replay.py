"""Show counterexamples to the real kernel, under that very stack of filters, without executing them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from holdfast.sandbox.bpf.cage import Cage, CannotReplayError, Fate
from holdfast.sandbox.bpf.proof import Counterexample, Proof, Replayed, ReplayOutcome, Verdict
from holdfast.sandbox.bpf.trampoline import RETURN_ADDRESS

__all__ = ["replay_all"]


def replay_all(oldest_first: Sequence[bytes], proofs: Mapping[str, Proof]) -> dict[str, Proof]:
    """Every proof with its counterexamples replayed; one that the kernel denies takes its whole answer back."""
    if not any(proof.counterexamples for proof in proofs.values()):
        return dict(proofs)
    try:
        with Cage(oldest_first) as cage:
            return {name: _shown(proof, partial(_replayed, cage)) for name, proof in proofs.items()}
    except CannotReplayError as error:
        unable = Replayed(ReplayOutcome.NOT_REPLAYABLE, str(error))
        return {name: _shown(proof, lambda _: unable) for name, proof in proofs.items()}


def _shown(proof: Proof, replayed: Callable[[Counterexample], Replayed]) -> Proof:
    shown = tuple(replace(c, replay=replayed(c)) for c in proof.counterexamples)
    if refuted := [c for c in shown if c.replay.outcome is ReplayOutcome.REFUTED]:
        return replace(
            proof,
            verdict=Verdict.CANNOT_TELL,
            reason=f"the model and the kernel disagree on {refuted[0]}: {refuted[0].replay.reason}",
            counterexamples=(),
            by_abi=tuple((abi, Verdict.CANNOT_TELL) for abi, _ in proof.by_abi),
        )
    return replace(proof, counterexamples=shown)


def _replayed(cage: Cage, counterexample: Counterexample) -> Replayed:
    abi, call = counterexample.abi, counterexample.call
    if abi in RETURN_ADDRESS and call.ip != RETURN_ADDRESS[abi]:
        return Replayed(
            ReplayOutcome.NOT_REPLAYABLE, f"the filter asks for a call from address 0x{call.ip:x}"
        )
    try:
        answer = cage.ask(abi, call)
    except CannotReplayError as error:
        return Replayed(ReplayOutcome.NOT_REPLAYABLE, str(error))
    if answer.fate is Fate.PASSED:
        return Replayed(ReplayOutcome.CONFIRMED, "the filter let it through; it was stopped there")
    return Replayed(
        ReplayOutcome.REFUTED, f"the kernel's answer was `{answer.fate.value}`, error number {answer.errno}"
    )
