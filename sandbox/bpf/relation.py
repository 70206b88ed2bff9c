"""Two filters, one relation over all inputs: do they have the same effect, is one as strict as the other?

The inputs are those that a kernel with the given ABIs can make: its architecture tokens, any number, any
arguments, any instruction pointer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

from holdfast.sandbox.bpf.abi import Abi, host_abis, syscall_name
from holdfast.sandbox.bpf.action import (
    ACTION_MASK,
    DATA_MASK,
    ERRNO,
    KILL_PROCESS,
    MAX_ERRNO,
    Action,
    Grip,
    describe,
    effect,
    grip,
)
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import Program, decode
from holdfast.sandbox.bpf.proof import Verdict
from holdfast.sandbox.bpf.simulate import run_stack

__all__ = ["Comparison", "Difference", "Relation", "compare"]


@final
class Relation(Enum):
    """What is asked of the first filter in view of the second."""

    EQUIVALENT = "equivalent"
    """Every call has the same effect under both."""
    STRICTER = "stricter"
    """No call is held looser by the first: whatever it lets pass, the second lets pass."""


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """A call that refutes the relation, and what each filter answers."""

    abi: Abi
    call: Call
    first: int
    second: int

    def __str__(self) -> str:
        arguments = ", ".join(f"0x{a:x}" for a in self.call.args)
        name = syscall_name(self.abi, self.call.nr)
        return f"{self.abi.value} {name}({arguments}): first {describe(self.first)}, second {describe(self.second)}"


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the relation holds."""

    verdict: Verdict
    reason: str
    differences: tuple[Difference, ...] = ()
    """One for each ABI in which it is refuted."""


def compare(
    relation: Relation,
    first: Sequence[bytes],
    second: Sequence[bytes],
    *,
    abis: Sequence[Abi] | None = None,
    timeout_ms: int = 60_000,
) -> Comparison:
    """Decide `relation` between two stacks; raises `MissingSolverError` without z3-solver."""
    from holdfast.sandbox.bpf.solver import SolverGaveUpError, find_call

    stacks = [decode(raw) for raw in first], [decode(raw) for raw in second]
    chosen = host_abis() if abis is None else tuple(abis)
    if not chosen:
        return Comparison(Verdict.NOT_RUN, "no ABI was asked about")
    differences = []
    try:
        for abi in chosen:
            found = find_call(_refutation(relation, *stacks, abi), timeout_ms=timeout_ms)
            if found:
                differences.append(
                    Difference(abi, found, run_stack(stacks[0], found), run_stack(stacks[1], found))
                )
    except SolverGaveUpError as gave_up:
        return Comparison(Verdict.CANNOT_TELL, f"the solver gave up ({gave_up})", tuple(differences))
    return _judged(relation, tuple(differences))


def _judged(relation: Relation, differences: tuple[Difference, ...]) -> Comparison:
    """The verdict, after the simulator has confirmed each difference."""
    for difference in differences:
        if not _refutes(relation, difference.first, difference.second):
            return Comparison(Verdict.CANNOT_TELL, f"solver and simulator disagree on {difference}")
    if differences:
        return Comparison(Verdict.COUNTEREXAMPLE, "; ".join(map(str, differences)), differences)
    return Comparison(
        Verdict.PROVEN, "no call differs" if relation is Relation.EQUIVALENT else "no call is held looser"
    )


def _refutes(relation: Relation, first: int, second: int) -> bool:
    match relation:
        case Relation.EQUIVALENT:
            return effect(first) != effect(second)
        case Relation.STRICTER:
            return grip(first).value > grip(second).value


def _refutation(relation: Relation, first: Sequence[Program], second: Sequence[Program], abi: Abi) -> object:
    """The condition on a call of this ABI that refutes the relation; `_refutes` in Z3's words."""
    from holdfast.sandbox.bpf.solver import has_grip
    from holdfast.sandbox.bpf.symbolic import WORDS, encode_stack, z3

    one, other = encode_stack(first), encode_stack(second)
    match relation:
        case Relation.EQUIVALENT:
            refuted = _effect_term(one) != _effect_term(other)
        case Relation.STRICTER:
            passes, goes_on = Grip.EXECUTES, (Grip.EXECUTES, Grip.HANDED_OVER)
            refuted = z3.Or(
                z3.And(has_grip(one, passes), z3.Not(has_grip(other, passes))),
                z3.And(has_grip(one, *goes_on), z3.Not(has_grip(other, *goes_on))),
            )
    number, arch = WORDS[:2]
    x32 = Abi.X32.numbers
    in_x32 = z3.And(z3.UGE(number, x32[0]), z3.ULE(number, x32[-1]))
    domain = {Abi.X32: in_x32, Abi.X86_64: z3.Not(in_x32)}.get(abi, z3.BoolVal(True))
    fixed = z3.substitute(z3.And(refuted, domain), (arch, z3.BitVecVal(abi.arch, 32)))
    return z3.And(z3.simplify(fixed), arch == abi.arch)


def _effect_term(answer: object) -> object:
    """`action.effect` in Z3's words."""
    from holdfast.sandbox.bpf.symbolic import Term, z3

    value: Term = answer
    action, data = value & ACTION_MASK, value & DATA_MASK
    known = z3.Or([action == a.value for a in Action])
    kept = z3.Or(action == Action.TRAP.value, action == Action.TRACE.value)
    limited = z3.If(z3.UGT(data, MAX_ERRNO), z3.BitVecVal(MAX_ERRNO, 32), data)
    return z3.If(
        action == ERRNO,
        ERRNO | limited,
        z3.If(kept, value, z3.If(known, action, z3.BitVecVal(KILL_PROCESS, 32))),
    )
