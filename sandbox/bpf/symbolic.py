"""A filter as one formula: the 32-bit answer as a function of sixteen 32-bit words.

Control only goes forward, so one walk from the first instruction to the last suffices. At each
instruction the states of all ways into it are merged (`If` over the way's condition), which keeps the
formula linear in the program: nothing is unrolled and no path is enumerated, so "no such input" is said
of all 2^512 inputs at once. Every operation is Z3's bit-vector one of 32 bits, which wraps as C does.

`z3-solver` is the extra `prove`; importing this module without it raises `MissingSolverError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from holdfast.sandbox.bpf.action import ACTION_MASK, ALLOW
from holdfast.sandbox.bpf.instruction import SECCOMP_DATA_SIZE, Instruction, Program
from holdfast.sandbox.bpf.missing import MissingSolverError

try:
    import z3  # type: ignore[import-untyped]  # z3-solver carries no annotations; its terms are `Any` here
except ImportError as error:
    raise MissingSolverError from error

__all__ = ["WORDS", "Term", "encode_filter", "encode_stack", "z3"]

Term = Any
"""A Z3 expression; which sort is said where it is used."""

NAMES = (
    "nr",
    "arch",
    "ip_low",
    "ip_high",
    *(f"arg{index}_{half}" for index in range(6) for half in ("low", "high")),
)
WORDS: tuple[Term, ...] = tuple(z3.BitVec(name, 32) for name in NAMES)
"""The unknowns, in the order of `Call.words`; offset `4 * i` is the i-th."""


@final
@dataclass(frozen=True, slots=True)
class _State:
    """Registers and scratch memory on some way through the program."""

    a: Term
    x: Term
    memory: dict[int, Term] = field(default_factory=dict)


def encode_stack(oldest_first: Sequence[Program]) -> Term:
    """The combined answer of a stack, a 32-bit term over `WORDS`; `ALLOW` when the stack is empty."""
    kept = _word(ALLOW)
    for program in reversed(oldest_first):
        answer = encode_filter(program)
        # signed, and strictly less, so that the newest filter's data stands on a tie
        kept = z3.If((answer & ACTION_MASK) < (kept & ACTION_MASK), answer, kept)
    return kept


def encode_filter(program: Program) -> Term:
    """The answer of one filter, a 32-bit term over `WORDS`."""
    ways: list[list[tuple[Term, _State]]] = [[] for _ in program]
    ways[0].append((z3.BoolVal(True), _State(_word(0), _word(0))))
    answers: list[tuple[Term, Term]] = []
    for pc, i in enumerate(program):
        if not ways[pc]:
            continue  # no way leads here
        reached, state = _merge(ways[pc])
        ways[pc] = []
        if i.name == "ret":
            answers.append((reached, state.a if i.op == "ret a" else _word(i.k)))
        elif i.branches:
            holds = z3.simplify(_condition(i, state))
            true, false = i.targets(pc)
            ways[true].append((z3.And(reached, holds), state))
            ways[false].append((z3.And(reached, z3.Not(holds)), state))
        elif i.op == "div x":
            answers.append((z3.And(reached, state.x == 0), _word(0)))
            ways[pc + 1].append((z3.And(reached, state.x != 0), _step(i, state)))
        else:
            (target,) = i.targets(pc)
            ways[target].append((reached, _step(i, state)))
    # INVARIANT: exactly one `reached` holds for each input; the last answer needs no guard.
    answer = answers[-1][1]
    for reached, value in reversed(answers[:-1]):
        answer = z3.If(reached, value, answer)
    return answer


def _word(value: int) -> Term:
    return z3.BitVecVal(value, 32)


def _merge(ways: list[tuple[Term, _State]]) -> tuple[Term, _State]:
    """One state for all ways into an instruction; scratch words that a way lacks are never read after it."""
    reached, state = ways[-1]
    for condition, other in reversed(ways[:-1]):
        memory = {
            k: _either(condition, other.memory[k], state.memory[k])
            for k in other.memory.keys() & state.memory.keys()
        }
        state = _State(_either(condition, other.a, state.a), _either(condition, other.x, state.x), memory)
    return (z3.Or([condition for condition, _ in ways]) if len(ways) > 1 else reached), state


def _either(condition: Term, this: Term, that: Term) -> Term:
    return this if this.eq(that) else z3.If(condition, this, that)


def _operand(i: Instruction, state: _State) -> Term:
    return state.x if i.code & 0x08 else _word(i.k)


def _condition(i: Instruction, state: _State) -> Term:
    operand = _operand(i, state)
    match i.name:
        case "jeq":
            return state.a == operand
        case "jgt":
            return z3.UGT(state.a, operand)
        case "jge":
            return z3.UGE(state.a, operand)
        case "jset":
            return state.a & operand != 0
        case name:
            raise AssertionError(f"not a branch: {name}")


def _step(i: Instruction, state: _State) -> _State:  # noqa: C901, PLR0912 - a table, one line an opcode
    """The state after an instruction that neither returns nor branches."""
    match i.op:
        case "ld [k]":
            return _State(WORDS[i.k >> 2], state.x, state.memory)
        case "ld #k":
            return _State(_word(i.k), state.x, state.memory)
        case "ldx #k":
            return _State(state.a, _word(i.k), state.memory)
        case "ld #len":
            return _State(_word(SECCOMP_DATA_SIZE), state.x, state.memory)
        case "ldx #len":
            return _State(state.a, _word(SECCOMP_DATA_SIZE), state.memory)
        case "ld M[k]":
            return _State(state.memory[i.k], state.x, state.memory)
        case "ldx M[k]":
            return _State(state.a, state.memory[i.k], state.memory)
        case "st M[k]":
            return _State(state.a, state.x, {**state.memory, i.k: state.a})
        case "stx M[k]":
            return _State(state.a, state.x, {**state.memory, i.k: state.x})
        case "tax":
            return _State(state.a, state.a, state.memory)
        case "txa":
            return _State(state.x, state.x, state.memory)
        case "neg":
            return _State(-state.a, state.x, state.memory)
        case "ja":
            return state
        case _:
            return _State(_arithmetic(i.name, state.a, _operand(i, state)), state.x, state.memory)


def _arithmetic(name: str, a: Term, operand: Term) -> Term:
    match name:
        case "add":
            return a + operand
        case "sub":
            return a - operand
        case "mul":
            return a * operand
        case "div":
            return z3.UDiv(a, operand)
        case "and":
            return a & operand
        case "or":
            return a | operand
        case "xor":
            return a ^ operand
        case "lsh":
            return a << (operand & 31)
        case "rsh":
            return z3.LShR(a, operand & 31)
        case _:
            raise AssertionError(f"not arithmetic: {name}")
