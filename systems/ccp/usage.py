"""The usage log: one JSON line a request, no bodies, no secrets (schema `docs/schemas/ccp-usage-1.json`).

The line is written by one `write` before the last byte of the answer leaves, so a request whose last byte
a client has got is in the log, once, whatever happens to this process afterwards.

Several processes may share a folder. A writer holds the folder's lock shared, for the few microseconds of
its write; who rotates holds it alone, so no line ever goes to a file that is being archived:

    usage.jsonl --rename, alone--> archive/usage-STAMP-N.jsonl --gzip, in a thread--> ...jsonl.gz --prune-->

A kill at any point leaves whole lines, or one torn line at the end of `usage.jsonl` whose request never
got its last byte; the next start cuts it off. A plain archive left behind is compressed at the next start.
"""

import fcntl
import gzip
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import final

import msgspec

from holdfast.clock import monotonic, utc_now
from holdfast.systems.ccp.faults import ConfigError

__all__ = ["Rotation", "UsageLine", "UsageLog"]


class UsageLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. Fields are added, never renamed."""

    schema: str = "ccp.usage/1"
    ts: datetime
    """When the request was whole, UTC; written as RFC 3339."""
    request_id: str
    upstream_request_id: str | None = None
    session_id: str | None = None
    """`x-claude-code-session-id`, for attribution."""
    method: str
    path: str
    """One of the paths that are served; empty for any other, which is the client's own text."""
    model: str | None
    lane: str | None
    status: int | None
    """What the client got; None when it left before any answer."""
    outcome: str
    """`relayed`, `refused`, `upstream_failed`, `aborted` (mid-stream) or `client_left`."""
    error: str | None
    stream: bool
    request_bytes: int
    response_bytes: int
    sha256_upstream: str | None
    """Of the answer's body as the upstream sent it, without transfer coding."""
    sha256_downstream: str | None
    """Of the answer's body as it was handed to the client's socket."""
    first_byte_ms: float | None
    duration_ms: float
    retried: bool
    grammar: str | None
    events: int
    stop_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_creation_input_tokens: int | None
    cache_read_input_tokens: int | None
    policy: str
    """The policy's digest."""


class _Stamp(msgspec.Struct):
    ts: datetime


@final
@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is put away, and how many are kept."""

    max_bytes: int = 64 * 1024 * 1024
    max_seconds: float = 24 * 3600.0
    keep: int = 14


@final
class UsageLog:
    """`usage.jsonl` in a folder, appended to by whole lines."""

    def __init__(self, folder: Path, rotation: Rotation | None = None) -> None:
        self.path = folder / "usage.jsonl"
        self.archive = folder / "archive"
        self._name = str(self.path)
        self.lost = 0
        """Lines that could not be written."""
        self.failing = False
        """The last write failed."""
        self.cut = 0
        """Bytes of a torn last line that an earlier kill left and this start cut off."""
        self._rotation = rotation or Rotation()
        self._encoder = msgspec.json.Encoder()
        self._fd = -1
        self._inode = 0
        self._old_at = 0.0
        self._threads: list[threading.Thread] = []
        try:
            self.archive.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "usage.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._locked(fcntl.LOCK_EX):
                self._open()
                self.cut = _cut_torn_line(self.path)
        except OSError as error:
            raise ConfigError(
                f"the log folder `{folder}` cannot be written ({error.strerror}); give another by --log-dir"
            ) from error
        if any(self.archive.glob("usage-*.jsonl")):
            self._tidy_in_background()

    def write(self, *lines: UsageLine) -> None:
        """Append lines by one `write`; what cannot be written is counted, and the requests go on."""
        data = b"".join([self._encoder.encode(line) + b"\n" for line in lines])
        lock = self._lock
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            try:
                due = self._is_due(self._follow(), len(data))
                written = 0 if due else os.write(self._fd, data)
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
            if due:
                self._rotate(len(data))
                with self._locked(fcntl.LOCK_SH):
                    self._follow()
                    written = os.write(self._fd, data)
            if written != len(data):
                self._blot_out(written)
            self.failing = written != len(data)
        except OSError:
            self.failing = True
        if self.failing:
            self.lost += len(lines)

    def close(self) -> None:
        """Wait for archives under way, and let the files go."""
        for thread in self._threads:
            thread.join()
        os.close(self._fd)
        os.close(self._lock)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.flock(self._lock, how)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(self._fd).st_ino
        now = utc_now()
        age = (now - (_first_stamp(self.path) or now)).total_seconds()
        self._old_at = monotonic() + self._rotation.max_seconds - age

    def _follow(self) -> os.stat_result:
        """The live file's state; reopened when another process has rotated, or somebody has removed it."""
        state: os.stat_result | None
        try:
            state = os.stat(self._name)  # noqa: PTH116 - once a request; Path.stat costs twice that
        except FileNotFoundError:
            state = None
        if state is None or state.st_ino != self._inode or self._fd < 0:
            self._open()
            state = os.fstat(self._fd)
        return state

    def _is_due(self, state: os.stat_result, size: int) -> bool:
        """Whether the live file is to be put away before `size` more bytes go into it."""
        if state.st_size == 0:
            return False
        return state.st_size + size > self._rotation.max_bytes or monotonic() > self._old_at

    def _rotate(self, size: int) -> None:
        with self._locked(fcntl.LOCK_EX):
            if not self._is_due(self._follow(), size):
                return  # another process was quicker
            self.archive.mkdir(parents=True, exist_ok=True)
            self.path.rename(_free_name(self.archive))
            self._open()
        self._tidy_in_background()

    def _blot_out(self, written: int) -> None:
        """A line was cut short by a full disk: take the fragment away, or make it blank, which JSON ignores."""
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        with self._locked(fcntl.LOCK_EX), self.path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size == end:
                os.ftruncate(file.fileno(), end - written)
            else:
                os.pwrite(file.fileno(), b" " * written, end - written)

    def _tidy_in_background(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=_tidy, args=(self.archive, self._rotation.keep), name="ccp-archive")
        thread.start()
        self._threads.append(thread)


def _cut_torn_line(path: Path) -> int:
    """Truncate to the last newline; answers how many bytes went."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        at = size
        while at > 0:
            start = max(0, at - 65536)
            file.seek(start)
            newline = file.read(at - start).rfind(b"\n")
            if newline >= 0:
                at = start + newline + 1
                break
            at = start
        if at < size:
            file.truncate(at)
        return size - at


def _first_stamp(path: Path) -> datetime | None:
    with path.open("rb") as file:
        line = file.readline(8192)
    try:
        return msgspec.json.decode(line, type=_Stamp).ts
    except msgspec.DecodeError:
        return None


def _free_name(archive: Path) -> Path:
    stamp = utc_now().strftime("%Y%m%dT%H%M%SZ")
    for number in range(100_000):
        name = archive / f"usage-{stamp}-{number:05d}.jsonl"
        if not name.exists() and not name.with_suffix(".jsonl.gz").exists():
            return name
    raise OSError("no free archive name")


def _tidy(archive: Path, keep: int) -> None:
    """Compress plain archives and drop the oldest past `keep`; what cannot be done now waits for next time."""
    for plain in sorted(archive.glob("usage-*.jsonl")):
        try:
            _compress(plain)
        except OSError:
            continue  # a full disk: the plain file stays, and nothing is lost
    for old in sorted(archive.glob("usage-*.jsonl.gz"))[: -keep or None]:
        old.unlink(missing_ok=True)


def _compress(plain: Path) -> None:
    try:
        source = plain.open("rb")
    except FileNotFoundError:
        return  # another process has done it
    temporary = plain.with_suffix(".jsonl.tmp")
    with source:
        try:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process is at it
        if not plain.exists():
            return
        try:
            with temporary.open("wb") as raw:
                with gzip.GzipFile(filename=plain.name, mode="wb", fileobj=raw) as packed:
                    shutil.copyfileobj(source, packed)
                raw.flush()
                os.fsync(raw.fileno())
            temporary.replace(plain.with_suffix(".jsonl.gz"))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        plain.unlink()
