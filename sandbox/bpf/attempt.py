"""One way to try something: a call, and what its arguments must be for it to count.

ioctl, arg1 & 0xffffffff == 0x5412        the kernel reads the request as an `unsigned int`, so the
                                          high half is free: that is where 64-bit rules get bypassed
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.bpf.abi import Abi, number_of
from holdfast.sandbox.bpf.call import Call

__all__ = ["Attempt", "Bits", "Question"]


@final
@dataclass(frozen=True, slots=True)
class Bits:
    """A condition on one argument: its bits under `mask` are (or, with `differ`, are not) `value`."""

    index: int
    mask: int
    value: int
    differ: bool = False

    def narrowed(self, abi: Abi) -> "Bits":
        """The same condition on the bits that this ABI's kernel reads."""
        mask = self.mask & abi.argument_mask
        return Bits(self.index, mask, self.value & mask, self.differ)

    def holds_for(self, args: tuple[int, ...]) -> bool:
        """Whether these arguments meet it."""
        return (args[self.index] & self.mask == self.value) is not self.differ

    def __str__(self) -> str:
        return f"arg{self.index} & 0x{self.mask:x} {'!=' if self.differ else '=='} 0x{self.value:x}"


@final
@dataclass(frozen=True, slots=True)
class Attempt:
    """A call by name, or any call at all when `name` is empty, with conditions that must all hold."""

    name: str = ""
    bits: tuple[Bits, ...] = ()
    only: Abi | None = None
    """The one ABI that this attempt is about; None for all."""

    def questions(self, abis: tuple[Abi, ...]) -> Iterator["Question"]:
        """This attempt in each ABI that has it."""
        for abi in abis:
            if self.only not in {None, abi}:
                continue
            number = number_of(self.name, abi) if self.name else None
            if not self.name or number is not None:
                yield Question(abi, number, tuple(b.narrowed(abi) for b in self.bits), self.name)


@final
@dataclass(frozen=True, slots=True)
class Question:
    """A set of calls in one ABI: can any of them pass?"""

    abi: Abi
    number: int | None
    """None: any of the ABI's numbers."""
    bits: tuple[Bits, ...]
    name: str

    def holds_for(self, call: Call) -> bool:
        """Whether a call belongs to the set."""
        numbers = self.abi.numbers if self.number is None else (self.number,)
        return (
            call.arch == self.abi.arch
            and call.nr in numbers
            and all(b.holds_for(call.args) for b in self.bits)
        )

    def __str__(self) -> str:
        return (
            f"{self.abi.value} {self.name or 'any call'}({', '.join(map(str, self.bits)) or 'any arguments'})"
        )
