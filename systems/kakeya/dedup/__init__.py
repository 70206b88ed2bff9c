"""Deduplication, first write wins, behind one small role: SQLite here, Redis or PostgreSQL where there are many.

`open_store` turns the text of a configuration into a store; `conformance.check_store` is what each must pass.
"""

from pathlib import Path

from holdfast.systems.kakeya.dedup.sqlite import SqliteStore
from holdfast.systems.kakeya.dedup.store import LIFETIME_SECONDS, DedupStore, StoreUnavailableError

__all__ = ["LIFETIME_SECONDS", "DedupStore", "SqliteStore", "StoreUnavailableError", "open_store"]


def open_store(text: str, folder: Path) -> DedupStore:
    """`sqlite` (a file in `folder`), `redis:/path/to.sock`, `redis://127.0.0.1:6379`, `postgres:CONNINFO`."""
    kind, _, rest = text.partition(":")
    match kind:
        case "sqlite" if not rest:
            return SqliteStore(folder / "first-writes.sqlite3")
        case "redis" if rest:
            return _redis(rest)
        case "postgres" if rest:
            return _postgres(rest)
        case _:
            raise ValueError(
                f"`{text}` is no store; write `sqlite`, `redis:SOCKET`, `redis://HOST:PORT` or `postgres:CONNINFO`"
            )


def _redis(rest: str) -> DedupStore:
    from holdfast.systems.kakeya.dedup.redis import RedisStore

    if not rest.startswith("//"):
        return RedisStore(Path(rest))
    host, _, port = rest[2:].partition(":")
    if not port.isdigit():
        raise ValueError(f"`redis:{rest}` names no port; write `redis://HOST:PORT`")
    return RedisStore((host, int(port)))


def _postgres(rest: str) -> DedupStore:
    try:
        from holdfast.systems.kakeya.dedup.postgres import PostgresStore
    except ImportError:
        raise ValueError("the store `postgres` needs psycopg; install `holdfast[postgres]`") from None
    return PostgresStore(rest)
