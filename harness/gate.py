"""Gates: pure functions from evidence to a judgement that knows the words "cannot tell".

    evidence (frozen, gathered by a suite)  ->  Gate.judge  ->  Judgement(outcome, reasons)

`CANNOT_TELL` is never a pass. A gate that is shown nothing cannot tell: an empty capture, no probe and no
request prove as little as a broken one, and a verdict that comes out green on them is the worst bug that
this project can ship.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar, final

__all__ = ["Gate", "Judgement", "Outcome", "cannot_tell", "failed", "judge_all", "passed", "worst"]

E = TypeVar("E")


@final
class Outcome(Enum):
    """What a gate can say; ordered from the answer that wins a combination to the one that loses it."""

    FAIL = "fail"
    CANNOT_TELL = "cannot_tell"
    PASS = "pass"  # noqa: S105 - an outcome, not a secret


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome, and the sentences that say why; a pass gives its reasons too, with counts."""

    outcome: Outcome
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("a judgement without a reason cannot be read; give at least one sentence")


def passed(*reasons: str) -> Judgement:
    """The claim holds; `reasons` say on how much evidence (`"24 requests, 12 on each lane"`)."""
    return Judgement(Outcome.PASS, reasons)


def failed(*reasons: str) -> Judgement:
    """The claim is refuted; `reasons` name the object that refutes it."""
    return Judgement(Outcome.FAIL, reasons)


def cannot_tell(*reasons: str) -> Judgement:
    """The evidence does not suffice, either way; `reasons` say what is missing."""
    return Judgement(Outcome.CANNOT_TELL, reasons)


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """Combine: any fail fails, else any "cannot tell" cannot tell; nothing at all cannot tell either."""
    kept = tuple(judgements)
    if not kept:
        return cannot_tell("no gate was judged")
    for outcome in Outcome:
        if deciding := [j for j in kept if j.outcome is outcome]:
            return Judgement(outcome, tuple(reason for j in deciding for reason in j.reasons))
    raise AssertionError("unreachable: every judgement has an outcome")


@final
@dataclass(frozen=True, slots=True)
class Gate(Generic[E]):
    """One acceptance gate over evidence of type `E`."""

    name: str
    """Snake case, stable: scripts read it in the metrics JSON."""
    claim: str
    """The sentence that a pass shows, as the report prints it."""
    judge: Callable[[E], Judgement]
    """Pure: no clock, no file, no socket. It must be able to answer all three outcomes."""


def judge_all(gates: Iterable[Gate[E]], evidence: E) -> dict[str, Judgement]:
    """Judge `evidence` by every gate; a gate that raises is our own fault and is not caught here."""
    return {gate.name: gate.judge(evidence) for gate in gates}
