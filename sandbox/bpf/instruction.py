"""Raw bytes -> instructions: the classic BPF that the kernel's seccomp verifier admits, and nothing else.

A filter is an array of `struct sock_filter {u16 code; u8 jt, jf; u32 k}`, 1 to 4096 of them. Two checks in
the kernel decide what may be loaded, and both are repeated here, so that whatever is decoded is a program
the kernel would run: `bpf_check_classic` (net/core/filter.c: jumps, shifts, division, scratch memory, the
last instruction) and `seccomp_check_filter` (kernel/seccomp.c: the opcodes below, loads from `seccomp_data`
only). There are no loops, since every jump goes forward; all that follows rests on that.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from holdfast.sandbox.refusal import BadInputError

__all__ = ["OPCODES", "SCRATCH_WORDS", "SECCOMP_DATA_SIZE", "Instruction", "decode", "encode"]

SECCOMP_DATA_SIZE = 64
"""`struct seccomp_data`: nr, arch, instruction_pointer, args[6]."""
SCRATCH_WORDS = 16
"""M[0] to M[15] (BPF_MEMWORDS)."""
MAX_INSTRUCTIONS = 4096
SOCK_FILTER = struct.Struct("<HBBI")

OPCODES = {
    0x20: "ld [k]",
    0x80: "ld #len",
    0x81: "ldx #len",
    0x00: "ld #k",
    0x01: "ldx #k",
    0x60: "ld M[k]",
    0x61: "ldx M[k]",
    0x02: "st M[k]",
    0x03: "stx M[k]",
    0x04: "add #k",
    0x0C: "add x",
    0x14: "sub #k",
    0x1C: "sub x",
    0x24: "mul #k",
    0x2C: "mul x",
    0x34: "div #k",
    0x3C: "div x",
    0x44: "or #k",
    0x4C: "or x",
    0x54: "and #k",
    0x5C: "and x",
    0x64: "lsh #k",
    0x6C: "lsh x",
    0x74: "rsh #k",
    0x7C: "rsh x",
    0xA4: "xor #k",
    0xAC: "xor x",
    0x84: "neg",
    0x05: "ja",
    0x15: "jeq #k",
    0x1D: "jeq x",
    0x25: "jgt #k",
    0x2D: "jgt x",
    0x35: "jge #k",
    0x3D: "jge x",
    0x45: "jset #k",
    0x4D: "jset x",
    0x06: "ret #k",
    0x16: "ret a",
    0x07: "tax",
    0x87: "txa",
}
"""Every opcode admitted. Missing on purpose, as in the kernel: byte and half-word loads, packet loads, mod, `ret x`."""


@final
@dataclass(frozen=True, slots=True)
class Instruction:
    """One `struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int
    op: str = field(init=False, repr=False, compare=False)
    """The operation and its operand's kind, as in `OPCODES`; empty for a code that is not admitted."""
    name: str = field(init=False, repr=False, compare=False)
    """The operation alone (`jeq`)."""

    def __post_init__(self) -> None:
        op = OPCODES.get(self.code, "")
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "name", op.partition(" ")[0])

    @property
    def branches(self) -> bool:
        """Whether it takes `jt` or `jf`."""
        return self.name in {"jeq", "jgt", "jge", "jset"}

    def targets(self, pc: int) -> tuple[int, ...]:
        """Where control goes from `pc`: none after a return, two (true first) after a branch."""
        if self.name == "ret":
            return ()
        if self.name == "ja":
            return (pc + 1 + self.k,)
        if self.branches:
            return (pc + 1 + self.jt, pc + 1 + self.jf)
        return (pc + 1,)


Program = tuple[Instruction, ...]


def encode(program: Sequence[Instruction]) -> bytes:
    """The bytes that `decode` reads; no check is made, so that tests can write what the kernel refuses."""
    return b"".join(SOCK_FILTER.pack(i.code, i.jt, i.jf, i.k) for i in program)


def decode(raw: bytes) -> Program:
    """Read a filter; raises `BadInputError` for anything that the kernel would not load."""
    if not raw:
        raise BadInputError("the filter is empty; the kernel takes 1 to 4096 instructions")
    if len(raw) % SOCK_FILTER.size:
        raise BadInputError(
            f"the filter is truncated: {len(raw)} bytes is not a multiple of {SOCK_FILTER.size}"
        )
    if len(raw) // SOCK_FILTER.size > MAX_INSTRUCTIONS:
        raise BadInputError(
            f"the filter has {len(raw) // SOCK_FILTER.size} instructions; the kernel takes up to {MAX_INSTRUCTIONS}"
        )
    program = tuple(Instruction(*fields) for fields in SOCK_FILTER.iter_unpack(raw))
    for pc, instruction in enumerate(program):
        if why := _refusal(pc, instruction, len(program)):
            raise BadInputError(f"instruction {pc}: {why}")
    if program[-1].name != "ret":
        raise BadInputError(f"instruction {len(program) - 1}: the last instruction must return")
    _check_scratch(program)
    return program


def _refusal(pc: int, i: Instruction, length: int) -> str | None:
    """Why the kernel refuses this one instruction, or None."""
    if i.code not in OPCODES:
        return f"opcode `0x{i.code:02x}` is not admitted in a seccomp filter"
    if i.op == "ld [k]" and (i.k >= SECCOMP_DATA_SIZE or i.k & 3):
        return f"load from offset {i.k}; seccomp_data is {SECCOMP_DATA_SIZE} bytes, read in aligned words"
    if i.op.endswith("M[k]") and i.k >= SCRATCH_WORDS:
        return f"scratch word {i.k}; there are {SCRATCH_WORDS}"
    if i.op == "div #k" and i.k == 0:
        return "division by the constant zero"
    if i.op in {"lsh #k", "rsh #k"} and i.k >= 32:
        return f"shift by {i.k}; a word has 32 bits"
    if any(target >= length for target in i.targets(pc)):
        return "control leaves the filter's end"
    return None


def _check_scratch(program: Program) -> None:
    """Refuse a load of a scratch word that some path has not stored (`check_load_and_stores`).

    As in the kernel a return counts as a way into the next instruction, which refuses a little too much.
    """
    everything = (1 << SCRATCH_WORDS) - 1
    stored = [everything] * len(program)
    stored[0] = 0
    for pc, i in enumerate(program):
        if i.op in {"ld M[k]", "ldx M[k]"} and not stored[pc] >> i.k & 1:
            raise BadInputError(
                f"instruction {pc}: scratch word {i.k} is read before every path has stored it"
            )
        after = stored[pc] | (1 << i.k if i.name in {"st", "stx"} else 0)
        for target in i.targets(pc) or (pc + 1,):
            if target < len(program):
                stored[target] &= after
