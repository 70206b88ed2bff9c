"""Filters for tests: compiled by libseccomp from a few words, or written instruction by instruction.

compiled("allow", ("errno 1", "ioctl", eq(1, 0x5412)))      a policy, rule by rule
program("ld [0]", "jeq 165 1 0", ...)                       raw instructions
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

from holdfast.sandbox.bpf.action import ALLOW, ERRNO
from holdfast.sandbox.bpf.cage import obstacle
from holdfast.sandbox.bpf.instruction import OPCODES, Instruction, encode

DOCKER = Path(__file__).parent / "filters" / "docker-20.10.24.bpf"
CODES = {op: code for code, op in OPCODES.items()}
EPERM = ERRNO | 1
ALLOWED, DENIED = f"ret #k {ALLOW}", f"ret #k {EPERM}"

CAP_SYS_ADMIN = 21
CAPABILITIES = next(
    int(line.split()[1], 16)
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    if line.startswith("CapEff:")
)
PRIVILEGED = bool(CAPABILITIES >> CAP_SYS_ADMIN & 1)

privileged = pytest.mark.skipif(not PRIVILEGED, reason="needs CAP_SYS_ADMIN, as ptrace(2) asks for filters")
asks_the_kernel = pytest.mark.skipif(obstacle() is not None, reason=f"cannot ask the kernel: {obstacle()}")


def act(word: str) -> int:
    """libseccomp's number for `allow`, `kill`, `trap`, `log`, `errno N`, `trace N`."""
    name, _, number = word.partition(" ")
    match name:
        case "errno":
            return int(pyseccomp.ERRNO(int(number)))
        case "trace":
            return int(pyseccomp.TRACE(int(number)))
        case _:
            return int(getattr(pyseccomp, {"kill": "KILL_PROCESS"}.get(name, name.upper())))


def compare(index: int, operator: str, value: int, second: int = 0) -> Any:
    """One comparison of an argument (`EQ`, `NE`, `MASKED_EQ`, ...)."""
    return pyseccomp.Arg(index, getattr(pyseccomp, operator), value, second)


def compiled(
    default: str,
    *rules: tuple[Any, ...],
    arches: Sequence[str] = (),
    late: Sequence[str] = (),
    optimize: int = 1,
) -> bytes:
    """A policy's bytes; `late` architectures are added after the rules, as one should never do."""
    policy = pyseccomp.SyscallFilter(act(default))
    policy.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, optimize)
    for arch in arches:
        policy.add_arch(getattr(pyseccomp.Arch, arch))
    for word, name, *comparisons in rules:
        policy.add_rule(act(word), name, *comparisons)
    for arch in late:
        policy.add_arch(getattr(pyseccomp.Arch, arch))
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        policy.export_bpf(file)
        file.seek(0)
        return file.read()


def instruction(line: str) -> Instruction:
    """`"jeq #k 165 1 0"`, `"ld [k] 4"`, `"ret #k 0"`: operation, k, then jumps."""
    words = line.split()
    op = " ".join(words[:2]) if " ".join(words[:2]) in CODES else words[0]
    numbers = [int(word, 0) for word in words[len(op.split()) :]]
    k, jt, jf = (*numbers, 0, 0, 0)[:3]
    return Instruction(CODES[op], jt, jf, k)


def program(*lines: str) -> bytes:
    """Raw bytes, checked by nobody."""
    return encode([instruction(line) for line in lines])
