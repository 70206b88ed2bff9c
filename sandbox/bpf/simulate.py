"""Run a filter on one call, as the kernel's interpreter does: 32-bit words that wrap, no surprises.

The second implementation: short, obviously the specification, and held against the Z3 encoding and the
live kernel by tests. Where C leaves a choice the kernel's is written down beside the line.
"""

import operator
from collections.abc import Callable, Sequence

from holdfast.sandbox.bpf.action import combine
from holdfast.sandbox.bpf.call import WORD, Call
from holdfast.sandbox.bpf.instruction import SCRATCH_WORDS, SECCOMP_DATA_SIZE, Program

__all__ = ["run_filter", "run_stack"]

FROM_X = 0x08
"""The opcode bit that takes the operand from X instead of k (BPF_X)."""

TESTS: dict[str, Callable[[int, int], bool]] = {
    "jeq": operator.eq,
    "jgt": operator.gt,
    "jge": operator.ge,
    "jset": lambda a, operand: a & operand != 0,
}
ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lsh": lambda a, operand: (
        a << (operand & 31)
    ),  # BPF_ALU is 32 bits wide: a shift by x uses its low five bits
    "rsh": lambda a, operand: a >> (operand & 31),
}


def run_stack(oldest_first: Sequence[Program], call: Call) -> int:
    """The combined answer of a stack of filters, in the order of their installation."""
    return combine([run_filter(program, call) for program in reversed(oldest_first)])


def run_filter(program: Program, call: Call) -> int:  # noqa: C901, PLR0912 - one interpreter loop, read against the kernel's
    """The 32-bit value that this program returns for `call`."""
    words = call.words
    a = x = pc = 0  # the kernel zeroes both registers
    memory = [0] * SCRATCH_WORDS
    while True:
        i = program[pc]
        pc += 1
        operand = x if i.code & FROM_X else i.k
        if holds := TESTS.get(i.name):
            pc += i.jt if holds(a, operand) else i.jf
            continue
        if compute := ARITHMETIC.get(i.name):
            a = compute(a, operand) & WORD
            continue
        match i.op:
            case "ld [k]":
                a = words[i.k >> 2]
            case "ld #k":
                a = i.k
            case "ldx #k":
                x = i.k
            case "ld #len":
                a = SECCOMP_DATA_SIZE
            case "ldx #len":
                x = SECCOMP_DATA_SIZE
            case "ld M[k]":
                a = memory[i.k]
            case "ldx M[k]":
                x = memory[i.k]
            case "st M[k]":
                memory[i.k] = a
            case "stx M[k]":
                memory[i.k] = x
            case "tax":
                x = a
            case "txa":
                a = x
            case "neg":
                a = -a & WORD
            case "ja":
                pc += i.k
            case "ret #k":
                return i.k
            case "ret a":
                return a
            case "div #k" | "div x":
                if operand == 0:
                    return 0  # bpf_convert_filter: division by zero leaves the program with 0, that is KILL_THREAD
                a //= operand
            case op:
                raise AssertionError(f"not decoded: {op}")
