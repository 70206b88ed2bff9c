"""PostgreSQL, by `INSERT ... ON CONFLICT DO NOTHING`, with psycopg (the extra `postgres`)."""

import threading
from typing import final

import psycopg

from holdfast.systems.kakeya.dedup.store import LIFETIME_SECONDS, StoreUnavailableError

__all__ = ["PostgresStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS first_writes (
    key text PRIMARY KEY, value text NOT NULL, expires double precision NOT NULL
)
"""
# Two services that start together both find no table; without the lock one of them dies of that.
_SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(4907155)"


@final
class PostgresStore:
    """One connection, made anew after it broke; `conninfo` as libpq reads it."""

    waits = True

    def __init__(self, conninfo: str, *, lifetime: float = LIFETIME_SECONDS, seconds: int = 2) -> None:
        self._conninfo, self._lifetime, self._seconds = conninfo, lifetime, seconds
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None

    def put_first(self, key: str, value: str, *, now: float) -> str | None:
        with self._lock:
            try:
                return self._put_first(key, value, now)
            except psycopg.Error as error:
                self._drop()
                raise StoreUnavailableError(
                    f"PostgreSQL refused the write: {str(error).splitlines()[0]}"
                ) from error

    def _put_first(self, key: str, value: str, now: float) -> str | None:
        connection = self._connected()
        with connection.transaction():
            connection.execute("DELETE FROM first_writes WHERE key = %s AND expires <= %s", (key, now))
            kept = connection.execute(
                "INSERT INTO first_writes VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING value",
                (key, value, now + self._lifetime),
            ).fetchone()
            if kept:
                return None
            # A conflict means that the other row is committed: INSERT waited for it.
            row = connection.execute("SELECT value FROM first_writes WHERE key = %s", (key,)).fetchone()
        if row is None:
            raise StoreUnavailableError("PostgreSQL reported a conflict with a row that is not there")
        return str(row[0])

    def ready(self) -> None:
        with self._lock:
            try:
                self._connected().execute("SELECT 1")
            except psycopg.Error as error:
                self._drop()
                raise StoreUnavailableError(
                    f"PostgreSQL does not answer: {str(error).splitlines()[0]}"
                ) from error

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=self._seconds)
            with self._connection.transaction():
                self._connection.execute(_SCHEMA_LOCK)
                self._connection.execute(_SCHEMA)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
