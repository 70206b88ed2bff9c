"""What is to be uploaded, on disk: a fold over the log, with the place it has come to.

    windows.jsonl ──catch_up──> pending rows + cursor        one transaction
    pending rows  ──send──────> acknowledged: rows gone + counters   one transaction

The log is the truth and the rows are derived from it together with the cursor, so a kill between any two
steps repeats a step and never skips or doubles one. Rows have keys made from the log alone: a row that is
derived or sent again is the same row to the CCC.

A session's own tier, as its first line says, decides about its events. A local session's lines in the same
log are passed over, whatever tier is set today.

Counters close the books: enqueued = sent + set aside + pending, always; `depth` has the difference.
"""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, final

from holdfast.systems.agentos.errors import StoreError
from holdfast.systems.agentos.journal import Line, iter_lines
from holdfast.systems.agentos.metrics.rollup import Rollup
from holdfast.systems.agentos.metrics.summary import tail_digest
from holdfast.systems.agentos.privacy.tier import TierName, reduce_event, reduce_metrics
from holdfast.systems.agentos.schemas import SchemaViolationError, require_event
from holdfast.systems.agentos.strict_json import dump_line, parse_line
from holdfast.systems.agentos.upload.depth import Depth, count_depth

__all__ = ["Kind", "Outbox", "Row", "SetAside"]

BATCH_BYTES = 4 << 20
"""What one request carries at most, however many rows that is."""
CHUNK = 2000
"""Log lines that one transaction takes in."""

_TABLES = """
CREATE TABLE IF NOT EXISTS pending(
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
    enqueued_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS set_aside(key TEXT PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions(id TEXT PRIMARY KEY, tier TEXT NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_START = {"cursor": 0, "enqueued": 0, "sent": 0, "duplicates": 0, "set_aside": 0, "tail": ""}


@final
class Kind(Enum):
    """Which call a row goes to."""

    EVENT = "event"
    METRICS = "metrics"


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One thing to send."""

    id: int
    kind: Kind
    key: str
    """The same whenever the row is derived or sent again."""
    body: bytes


@final
@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that the CCC will never take: kept, counted, shown."""

    key: str
    reason: str


@final
@dataclass(slots=True)
class _Session:
    """A session while the fold is inside it."""

    tier: TierName
    seq: int
    rollup: Rollup


class Outbox:
    """The queue of one data folder. Not final: the tests' planted faults are subclasses of it."""

    def __init__(self, path: Path) -> None:
        """Open or make the queue at `path`."""
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            # A commit survives this process's death. After power loss the newest may be missing as a whole;
            # then the cursor is older too, and the rows are derived again, under the same keys.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
            with self._transaction():
                self._db.executemany(
                    "INSERT OR IGNORE INTO state VALUES(?, ?)",
                    [(k, json.dumps(v)) for k, v in _START.items()],
                )
                # Makes a session's metrics key opaque: without this file nobody can tell whose it is.
                self._db.execute(
                    "INSERT OR IGNORE INTO state VALUES('salt', ?)", (json.dumps(secrets.token_hex(32)),)
                )
            self._salt = str(self._get("salt"))
        except (sqlite3.Error, OSError) as problem:
            raise self._explain(problem) from None

    def close(self) -> None:
        """Close the file; nothing is pending in memory."""
        self._db.close()

    def catch_up(self, log: Path, *, now: datetime) -> int:
        """Take in the log's lines beyond the cursor; answers how many rows that made."""
        made = 0
        with self._guarded():
            while True:
                with self._transaction():
                    cursor = self._cursor(log)
                    lines = _take(iter_lines(log, cursor), CHUNK)
                    made += self._take_in(lines, now)
                    if lines:
                        self._set("cursor", lines[-1].end)
                        self._set("tail", tail_digest(log, lines[-1].end))
                if len(lines) < CHUNK:
                    return made

    def head(self, kinds: Sequence[Kind], limit: int) -> tuple[Row, ...]:
        """The oldest pending rows of one kind among `kinds`, in order, at most `limit` and 4 MiB."""
        with self._guarded():
            marks = ",".join("?" * len(kinds))
            names = [kind.value for kind in kinds]
            first = self._db.execute(
                f"SELECT kind FROM pending WHERE kind IN ({marks}) ORDER BY id LIMIT 1",  # noqa: S608 - question marks only
                names,
            ).fetchone()
            if first is None:
                return ()
            found = self._db.execute(
                "SELECT id, kind, key, body FROM pending WHERE kind = ? ORDER BY id LIMIT ?",
                (first[0], limit),
            )
            return tuple(_up_to(found, BATCH_BYTES))

    def settle(self, rows: Sequence[Row], *, duplicates: int, set_aside: Sequence[SetAside] = ()) -> None:
        """The CCC has accounted for `rows`: take them out, and keep those that it will never take."""
        reasons = {one.key: one.reason for one in set_aside}
        with self._guarded(), self._transaction():
            gone = [row for row in rows if self._delete(row)]
            aside = [row for row in gone if row.key in reasons]
            self._db.executemany(
                "INSERT OR REPLACE INTO set_aside VALUES(?, ?, ?, ?)",
                [(row.key, row.kind.value, reasons[row.key], row.body) for row in aside],
            )
            self._add("sent", len(gone) - len(aside))
            self._add("set_aside", len(aside))
            self._add("duplicates", duplicates)

    def note(self, error: str | None) -> None:
        """Remember the newest error, or that there is none now."""
        with self._guarded(), self._transaction():
            self._set("last_error", error)

    def depth(self, *, now: datetime) -> Depth:
        """The books, as they stand."""
        with self._guarded(), self._transaction():
            return count_depth(self._db, now=now)

    def _cursor(self, log: Path) -> int:
        cursor = int(self._get("cursor"))
        if cursor and tail_digest(log, cursor) != self._get("tail"):
            raise StoreError(
                f"`{log}` is not the log that rows were queued from; it was cut or replaced: move `{self.path}` away too,"
                " or bring the log back"
            )
        return cursor

    def _take_in(self, lines: Sequence[Line], now: datetime) -> int:
        """Fold `lines`; the rows and the sessions' new states go in together."""
        open_: dict[str, _Session | None] = {}
        rows: list[tuple[str, str, bytes, float]] = []
        for line in lines:
            if (event := _readable(line)) is not None:
                rows += [
                    (kind.value, key, body, now.timestamp()) for kind, key, body in self._fold(event, open_)
                ]
        before = self._db.total_changes
        self._db.executemany(
            "INSERT OR IGNORE INTO pending(kind, key, body, enqueued_at) VALUES(?, ?, ?, ?)", rows
        )
        made = self._db.total_changes - before
        self._add("enqueued", made)
        for session_id, session in open_.items():
            self._store_session(session_id, session)
        return made

    def _fold(
        self, event: dict[str, Any], open_: dict[str, _Session | None]
    ) -> Iterator[tuple[Kind, str, bytes]]:
        session_id = event["session_id"]
        if event["type"] == "session":
            tier = TierName(event["privacy_tier"])
            open_[session_id] = None if tier is TierName.LOCAL_ONLY else _Session(tier, 0, Rollup())
        elif session_id not in open_:
            open_[session_id] = self._load_session(session_id)
        if (session := open_[session_id]) is None:
            return
        session.rollup.add(event, 0)
        if session.tier is TierName.FULL:
            key = f"{_digest(session_id.encode())[:32]}-{session.seq}"
            yield Kind.EVENT, key, self.event_row(key, session.seq, event)
        session.seq += 1
        if event["type"] == "session_end":
            key = _digest(f"{self._salt}\n{session_id}".encode())
            yield Kind.METRICS, key, self.metrics_row(session.rollup)
            open_[session_id] = None

    def event_row(self, key: str, seq: int, event: dict[str, Any]) -> bytes:
        """An event as the batch carries it."""
        return dump_line({"key": key, "seq": seq, "event": reduce_event(event)}).rstrip(b"\n")

    def metrics_row(self, session: Rollup) -> bytes:
        """One ended session's numbers, as the call's body."""
        return dump_line({"schema": "ccc.metrics/1", "metrics": reduce_metrics(session)}).rstrip(b"\n")

    def _load_session(self, session_id: str) -> _Session | None:
        found = self._db.execute(
            "SELECT tier, seq, state FROM sessions WHERE id = ?", (session_id,)
        ).fetchone()
        if found is None:
            return None
        tier, seq, state = found
        return _Session(TierName(tier), seq, Rollup.from_json(json.loads(state)))

    def _store_session(self, session_id: str, session: _Session | None) -> None:
        if session is None:
            self._db.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            return
        state = json.dumps(session.rollup.to_json())
        self._db.execute(
            "INSERT OR REPLACE INTO sessions VALUES(?, ?, ?, ?)",
            (session_id, session.tier.value, session.seq, state),
        )

    def _delete(self, row: Row) -> bool:
        return self._db.execute("DELETE FROM pending WHERE id = ?", (row.id,)).rowcount == 1

    def _get(self, name: str) -> Any:
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES(?, ?)", (name, json.dumps(value)))

    def _add(self, name: str, more: int) -> None:
        self._set(name, int(self._get(name)) + more)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise self._explain(problem) from None

    def _explain(self, problem: Exception) -> StoreError:
        return StoreError(
            f"cannot use the queue `{self.path}`: {problem}; nothing was lost, its rows come from the log again"
        )


def _up_to(found: Iterator[tuple[int, str, str, bytes]], size: int) -> Iterator[Row]:
    """The first rows that are not longer than `size` together; one at least, if there is one."""
    for number, (id_, kind, key, body) in enumerate(found):
        size -= len(body)
        if size < 0 and number:
            return
        yield Row(id_, Kind(kind), key, body)


def _readable(line: Line) -> dict[str, Any] | None:
    event = parse_line(line.content)
    try:
        require_event(event or {})
    except SchemaViolationError:
        return None
    return event


def _take(lines: Iterator[Line], count: int) -> list[Line]:
    with closing(lines) as open_lines:  # type: ignore[type-var]  # a generator, which has close()
        return [line for line, _ in zip(open_lines, range(count), strict=False)]


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
