"""An archive read block by block, as far as it goes.

The standard library's reader raises at a torn end and takes the block that it was in along; here what was
unpacked before is kept, and the tear is told.
"""

import zlib
from typing import BinaryIO, final

__all__ = ["Unpacked"]

PACKED = 1 << 16


@final
class Unpacked:
    """The unpacked bytes of a gzip file of one or more members."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._engine = zlib.decompressobj(wbits=31)
        self.torn = False
        """Whether it ended before its end, or stopped making sense."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, so that a small archive of much does not become much memory."""
        while not self.torn:
            packed = self._next_packed()
            if not packed:
                return b""
            try:
                unpacked = self._engine.decompress(packed, size)
            except zlib.error:
                self.torn = True
                return b""
            if unpacked:
                return unpacked
        return b""

    def _next_packed(self) -> bytes:
        engine = self._engine
        if engine.eof:
            more = engine.unused_data or self._file.read(PACKED)
            self._engine = zlib.decompressobj(wbits=31)
            return more
        more = engine.unconsumed_tail or self._file.read(PACKED)
        # Nothing more to read and the member not at its end.
        self.torn = not more
        return more
