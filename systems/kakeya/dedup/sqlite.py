"""The embedded default: one SQLite file, shared by as many processes as open it."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import final

from holdfast.systems.kakeya.dedup.store import LIFETIME_SECONDS, StoreUnavailableError

__all__ = ["SqliteStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS first_writes (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS first_writes_expires ON first_writes (expires);
"""


@final
class SqliteStore:
    """`INSERT ... ON CONFLICT DO NOTHING` decides; an expired row is removed in the same transaction."""

    waits = False

    def __init__(self, path: Path, *, lifetime: float = LIFETIME_SECONDS) -> None:
        self._lifetime = lifetime
        try:
            self._base = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = WAL")
            # With WAL, NORMAL loses no committed row when the process dies, only when the power does.
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"`{path}` cannot be opened as SQLite: {error}") from error

    def put_first(self, key: str, value: str, *, now: float) -> str | None:
        try:
            return self._put_first(key, value, now)
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._base.rollback()
            raise StoreUnavailableError(f"SQLite refused the write: {error}") from error

    def _put_first(self, key: str, value: str, now: float) -> str | None:
        self._base.execute("BEGIN IMMEDIATE")
        self._base.execute("DELETE FROM first_writes WHERE key = ? AND expires <= ?", (key, now))
        kept = self._base.execute(
            "INSERT INTO first_writes VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING value",
            (key, value, now + self._lifetime),
        ).fetchone()
        earlier = (
            None
            if kept
            else self._base.execute("SELECT value FROM first_writes WHERE key = ?", (key,)).fetchone()[0]
        )
        self._base.execute("COMMIT")
        return earlier

    def forget_expired(self, now: float) -> int:
        """Remove what is past its time; how many that were. Correctness does not need it, disk space does."""
        return self._base.execute("DELETE FROM first_writes WHERE expires <= ?", (now,)).rowcount

    def ready(self) -> None:
        try:
            self._base.execute("SELECT 1 FROM first_writes LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"SQLite does not answer: {error}") from error

    def close(self) -> None:
        self._base.close()
