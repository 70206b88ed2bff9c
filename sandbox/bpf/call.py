"""One system call as a filter sees it: `struct seccomp_data`, sixteen little-endian 32-bit words."""

import struct
from dataclasses import dataclass
from typing import final

__all__ = ["Call"]

LAYOUT = struct.Struct("<IIQ6Q")
WORDS = struct.Struct("<16I")
WORD = 0xFFFF_FFFF


@final
@dataclass(frozen=True, slots=True)
class Call:
    """The input of every filter; the numbers are unsigned, as they lie in memory."""

    arch: int
    """AUDIT_ARCH_*; x32 calls carry x86-64's."""
    nr: int
    args: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    ip: int = 0

    @property
    def words(self) -> tuple[int, ...]:
        """What a load of offset `4 * i` reads: 0 nr, 1 arch, 2-3 the instruction pointer, then the arguments."""
        return WORDS.unpack(LAYOUT.pack(self.nr, self.arch, self.ip, *self.args))

    @classmethod
    def from_words(cls, words: tuple[int, ...]) -> "Call":
        """The inverse of `words`."""
        nr, arch, ip, *args = LAYOUT.unpack(WORDS.pack(*words))
        first, second, third, fourth, fifth, sixth = args
        return cls(arch, nr, (first, second, third, fourth, fifth, sixth), ip)
