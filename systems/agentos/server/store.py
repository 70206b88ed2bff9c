"""What the CCC keeps: each event and each metrics row once, by its key."""

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

__all__ = ["Store", "Totals"]

_TABLES = """
CREATE TABLE IF NOT EXISTS events(
    key TEXT PRIMARY KEY, session_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, model TEXT,
    warning INTEGER NOT NULL, body TEXT NOT NULL, deliveries INTEGER NOT NULL DEFAULT 1) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics(
    key TEXT PRIMARY KEY, body TEXT NOT NULL, deliveries INTEGER NOT NULL DEFAULT 1) STRICT, WITHOUT ROWID;
"""
_GAPS = """
SELECT model, count(*), sum(warning), sum(max(0, gap)) FROM (
    SELECT model, type, warning, seq - 1 - lag(seq, 1, -1) OVER (PARTITION BY session_id ORDER BY seq) AS gap
    FROM events) WHERE type = 'turn' GROUP BY model
"""


@final
@dataclass(frozen=True, slots=True)
class Totals:
    """Everything counted, for a test to hold against what was logged."""

    events: int
    turns: int
    tokens_in: int
    metrics: int
    metrics_turns: int
    replays: int
    """Deliveries beyond the first, which count nothing."""


@final
class Store:
    """One SQLite file behind one lock."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_TABLES)

    def add_events(self, batch: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Take in a batch; how many were new, and how many it had."""
        rows = [_event_row(one) for one in batch]
        return self._add(
            "INSERT INTO events(key, session_id, seq, type, model, warning, body) VALUES(?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(key) DO UPDATE SET deliveries = deliveries + 1",
            "events",
            rows,
        )

    def add_metrics(self, key: str, metrics: Mapping[str, Any]) -> tuple[int, int]:
        """Take in one session's numbers."""
        return self._add(
            "INSERT INTO metrics(key, body) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET deliveries = deliveries + 1",
            "metrics",
            [(key, json.dumps(metrics))],
        )

    def usage(self) -> dict[str, dict[str, int]]:
        """Samples, warnings and gaps by model."""
        with self._lock:
            rows = self._db.execute(_GAPS).fetchall()
        return {
            model: {"samples": samples, "warnings": warnings, "gaps": gaps}
            for model, samples, warnings, gaps in rows
        }

    def totals(self) -> Totals:
        """Everything counted."""
        with self._lock:
            events, turns, tokens, again = self._db.execute(
                "SELECT count(*), coalesce(sum(type = 'turn'), 0), coalesce(sum(body ->> '$.tokens_in'), 0),"
                " coalesce(sum(deliveries - 1), 0) FROM events"
            ).fetchone()
            metrics, metrics_turns, more = self._db.execute(
                "SELECT count(*), coalesce(sum(body ->> '$.turns'), 0), coalesce(sum(deliveries - 1), 0) FROM metrics"
            ).fetchone()
        return Totals(events, turns, tokens, metrics, metrics_turns, again + more)

    def bodies(self) -> list[dict[str, Any]]:
        """Every event as it was taken in, by session and place."""
        with self._lock:
            rows = self._db.execute("SELECT body FROM events ORDER BY session_id, seq").fetchall()
        return [json.loads(body) for (body,) in rows]

    def metrics(self) -> list[dict[str, Any]]:
        """Every metrics row's numbers."""
        with self._lock:
            return [json.loads(body) for (body,) in self._db.execute("SELECT body FROM metrics").fetchall()]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _add(self, statement: str, table: str, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int]:
        count = f"SELECT count(*) FROM {table}"  # noqa: S608 - one of our two names
        keys = [row[0] for row in rows]
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                marks = ",".join("?" * len(keys))
                had = self._db.execute(f"{count} WHERE key IN ({marks})", keys).fetchone()[0]
                self._db.executemany(statement, rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        new = len(set(keys)) - had
        return new, len(rows) - new


def _event_row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    event = one["event"]
    errors = event.get("measurement", {}).get("errors", 0)
    warning = int(errors > 0 or event.get("capacity_used", 0) >= 0.9)
    body = json.dumps(event)
    return one["key"], event["session_id"], one["seq"], event["type"], event.get("model"), warning, body
