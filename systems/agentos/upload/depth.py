"""The queue's books, for anybody who only wants to look: opens the file read-only, and makes none."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import final

from holdfast.systems.agentos.errors import StoreError

__all__ = ["Depth", "count_depth", "read_depth"]


@final
@dataclass(frozen=True, slots=True)
class Depth:
    """The books."""

    pending: int
    oldest_age: float
    """Seconds since the oldest pending row was put in; 0 without one."""
    enqueued: int
    sent: int
    duplicates: int
    """Of those sent, how many the CCC had already: replays that were not counted twice."""
    set_aside: int
    unaccounted: int
    """Rows that vanished without a word; anything but 0 is a fault."""
    last_error: str | None


EMPTY = Depth(0, 0.0, 0, 0, 0, 0, 0, None)


def read_depth(path: Path, *, now: datetime) -> Depth:
    """The books of the queue at `path`; where there is none, nothing was ever queued."""
    if not path.exists():
        return EMPTY
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
            return count_depth(db, now=now)
    except sqlite3.Error as problem:
        raise StoreError(f"cannot read the queue `{path}`: {problem}") from None


def count_depth(db: sqlite3.Connection, *, now: datetime) -> Depth:
    """The books, in one statement, so that they are of one moment."""
    pending, oldest, state = db.execute(
        "SELECT (SELECT count(*) FROM pending), (SELECT min(enqueued_at) FROM pending),"
        " (SELECT json_group_object(name, json(value)) FROM state)"
    ).fetchone()
    books = json.loads(state)
    return Depth(
        pending=pending,
        oldest_age=max(0.0, now.timestamp() - oldest) if pending else 0.0,
        enqueued=books["enqueued"],
        sent=books["sent"],
        duplicates=books["duplicates"],
        set_aside=books["set_aside"],
        unaccounted=books["enqueued"] - books["sent"] - books["set_aside"] - pending,
        last_error=books.get("last_error"),
    )
