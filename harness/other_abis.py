"""Whether this kernel answers i386 and x32 calls at all: found by making one, by a program of our own."""

import os
import struct
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from holdfast.sandbox.probes.programs import ABIS, write_program

__all__ = ["read_other_abis"]

GETPID = {"i386": 20, "x32": 0x4000_0000 | 39}
SECONDS = 5.0


@lru_cache(maxsize=1)
def read_other_abis() -> dict[str, bool | None]:
    """`ia32_emulation` and `x32`: True, False, or None where it could not be tried."""
    return {"ia32_emulation": _answers("i386"), "x32": _answers("x32")}


def _answers(abi: str) -> bool | None:
    if abi not in ABIS:
        return None
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        path = Path(folder) / "call"
        write_program(path, abi, GETPID[abi], ())
        try:
            told = subprocess.run(
                [os.fspath(path)], stdout=subprocess.PIPE, timeout=SECONDS, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return False if abi == "i386" else None  # ENOEXEC: no 32-bit programs
    return len(told) == 8 and struct.unpack("<q", told)[0] > 0
