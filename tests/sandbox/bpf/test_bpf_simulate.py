"""The simulator's arithmetic, one opcode a row; the kernel answers the same rows."""

from collections.abc import Iterator

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.action import ALLOW, ERRNO
from holdfast.sandbox.bpf.cage import Answer, Cage, Fate
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.simulate import run_filter
from holdfast.sandbox.bpf.trampoline import RETURN_ADDRESS

from .filters_of_tests import asks_the_kernel, program

pytestmark = asks_the_kernel

CALL = Call(
    Abi.X86_64.arch,
    39,
    (0x1111_2222_3333_4444, 0xFFFF_FFFF_0000_0005, 3, 4, 5, 0x8000_0000_0000_0000),
    RETURN_ADDRESS[Abi.X86_64],
)

RESULTS: dict[str, tuple[tuple[str, ...], int]] = {
    "nr": (("ld [k] 0",), 39),
    "arch": (("ld [k] 4",), 0xC000_003E),
    "ip low": (("ld [k] 8",), RETURN_ADDRESS[Abi.X86_64]),
    "ip high": (("ld [k] 12",), 0),
    "arg0 low": (("ld [k] 16",), 0x3333_4444),
    "arg0 high": (("ld [k] 20",), 0x1111_2222),
    "arg5 high": (("ld [k] 60",), 0x8000_0000),
    "length of the data": (("ld #len",), 64),
    "length into x": (("ldx #len", "txa"), 64),
    "registers start at zero": (("add x",), 0),
    "add wraps": (("ld #k 0xffffffff", "add #k 2"), 1),
    "sub wraps": (("ld #k 1", "sub #k 2"), 0xFFFF_FFFF),
    "mul wraps": (("ld #k 0x10001", "mul #k 0x10001"), 0x2_0001),
    "div": (("ld #k 0xffffffff", "div #k 2"), 0x7FFF_FFFF),
    "div x": (("ldx #k 7", "ld #k 50", "div x"), 7),
    "and or xor": (("ld #k 12", "and #k 10", "or #k 1", "xor #k 3"), 10),
    "left shift drops": (("ld #k 0x80000001", "lsh #k 1"), 2),
    "left shift by x uses five bits": (("ldx #k 33", "ld #k 1", "lsh x"), 2),
    "right shift is unsigned": (("ld #k 0x80000000", "rsh #k 31"), 1),
    "right shift by x uses five bits": (("ldx #k 32", "ld #k 9", "rsh x"), 9),
    "neg": (("ld #k 1", "neg"), 0xFFFF_FFFF),
    "scratch": (("ld #k 7", "st M[k] 3", "ldx #k 8", "stx M[k] 15", "ld M[k] 15", "ldx M[k] 3", "add x"), 15),
    "tax, txa": (("ld #k 5", "tax", "ld #k 0", "txa"), 5),
    "jeq x": (("ldx #k 1", "ld #k 1", "jeq x 0 0 1", "ld #k 9"), 9),
    "jgt is strict": (("ld #k 4", "jgt #k 4 0 1", "ld #k 9"), 4),
    "jge is not": (("ld #k 4", "jge #k 4 0 1", "ld #k 9"), 9),
    "jgt is unsigned": (("ld #k 0x80000000", "jgt #k 1 0 1", "ld #k 9"), 9),
    "jset": (("ld #k 6", "jset #k 4 0 1", "ld #k 9"), 9),
    "ja": (("ja 1", "ld #k 3", "add #k 1"), 1),
}


def halves(lines: tuple[str, ...]) -> Iterator[bytes]:
    """The program with its result put into ERRNO data, ten bits at a time, so that the kernel can tell it."""
    for shift in (0, 10, 20, 30):
        yield program(*lines, f"rsh #k {shift}", "and #k 0x3ff", f"or #k {ERRNO}", "ret a")


@pytest.mark.parametrize(("lines", "result"), RESULTS.values(), ids=RESULTS.keys())
def test_an_opcode_computes_what_the_kernel_computes(lines: tuple[str, ...], result: int) -> None:
    assert run_filter(decode(program(*lines, "ret a")), CALL) == result
    for shift, raw in zip((0, 10, 20, 30), halves(lines), strict=True):
        with Cage([raw]) as cage:
            assert cage.ask(Abi.X86_64, CALL) == Answer(Fate.FAILED, result >> shift & 0x3FF)


def test_division_by_a_zero_x_kills() -> None:
    raw = program("ld #k 5", "div x", f"ret #k {ALLOW}")
    assert run_filter(decode(raw), CALL) == 0
    with Cage([raw]) as cage:
        assert cage.ask(Abi.X86_64, CALL).fate is Fate.KILLED


def test_high_argument_bits_reach_the_filter_by_int_0x80_too() -> None:
    """So a rule for i386 that compares 64 bits can be walked around from a 64-bit process."""
    raw = program("ld [k] 28", "jeq #k 1 0 1", f"ret #k {ERRNO | 77}", f"ret #k {ALLOW}")
    with Cage([raw]) as cage:
        call = Call(Abi.I386.arch, 54, (0, 1 << 32, 0, 0, 0, 0))
        assert cage.ask(Abi.I386, call) == Answer(Fate.FAILED, 77)
