"""What a prover says: four words, and what they rest on."""

from dataclasses import dataclass, field
from enum import Enum
from typing import final

from holdfast.sandbox.bpf.abi import Abi, syscall_name
from holdfast.sandbox.bpf.action import describe
from holdfast.sandbox.bpf.call import Call

__all__ = ["Counterexample", "Proof", "ReplayOutcome", "Replayed", "Verdict", "combine_proofs"]


@final
class Verdict(Enum):
    """Ordered from the word that wins a combination to the one that loses it."""

    COUNTEREXAMPLE = "counterexample"
    """A call that does the act, and that the filter lets execute."""
    CANNOT_TELL = "cannot_tell"
    """The solver gave up, the filter hands the call to someone else, or the model and the kernel disagree."""
    NOT_RUN = "not_run"
    """No question was put: no solver here, or no such call in the ABIs asked about."""
    PROVEN = "proven"
    """No input whatever makes the filter pass a call that does the act."""


@final
class ReplayOutcome(Enum):
    """What the real kernel did with a counterexample, under that very filter."""

    CONFIRMED = "confirmed"
    """The filter let it through; it was stopped behind the filter and did not execute."""
    REFUTED = "refuted"
    """The kernel denied what the model lets through: the model is wrong, and no proof from it stands."""
    NOT_REPLAYABLE = "not_replayable"
    """This machine cannot make that call or may not trace; the reason says which."""
    NOT_RUN = "not_run"


@final
@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay's outcome and the sentence behind it."""

    outcome: ReplayOutcome = ReplayOutcome.NOT_RUN
    reason: str = "no replay was asked for"


@final
@dataclass(frozen=True, slots=True)
class Counterexample:
    """Concrete registers."""

    abi: Abi
    call: Call
    answer: int
    """The stack's combined return value."""
    replay: Replayed = field(default_factory=Replayed)

    def __str__(self) -> str:
        arguments = ", ".join(f"0x{a:x}" for a in self.call.args)
        name = syscall_name(self.abi, self.call.nr)
        return f"{self.abi.value} {name}({arguments}) -> {describe(self.answer)}, replay {self.replay.outcome.value}"


@final
@dataclass(frozen=True, slots=True)
class Proof:
    """The answer for one act: over one ABI, or over several once combined."""

    verdict: Verdict
    reason: str
    questions: int = 0
    """How many times the solver was asked; a `PROVEN` with none cannot be made."""
    counterexamples: tuple[Counterexample, ...] = ()
    by_abi: tuple[tuple[Abi, Verdict], ...] = ()

    def __post_init__(self) -> None:
        if self.verdict is Verdict.PROVEN and not self.questions:
            raise ValueError("a proof that asked no question proves nothing")
        if (self.verdict is Verdict.COUNTEREXAMPLE) is not bool(self.counterexamples):
            raise ValueError("counterexamples and verdict contradict each other")


def combine_proofs(by_abi: dict[Abi, Proof]) -> Proof:
    """One answer over several ABIs: a counterexample wins, then "cannot tell".

    An ABI without the call (`NOT_RUN`) is not held against the others, but alone it stays `NOT_RUN`.
    """
    asked = {abi: proof for abi, proof in by_abi.items() if proof.verdict is not Verdict.NOT_RUN} or by_abi
    if not asked:
        return Proof(Verdict.NOT_RUN, "no ABI was asked about")
    verdict = next(v for v in Verdict if any(p.verdict is v for p in asked.values()))
    deciding = [f"{abi.value}: {p.reason}" for abi, p in asked.items() if p.verdict is verdict]
    return Proof(
        verdict,
        "; ".join(deciding),
        sum(p.questions for p in by_abi.values()),
        tuple(c for p in by_abi.values() for c in p.counterexamples),
        tuple((abi, p.verdict) for abi, p in by_abi.items()),
    )
