"""One run at a time in one results folder: the folder itself is locked, so no lock file is ever left behind.

    with hold(results, seconds=30, told=print): ...

The kernel gives the lock back whatever becomes of its holder. Who holds it stands in `/proc/locks`.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast import clock

__all__ = ["WAIT_SECONDS", "HeldError", "hold", "holder"]

WAIT_SECONDS = 60.0


class HeldError(OSError):
    """Another run holds the folder and did not finish in time: exit 70."""


@contextlib.contextmanager
def hold(folder: Path, *, seconds: float = WAIT_SECONDS, told: Callable[[str], None]) -> Iterator[None]:
    """Lock `folder`, making it if need be; waits, saying once for whom.

    Raises `HeldError` naming the holder past `seconds`, `OSError` where the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _try(descriptor):
            told(f"`{folder}` is held by {holder(folder)}; waiting up to {seconds:g} s")
            try:
                clock.wait_until(
                    lambda: _try(descriptor), what="the other run's end", seconds=seconds, every=0.05
                )
            except clock.DeadlineExceededError:
                raise HeldError(
                    f"`{folder}` is still held by {holder(folder)} after {seconds:g} s; wait for it, or use "
                    "`--results` with another folder"
                ) from None
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(folder: Path) -> str:
    """The process that holds a folder, by id and command; in words when it cannot be seen from here."""
    found = folder.stat()
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[1] == "FLOCK" and wanted in words:
            return _describe(int(words[4]))
    return "a process that cannot be seen from here"


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}"
    return f"process {pid} (`{b' '.join(words).decode(errors='replace').strip()[-120:]}`)"
