"""A filter as a person reads it: one line an instruction, jumps with their targets, words by their names.

0000  ld    arch
0001  jeq   #0xc000003e          -> 2 else 8
0002  ld    nr
0003  jeq   #165 mount           -> 7 else 4
0007  ret   ERRNO(1)
"""

from collections.abc import Iterator

from holdfast.sandbox.bpf.abi import Abi, syscall_name
from holdfast.sandbox.bpf.action import describe
from holdfast.sandbox.bpf.instruction import Instruction, Program

__all__ = ["disassemble"]

WORDS = (
    "nr",
    "arch",
    "instruction_pointer.low",
    "instruction_pointer.high",
    *(f"args[{i}].{half}" for i in range(6) for half in ("low", "high")),
)
ARCH_NAMES = {abi.arch: abi.value for abi in (Abi.X86_64, Abi.I386, Abi.AARCH64)}


def disassemble(program: Program) -> Iterator[str]:
    """The lines; a number is named where every way to it has loaded `nr`, under the architecture last tested."""
    loaded = _loaded(program)
    arches = _arches(program, loaded)
    for pc, instruction in enumerate(program):
        operand = _operand(instruction, loaded[pc], arches[pc])
        line = f"{pc:04}  {instruction.name:<5} {operand}"
        yield f"{line:<36}{_jump(pc, instruction)}".rstrip()


def _operand(i: Instruction, loaded: str | None, abi: Abi | None) -> str:
    kind = i.op.partition(" ")[2]
    match kind:
        case "[k]":
            return WORDS[i.k >> 2]
        case "M[k]":
            return f"M[{i.k}]"
        case "#k" if i.name == "ret":
            return describe(i.k)
        case "#k" if loaded == "arch" and i.name == "jeq":
            return f"#0x{i.k:08x} {ARCH_NAMES.get(i.k, '')}".rstrip()
        case "#k" if loaded == "nr" and i.name == "jeq" and abi:
            return f"#{i.k} {syscall_name(abi, i.k)}"
        case "#k":
            return f"#0x{i.k:x}"
        case _:
            return kind


def _jump(pc: int, i: Instruction) -> str:
    match i.targets(pc):
        case (true, false):
            return f"-> {true} else {false}"
        case (target,) if i.name == "ja":
            return f"-> {target}"
        case _:
            return ""


def _loaded(program: Program) -> list[str | None]:
    """Which word is in the accumulator at each instruction, None where ways differ or it was computed."""
    known: list[set[str | None]] = [set() for _ in program]
    known[0].add(None)
    for pc, i in enumerate(program):
        here = next(iter(known[pc])) if len(known[pc]) == 1 else None
        if i.op == "ld [k]":
            here = WORDS[i.k >> 2]
        elif not (i.branches or i.name in {"ja", "st", "stx", "tax", "ldx"}):
            here = None
        for target in i.targets(pc):
            known[target].add(here)
    return [next(iter(words)) if len(words) == 1 else None for words in known]


def _arches(program: Program, loaded: list[str | None]) -> list[Abi | None]:
    """Under which architecture each instruction runs, None where several lead to it."""
    known: list[set[Abi | None]] = [set() for _ in program]
    known[0].add(None)
    by_arch = {abi.arch: abi for abi in (Abi.X86_64, Abi.I386, Abi.AARCH64)}
    for pc, i in enumerate(program):
        here = next(iter(known[pc])) if len(known[pc]) == 1 else None
        for position, target in enumerate(i.targets(pc)):
            tested = loaded[pc] == "arch" and i.name == "jeq" and position == 0
            known[target].add(by_arch.get(i.k, here) if tested else here)
    return [next(iter(abis)) if len(abis) == 1 else None for abis in known]
