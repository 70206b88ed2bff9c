"""The database file: its tables, and the two ways to open it."""

import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["SCHEMA_VERSION", "AuditError", "Synchronous", "open_reader", "open_writer"]

from enum import Enum

SCHEMA_VERSION: Final = 1
TABLES: Final = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL,
    previous BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (
    size INTEGER PRIMARY KEY, note TEXT NOT NULL, peaks BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS bases (
    size INTEGER PRIMARY KEY, note TEXT NOT NULL, peaks BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS policies (digest TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
"""


class AuditError(RuntimeError):
    """The log cannot be used; nothing was acknowledged. The message names the file and what to do."""


class Synchronous(Enum):
    """How SQLite waits for the disk. `NORMAL` loses committed entries on power loss: a planted fault only."""

    FULL = "FULL"
    NORMAL = "NORMAL"


def open_writer(path: Path, *, synchronous: Synchronous, busy_seconds: float) -> sqlite3.Connection:
    """The one writing connection; raises `sqlite3.Error`."""
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous.value}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.executescript(TABLES)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; any number, from any process. Raises `AuditError`."""
    if not path.is_file():
        raise AuditError(f"no audit log at `{path}`")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only=1")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise AuditError(f"`{path}` cannot be read as an audit log: {error}") from None
    return connection
