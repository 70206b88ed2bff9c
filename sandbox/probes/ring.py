"""io_uring by ctypes: one submission on a ring of one entry. Source: include/uapi/linux/io_uring.h."""

import ctypes
import mmap
import os
import struct
from typing import final

from holdfast.sandbox.kernel_calls import syscall

__all__ = ["Ring"]

SETUP, ENTER = 425, 426
"""The same on every architecture."""
GETEVENTS = 1
OFF_CQ_RING, OFF_SQES = 0x800_0000, 0x1000_0000
PARAMS_BYTES, SQE_BYTES, CQE_BYTES, PAGE = 120, 64, 16, 4096
SQ_OFFSETS, CQ_OFFSETS = 40, 80
"""Where `struct io_sqring_offsets` and `struct io_cqring_offsets` lie in the parameters."""


@final
class Ring:
    """A ring for one operation; closes with the process."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(PARAMS_BYTES)
        self.descriptor = syscall(SETUP, 1, params)
        self.cq_head, self.cq_tail, _, _, _, self.cqes = struct.unpack_from("6I", params, CQ_OFFSETS)
        _, self.sq_tail, _, _, _, _, self.array = struct.unpack_from("7I", params, SQ_OFFSETS)
        self.sq = mmap.mmap(self.descriptor, PAGE, mmap.MAP_SHARED, offset=0)
        self.cq = mmap.mmap(self.descriptor, PAGE, mmap.MAP_SHARED, offset=OFF_CQ_RING)
        self.entries = mmap.mmap(self.descriptor, PAGE, mmap.MAP_SHARED, offset=OFF_SQES)

    def submit(
        self,
        operation: int,
        descriptor: int,
        *,
        offset: int = 0,
        address: int = 0,
        length: int = 0,
        flags: int = 0,
    ) -> int:
        """Run one operation to its end; returns its result, raises `OSError` with its errno."""
        entry = struct.pack("<BBHiQQII", operation, 0, 0, descriptor, offset, address, length, flags)
        self.entries[:SQE_BYTES] = entry.ljust(SQE_BYTES, b"\0")
        self.sq[self.array : self.array + 4] = bytes(4)
        self.sq[self.sq_tail : self.sq_tail + 4] = struct.pack("<I", 1)
        syscall(ENTER, self.descriptor, 1, 1, GETEVENTS, 0, 0)
        result = int(struct.unpack_from("<Qi", self.cq, self.cqes)[1])
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result
