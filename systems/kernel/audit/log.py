"""The writer: one per log, for any number of threads.

`append` gives an event its id and puts it into the buffer; a security event returns only when it is on
disk. Whoever flushes takes all that is waiting, so threads that wait together share one commit. The buffer
and what is being committed are at most 100 entries together; when they are, `append` commits first.

A failed commit ends the log's service: nothing more is accepted until it is opened anew, which declares the
ids that were lost. So an operation that was told "not logged" is never followed by one that was.
"""

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

from holdfast.clock import monotonic, utc_now
from holdfast.records.checkpoint import Signer
from holdfast.records.merkle import Frontier
from holdfast.systems.kernel.audit.encoding import GENESIS, VERSION, encode_body, entry_hash
from holdfast.systems.kernel.audit.event import SECURITY, Event, EventType
from holdfast.systems.kernel.audit.seal import HASH_BYTES, append_witness, open_seal, seal
from holdfast.systems.kernel.audit.store import AuditError, Synchronous, open_writer
from holdfast.systems.kernel.audit.verify import MAX_BUFFER, Report, Verdict, verify_connection

__all__ = ["AuditLog", "LogOptions"]

SOUND: Final = frozenset({Verdict.OK, Verdict.UNSEALED_TAIL, Verdict.BREAK_RECORDED, Verdict.EMPTY})
DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
KERNEL: Final = "kernel"


@final
@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a log is kept; the defaults are the ones that are promised."""

    witness: Path | None = None
    """A file elsewhere that every checkpoint is added to."""
    flush_seconds: float = 0.5
    flush_at: int = MAX_BUFFER
    """How many waiting entries are committed at once; at most 100."""
    seal_every: int = 1000
    """Entries from one checkpoint to the next; one is made on closing too."""
    wal_commits: int = 1000
    wal_seconds: float = 60.0
    wal_bytes: int = 16 << 20
    snapshot_seconds: float = 3600.0
    busy_seconds: float = 5.0
    security: frozenset[EventType] = SECURITY
    synchronous: Synchronous = Synchronous.FULL
    """`NORMAL` is what a planted fault uses."""


@final
class AuditLog:
    """Open it, append, close it. Raises `AuditError` whenever an event could not be taken."""

    def __init__(
        self,
        path: Path,
        signer: Signer,
        options: LogOptions | None = None,
        *,
        origin_note: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens or makes the log, checks it from its last checkpoint on, and records the start.

        `origin_note` is added to the start's metadata (a recovery says there what it did).
        """
        self.path = path
        self.options = options or LogOptions()
        self._signer = signer
        self._mutex = threading.Lock()
        self._writer = threading.Lock()
        self._pending: list[tuple[int, str]] = []
        self._unsaved = 0
        self._failed: str | None = None
        self._stop = threading.Event()
        self._lock_fd = self._exclusive()
        try:
            self._connect(dict(origin_note or {}))
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._ticker = threading.Thread(target=self._tick, name="audit-flush", daemon=True)
        self._ticker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- opening ------------------------------------------------------------------------------------

    def _exclusive(self) -> int:
        try:
            fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditError(f"`{self.path}` cannot be opened for writing: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise AuditError(f"`{self.path}` is written by another process; stop that one first") from None
        return fd

    def _connect(self, note: dict[str, Any]) -> None:
        options = self.options
        try:
            self._connection = open_writer(
                self.path, synchronous=options.synchronous, busy_seconds=options.busy_seconds
            )
        except sqlite3.Error as error:
            if error.sqlite_errorcode in DAMAGE:
                raise DamagedLogError(self.path, Report(Verdict.UNREADABLE, str(error), 0, 0, 0)) from None
            raise AuditError(f"`{self.path}` cannot be opened for writing: {error}") from None
        try:
            self._refuse_damage()
            clean = self._resume()
            self._wal_commits, self._wal_since = 0, monotonic()
            if not clean:
                note["lost"] = [self._last_id + 1, self._last_id + MAX_BUFFER]
                self._last_id += MAX_BUFFER
            self._committed_id = self._last_id
            self.append(Event(EventType.KERNEL_START, KERNEL, metadata=note))
            self.flush()
        except BaseException:
            self._connection.close()
            raise

    def _refuse_damage(self) -> None:
        report = verify_connection(self._connection, self._signer.verifier, incremental=True)
        if report.verdict not in SOUND:
            raise DamagedLogError(self.path, report)

    def _resume(self) -> bool:
        """Take up the tree and the chain; whether the last run closed the log."""
        execute = self._connection.execute
        self._frontier, self._head, self._last_id = Frontier(), GENESIS, 0
        start = execute(
            "SELECT note, peaks FROM (SELECT * FROM checkpoints UNION SELECT * FROM bases) ORDER BY size DESC LIMIT 1"
        ).fetchone()
        if start is not None:
            sealed = open_seal(start[0], self._signer.verifier)
            cut = [start[1][at : at + HASH_BYTES] for at in range(0, len(start[1]), HASH_BYTES)]
            self._frontier = Frontier(sealed.size, cut)
            self._head, self._last_id = sealed.head, sealed.last_id
        self._sealed = self._frontier.size
        for entry_id, digest in execute(
            "SELECT id, hash FROM entries WHERE id > ? ORDER BY id", (self._last_id,)
        ):
            self._frontier.append(digest)
            self._head, self._last_id = digest, entry_id
        last = execute("SELECT body FROM entries ORDER BY id DESC LIMIT 1").fetchone()
        if last is None:
            return start is None
        return bool(json.loads(last[0])["event"] == EventType.KERNEL_SHUTDOWN.value)

    # -- writing ------------------------------------------------------------------------------------

    def append(self, event: Event) -> int:
        """Take one event; its id. A security event is on disk when this returns."""
        try:
            body = encode_body(event, utc_now().isoformat())
            body.encode()
        except (ValueError, TypeError) as error:
            raise AuditError(f"the event cannot be written as canonical JSON: {error}") from None
        entry_id = self._enter(body)
        if event.type in self.options.security:
            self._commit_up_to(entry_id)
        return entry_id

    def _enter(self, body: str) -> int:
        while True:
            with self._mutex:
                if self._failed is not None:
                    raise AuditError(self._failed)
                if self._unsaved < self.options.flush_at:
                    self._last_id = entry_id = self._last_id + 1
                    self._pending.append((entry_id, body))
                    self._unsaved += 1
                    return entry_id
            self.flush()

    def _commit_up_to(self, entry_id: int) -> None:
        with self._writer:
            if self._committed_id < entry_id:
                self._flush()

    @property
    def waiting(self) -> int:
        """How many entries are not on disk yet; at most 100."""
        return self._unsaved

    def flush(self) -> None:
        """Commit all that is waiting; raises `AuditError` when it is not on disk afterwards."""
        with self._writer:
            self._flush()

    def _flush(self) -> None:
        with self._mutex:
            if self._failed is not None:
                raise AuditError(self._failed)
            batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            note = self._write(batch)
        except (sqlite3.Error, OSError) as error:
            with self._mutex:
                self._failed = (
                    f"`{self.path}` could not be written ({error}); mend that and open the log anew"
                )
            raise AuditError(self._failed) from None
        self._committed_id = batch[-1][0]
        with self._mutex:
            self._unsaved -= len(batch)
        if note is not None:
            self._tell_witness(note)
        self._wal_commits += 1
        if self._wal_commits >= self.options.wal_commits:
            self._checkpoint_wal()

    def _write(self, batch: list[tuple[int, str]]) -> str | None:
        """One transaction: the entries, and a checkpoint when one is due."""
        head, frontier = self._head, self._frontier
        rows = []
        for entry_id, body in batch:
            previous, head = head, entry_hash(entry_id, VERSION, body, head)
            frontier.append(head)
            rows.append((entry_id, VERSION, body, previous, head))
        self._head = head
        note = None
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
            if frontier.size - self._sealed >= self.options.seal_every:
                note = self._seal(batch[-1][0])
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return note

    def _seal(self, last_id: int, *marks: str) -> str:
        note = seal(self._signer, self._frontier, self._head, last_id, *marks)
        peaks = b"".join(self._frontier.peaks)
        self._connection.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", (self._frontier.size, note, peaks)
        )
        self._sealed = self._frontier.size
        return note

    def seal_now(self, *marks: str) -> str:
        """Commit what is waiting and cover it by a checkpoint; the note."""
        with self._writer:
            self._flush()
            try:
                note = self._seal(self._committed_id, *marks)
            except sqlite3.Error as error:
                raise AuditError(f"`{self.path}` could not be sealed: {error}") from None
            self._tell_witness(note)
            return note

    def _tell_witness(self, note: str) -> None:
        if self.options.witness is None:
            return
        try:
            append_witness(self.options.witness, note)
        except OSError as error:
            raise AuditError(
                f"witness `{self.options.witness}` cannot be written: {error.strerror}"
            ) from None

    # -- keeping ------------------------------------------------------------------------------------

    def remember_policy(self, digest: str, text: str) -> None:
        """Keep a policy's text under its digest, so that its decisions can be made again."""
        with self._writer:
            try:
                self._connection.execute("INSERT OR IGNORE INTO policies VALUES (?, ?)", (digest, text))
            except sqlite3.Error as error:
                raise AuditError(f"`{self.path}` could not be written: {error}") from None

    def snapshot(self) -> Path:
        """A sealed copy beside the log, replaced whole: the second rung of the recovery ladder."""
        self.seal_now()
        target = Path(f"{self.path}.snapshot")
        temporary = Path(f"{target}.tmp")
        with self._writer:
            temporary.unlink(missing_ok=True)
            try:
                self._connection.execute("VACUUM INTO ?", (str(temporary),))
                with temporary.open("rb") as copied:
                    os.fsync(copied.fileno())
                temporary.replace(target)
            except (sqlite3.Error, OSError) as error:
                raise AuditError(f"no snapshot of `{self.path}`: {error}") from None
        return target

    def archive(self, target: Path) -> int:
        """Move all entries to a log of their own at `target`; how many. This log goes on from a signed base."""
        self.seal_now()
        with self._writer:
            try:
                self._connection.execute("VACUUM INTO ?", (str(target),))
                with target.open("rb") as copied:
                    os.fsync(copied.fileno())
                note = seal(self._signer, self._frontier, self._head, self._committed_id, "base")
                base = (self._frontier.size, note, b"".join(self._frontier.peaks))
                self._connection.execute("BEGIN IMMEDIATE")
                moved = self._connection.execute(
                    "DELETE FROM entries WHERE id <= ?", (self._committed_id,)
                ).rowcount
                self._connection.execute("DELETE FROM checkpoints")
                self._connection.execute("DELETE FROM bases")
                self._connection.execute("INSERT INTO bases VALUES (?, ?, ?)", base)
                self._connection.execute("COMMIT")
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (sqlite3.Error, OSError) as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise AuditError(f"`{self.path}` could not be archived to `{target}`: {error}") from None
        return moved

    def _checkpoint_wal(self) -> None:
        self._wal_commits, self._wal_since = 0, monotonic()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            self._failed = f"`{self.path}`: the write-ahead log could not be folded in ({error})"

    def _tick(self) -> None:
        """Every half second: commit what waits; now and then fold the write-ahead log in and take a snapshot."""
        snapshot_at = monotonic() + self.options.snapshot_seconds
        while not self._stop.wait(self.options.flush_seconds):
            try:
                if monotonic() >= snapshot_at:
                    self.snapshot()
                    snapshot_at = monotonic() + self.options.snapshot_seconds
                with self._writer:
                    self._flush()
                    if self._wal_commits and monotonic() - self._wal_since >= self.options.wal_seconds:
                        self._checkpoint_wal()
            except AuditError:
                return

    def close(self) -> None:
        """Record the shutdown, seal, and let go; raises `AuditError` when that could not be written."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._ticker.join()
        try:
            if self._failed is None:
                self.append(Event(EventType.KERNEL_SHUTDOWN, KERNEL))
                self.seal_now()
        finally:
            self._connection.close()
            os.close(self._lock_fd)


class DamagedLogError(AuditError):
    """The log on disk does not verify; see `recovery`."""

    def __init__(self, path: Path, report: Report) -> None:
        super().__init__(f"`{path}` is {report.verdict.value}: {report.message}")
        self.report = report
