"""The ways into the kernel that a filter tells apart, and what each call's number is there.

A kernel for x86-64 answers three: its own, i386 by `int 0x80`, and x32, which carries x86-64's
architecture token with bit 30 set in the number. A filter that forgets one of them is open through it.
"""

import csv
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import final

from holdfast.sandbox.refusal import BadInputError

__all__ = ["UNFILTERED", "Abi", "host_abis", "number_of", "parse_abis", "syscall_name", "syscall_table"]

X32_BIT = 0x4000_0000
NUMBERS = 1024
"""Numbers asked about where any call will do; the highest in use is below 550."""


@final
@dataclass(frozen=True, slots=True)
class _Facts:
    arch: int
    """AUDIT_ARCH_*, include/uapi/linux/audit.h."""
    first: int
    """Added to a number of the table."""
    narrow: bool
    """Whether the kernel reads only the low 32 bits of each argument."""


@final
class Abi(Enum):
    """One calling convention of a kernel."""

    X86_64 = "x86_64"
    I386 = "i386"
    X32 = "x32"
    AARCH64 = "aarch64"

    @property
    def arch(self) -> int:
        """The token in `seccomp_data.arch`."""
        return _FACTS[self].arch

    @property
    def numbers(self) -> range:
        """Every number that can mean a call."""
        return range(_FACTS[self].first, _FACTS[self].first + NUMBERS)

    @property
    def argument_mask(self) -> int:
        """The bits of an argument that the kernel reads at most."""
        return 0xFFFF_FFFF if _FACTS[self].narrow else 0xFFFF_FFFF_FFFF_FFFF


_FACTS = {
    Abi.X86_64: _Facts(0xC000_003E, 0, narrow=False),
    Abi.I386: _Facts(0x4000_0003, 0, narrow=True),
    Abi.X32: _Facts(0xC000_003E, X32_BIT, narrow=False),
    Abi.AARCH64: _Facts(0xC000_00B7, 0, narrow=False),
}
UNFILTERED = frozenset({(Abi.X86_64, 335), (Abi.X86_64, 336)})
"""uretprobe and uprobe: since Linux 6.14 the kernel runs them past every filter, as parts of its own trampoline."""


def host_abis(machine: str | None = None) -> tuple[Abi, ...]:
    """The ABIs that a kernel of this machine may answer; `machine` as `uname -m` gives it."""
    match machine or platform.machine():
        case "x86_64":
            return (Abi.X86_64, Abi.I386, Abi.X32)
        case "aarch64":
            return (Abi.AARCH64,)
        case other:
            raise BadInputError(
                f"no system-call table for machine `{other}`", hint="choose the ABIs with --abi"
            )


def parse_abis(text: str) -> tuple[Abi, ...]:
    """`"x86_64,i386"` in its order, without repeats; raises `BadInputError`."""
    return tuple(dict.fromkeys(_parse_abi(word.strip()) for word in text.split(",")))


def _parse_abi(word: str) -> Abi:
    try:
        return Abi(word)
    except ValueError:
        known = ", ".join(f"`{abi.value}`" for abi in Abi)
        raise BadInputError(f"unknown ABI `{word}`", hint=f"one of {known}") from None


@cache
def syscall_table() -> Mapping[str, Mapping[Abi, int]]:
    """Every call's number where it exists, x32's with its bit set.

    `syscalls.csv` was read off the kernel's headers of Linux 6.1, with the calls up to 6.18 added from
    `syscall_64.tbl`, `syscall_32.tbl` and the generic table; a test holds it against the headers here.
    """
    with (Path(__file__).parent / "syscalls.csv").open(newline="", encoding="ascii") as file:
        return {
            row["name"]: {abi: int(row[abi.value]) + abi.numbers[0] for abi in Abi if row[abi.value]}
            for row in csv.DictReader(file)
        }


def number_of(name: str, abi: Abi) -> int | None:
    """The call's number, None where the ABI lacks it; raises `BadInputError` for a name that no ABI has."""
    try:
        return syscall_table()[name].get(abi)
    except KeyError:
        raise BadInputError(
            f"unknown system call `{name}`", hint="names are as in `man 2 syscalls`"
        ) from None


def syscall_name(abi: Abi, number: int) -> str:
    """The name of a number, or the number itself in hexadecimal."""
    return _names(abi).get(number, f"0x{number:x}")


@cache
def _names(abi: Abi) -> Mapping[int, str]:
    return {numbers[abi]: name for name, numbers in syscall_table().items() if abi in numbers}
