"""An append-only file of lines that survives a kill at any byte.

A line is acknowledged when its newline is in the file: one `write` to a descriptor opened for appending.
What follows the last newline was therefore never acknowledged. On opening it is *finished* when only its
newline is missing, else *set aside* into `<name>.torn` and cut off; either way a `Repair` says so.

INVARIANT: the bytes before the last newline are never rewritten.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import final

from holdfast.clock import DeadlineExceededError, wait_until
from holdfast.systems.agentos.errors import StoreError
from holdfast.systems.agentos.files import explain_os_error
from holdfast.systems.agentos.strict_json import parse_line

__all__ = ["Journal", "Line", "Mended", "Repair", "Sync", "iter_lines"]

BLOCK = 1 << 20
LINE_LIMIT = 1 << 20


@final
class Sync(Enum):
    """When a line is forced to the disk. A process's death costs nothing under either."""

    NEVER = "never"
    """The kernel writes it back in its own time: power loss may cost the lines of the last half minute."""
    EACH = "each"
    """`fdatasync` before a line is acknowledged: power loss costs no acknowledged line."""


@final
class Mended(Enum):
    """What was done about a torn last line."""

    FINISHED = "finished"
    SET_ASIDE = "set_aside"


@final
@dataclass(frozen=True, slots=True)
class Repair:
    """A last line without its newline was found."""

    path: Path
    how: Mended
    offset: int
    """Where it began in the log."""
    length: int

    def __str__(self) -> str:
        done = {
            Mended.FINISHED: "only its newline was missing and was added",
            Mended.SET_ASIDE: f"it was moved to `{self.path.name}.torn`",
        }[self.how]
        return f"`{self.path.name}` ended in a torn line of {self.length} bytes at byte {self.offset}: {done}"


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A whole line, without its newline, and where it begins and ends in its file."""

    start: int
    end: int
    content: bytes


@final
class Journal:
    """The one writer of a log file; holds its lock until closed."""

    __slots__ = ("_descriptor", "_size", "_sync", "_torn", "path", "repair")

    def __init__(self, path: Path, *, sync: Sync = Sync.NEVER, patience: float = 10.0) -> None:
        """Open or make `path`, wait up to `patience` seconds for its lock, mend its end."""
        self.path = path
        self._sync = sync
        self._torn = False
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise explain_os_error(f"open the log `{path}`", problem) from None
        try:
            self._lock(patience)
            self.repair = self._mend()
            self._size = os.fstat(self._descriptor).st_size
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """Bytes acknowledged so far."""
        return self._size

    def append(self, line: bytes) -> int:
        """Add one line, newline included; answers the log's new size. Raises `StoreError`, and then the
        log is as it was before."""
        try:
            if self._torn:
                self._cut_back()
            written = os.write(self._descriptor, line)
            if written != len(line):
                self._torn = True
                self._cut_back()
                raise StoreError(
                    f"cannot write `{self.path}`: the disk is full; free some space and try again"
                )
            if self._sync is Sync.EACH:
                os.fdatasync(self._descriptor)
        except OSError as problem:
            raise explain_os_error(f"write `{self.path}`", problem) from None
        self._size += written
        return self._size

    def _cut_back(self) -> None:
        # Before anything else is appended: a line behind half a line would be lost with it.
        os.ftruncate(self._descriptor, self._size)
        self._torn = False

    def close(self) -> None:
        """Give the lock back; what was appended stays."""
        os.close(self._descriptor)

    def _lock(self, patience: float) -> None:
        def taken() -> bool:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait_until(taken, what="the log's lock", seconds=patience)
        except DeadlineExceededError:
            raise StoreError(
                f"the log `{self.path}` is in use by another process; end that one, or use another folder"
            ) from None

    def _mend(self) -> Repair | None:
        size = os.fstat(self._descriptor).st_size
        start = _end_of_whole_lines(self._descriptor, size)
        if start == size:
            return None
        try:
            torn = _read_at(self._descriptor, start, size - start)
            if parse_line(torn) is not None:
                os.write(self._descriptor, b"\n")
                return Repair(self.path, Mended.FINISHED, start, size - start)
            self._set_aside(start, torn)
            os.ftruncate(self._descriptor, start)
        except OSError as problem:
            raise explain_os_error(f"mend the log `{self.path}`", problem) from None
        return Repair(self.path, Mended.SET_ASIDE, start, size - start)

    def _set_aside(self, start: int, torn: bytes) -> None:
        # On the disk before the log is cut: a kill between the two repeats the note, and loses nothing.
        note = json.dumps({"offset": start, "length": len(torn), "hex": torn.hex()}).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(f"{self.path}.torn", flags, 0o600), "ab") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())


def iter_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The whole lines of `path` from byte `start`, which must be where a line begins; a torn last one is
    left out. Needs no lock: whole lines never change. Of a line past 1 MiB only the first MiB is given, so
    that it reads as unreadable and not as memory."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        while content := file.readline(LINE_LIMIT):
            end = start + len(content)
            last = content
            while not last.endswith(b"\n"):
                last = file.readline(LINE_LIMIT)
                if not last:
                    return
                end += len(last)
            yield Line(start, end, content.removesuffix(b"\n"))
            start = end


def _end_of_whole_lines(descriptor: int, size: int) -> int:
    end = size
    while end > 0:
        begin = max(0, end - BLOCK)
        found = _read_at(descriptor, begin, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _read_at(descriptor: int, start: int, length: int) -> bytes:
    parts = []
    while length and (part := os.pread(descriptor, length, start)):
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)
