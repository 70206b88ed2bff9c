"""The write-once log of decisions: hash-chained lines in segments that turn read-only once closed.

    segment-000000.jsonl   {"seq", "prev", "entry", "hash"}      hash = SHA-256(prev | canonical(seq, entry))

An entry is on file before the decision that it records takes effect. What the chain shows: no line was
changed, dropped from the middle, reordered or slipped in. What it cannot show alone: that the last lines
were not cut off; whoever needs that keeps the head (`Head`) elsewhere and hands it to `verify`. Mode 0444
stops accidents and other users; root is stopped by nothing but the chain.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

__all__ = ["GENESIS", "BrokenLogError", "Head", "WormLog", "verify_log"]

GENESIS = "0" * 64
_NAME = re.compile(r"segment-(\d{6})\.jsonl")
_CLOSED_MODE = 0o444


@final
class BrokenLogError(Exception):
    """The log is not what was written; names the segment and the line."""


@final
@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends: how many entries, and the last hash."""

    entries: int
    hash: str


class WormLog:
    """One writer's log under `folder`; opening it checks what is there and goes on after it."""

    def __init__(self, folder: Path, *, segment_entries: int = 10_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_entries = segment_entries
        self.head = verify_log(folder, open_tail=True)
        names = _segments(folder)
        self._number = int(_NAME.fullmatch(names[-1].name)[1]) if names else 0  # type: ignore[index]  # it matched
        self._lines = sum(1 for _ in _lines(names[-1])) if names else 0
        self._descriptor = -1
        if names and not _is_writable(names[-1]):
            self._number, self._lines = self._number + 1, 0
        self._open()

    def append(self, entry: Mapping[str, Any]) -> Head:
        """Write one entry; it is with the kernel when this returns, so it outlives the process."""
        line, digest = _seal(self.head, entry)
        # One write(2) per line: a reader, and a process that takes over, see a whole line or none.
        written = os.write(self._descriptor, line)
        if written != len(line):
            raise OSError(f"the log took {written} of {len(line)} bytes; is the disk full")
        self.head = Head(self.head.entries + 1, digest)
        self._lines += 1
        if self._lines >= self._segment_entries:
            self._roll()
        return self.head

    def close(self) -> None:
        """Stop writing. The last segment stays open for the next process; `seal` closes it for good."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def seal(self) -> None:
        """Close the current segment for good, if it has a line."""
        if self._lines:
            self._roll()

    def _path(self) -> Path:
        return self._folder / f"segment-{self._number:06d}.jsonl"

    def _open(self) -> None:
        self._descriptor = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _roll(self) -> None:
        os.fsync(self._descriptor)
        os.fchmod(self._descriptor, _CLOSED_MODE)
        os.close(self._descriptor)
        self._number, self._lines = self._number + 1, 0
        self._open()


def verify_log(folder: Path, *, expected: Head | None = None, open_tail: bool = False) -> Head:
    """Walk the whole chain; `BrokenLogError` at the first thing that is not as written.

    `open_tail` lets the last segment be writable, as a log in use has it. `expected` is a head kept elsewhere:
    the chain must pass through it.
    """
    head, passed = Head(0, GENESIS), expected is None or expected == Head(0, GENESIS)
    paths = _segments(folder)
    for number, path in enumerate(paths):
        if path.name != f"segment-{number:06d}.jsonl":
            raise BrokenLogError(f"segment {number} is missing before `{path.name}`")
        if _is_writable(path) and not (open_tail and number == len(paths) - 1):
            raise BrokenLogError(f"`{path.name}` is closed but its mode is not 0444")
        for line_number, line in enumerate(_lines(path), 1):
            head = _follow(head, line, f"`{path.name}` line {line_number}")
            passed = passed or head == expected
    if not passed:
        raise BrokenLogError(f"the chain of {head.entries} entries does not pass through the expected head")
    return head


def iter_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries in order, unchecked; `verify_log` checks."""
    for path in _segments(folder):
        for line in _lines(path):
            yield json.loads(line)["entry"]


def _seal(head: Head, entry: Mapping[str, Any]) -> tuple[bytes, str]:
    digest = _digest(head, entry)
    record = {"seq": head.entries, "prev": head.hash, "entry": entry, "hash": digest}
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n", digest


def _digest(head: Head, entry: Mapping[str, Any]) -> str:
    body = json.dumps([head.entries, entry], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{head.hash}|{body}".encode()).hexdigest()


def _follow(head: Head, line: bytes, where: str) -> Head:
    try:
        record = json.loads(line)
        if not line.endswith(b"\n") or _seal(head, record["entry"])[0] != line:
            raise BrokenLogError(f"{where} does not follow from the line before it")
    except (ValueError, KeyError, TypeError):
        raise BrokenLogError(f"{where} is not an entry") from None
    return Head(head.entries + 1, record["hash"])


def _segments(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _is_writable(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o222)
