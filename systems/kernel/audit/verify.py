"""Is this the log that was written? One walk over the entries, and a verdict that names what is wrong.

    ok              every entry hashes, chains and is covered by a signed checkpoint
    unsealed_tail   the same, but the last entries are not covered by a signature yet
    break_recorded  the kernel itself recorded, signed, that entries were lost to damage
    truncated       the log's own checkpoint covers more entries than there are
    rewritten       an entry, the chain or a checkpoint does not fit the rest
    gap             an entry is missing and no start after a crash declares it
    forked          the witness holds a signed checkpoint of another history
    rolled_back     the witness has seen a longer log than this one
    unreadable      the database cannot be read whole
    empty           there is nothing to judge

Ids that a crash cost are declared by the `kernel_start` that follows: they are reported, and are no gap.
"""

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, final

from holdfast.records.checkpoint import NoteError, Verifier
from holdfast.records.merkle import Frontier
from holdfast.systems.kernel.audit.encoding import GENESIS, VERSION
from holdfast.systems.kernel.audit.seal import HASH_BYTES, Seal, open_seal
from holdfast.systems.kernel.audit.store import AuditError, open_reader

__all__ = ["MAX_BUFFER", "Report", "Verdict", "verify", "verify_connection"]

MAX_BUFFER: Final = 100
"""How many entries a crash may cost, and so the longest gap that a start may declare."""


@final
class Verdict(Enum):
    """What can be said of a log."""

    OK = "ok"
    UNSEALED_TAIL = "unsealed_tail"
    BREAK_RECORDED = "break_recorded"
    TRUNCATED = "truncated"
    REWRITTEN = "rewritten"
    GAP = "gap"
    FORKED = "forked"
    ROLLED_BACK = "rolled_back"
    UNREADABLE = "unreadable"
    EMPTY = "empty"


@final
@dataclass(frozen=True, slots=True)
class Report:
    """The verdict, and what it rests on."""

    verdict: Verdict
    message: str
    entries: int
    """In the tree, archived ones included."""
    sealed: int
    """Covered by a signed checkpoint that holds."""
    checked: int
    """Entries that were read in this run."""
    declared: tuple[tuple[int, int], ...] = ()
    """Ids that starts after a crash declared lost: first and last of each run."""


class _BrokenError(Exception):
    """The walk ends here."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


@dataclass(slots=True)
class _Walk:
    """Where the walk is."""

    frontier: Frontier
    head: bytes = GENESIS
    last_id: int = 0
    sealed: int = 0
    checked: int = 0
    declared: list[tuple[int, int]] = field(default_factory=list)


Sealed = tuple[Seal, bytes]
"""A seal whose signature holds, and the peaks stored beside it."""


def verify(
    path: Path, verifier: Verifier, witness: Sequence[str] = (), *, incremental: bool = False
) -> Report:
    """Judge the log at `path`; `witness` are notes kept elsewhere. Raises `AuditError`, `NoteError`.

    Incremental: from the log's last checkpoint on. A witness note that is not signed by `verifier` raises:
    it is evidence that the caller brought, and it is not ours to ignore.
    """
    try:
        connection = open_reader(path)
    except AuditError as error:
        if not path.is_file():
            raise
        return Report(Verdict.UNREADABLE, str(error), 0, 0, 0)
    try:
        return verify_connection(connection, verifier, witness, incremental=incremental)
    finally:
        connection.close()


def verify_connection(
    connection: sqlite3.Connection, verifier: Verifier, witness: Sequence[str] = (), *, incremental: bool
) -> Report:
    """As `verify`, over a connection to read from."""
    walk = _Walk(Frontier())
    try:
        connection.execute("BEGIN")
        seals = list(_seals(connection, "checkpoints", verifier, last=incremental))
        bases = list(_seals(connection, "bases", verifier))
        _start_at_base(walk, bases)
        if incremental and seals:
            _start_at(walk, *seals[-1])
        started = walk.frontier.size
        seen = [
            open_seal(note, verifier) for note in witness if _speaks_of(note) >= started or not incremental
        ]
        roots = _walk_entries(connection, walk, seals, {note.size for note in seen})
        _refuse_missing(walk, seals)
        broken = _compare_witness(walk, seen, seals, roots, started)
    except _BrokenError as broken_at:
        return _report(walk, broken_at.verdict, str(broken_at))
    except sqlite3.Error as error:
        return _report(walk, Verdict.UNREADABLE, f"the database cannot be read: {error}")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return _report(walk, *_closing(walk, broken=broken or any(s.lost is not None for s, _ in seals)))


def _report(walk: _Walk, verdict: Verdict, message: str) -> Report:
    return Report(verdict, message, walk.frontier.size, walk.sealed, walk.checked, tuple(walk.declared))


def _closing(walk: _Walk, *, broken: bool) -> tuple[Verdict, str]:
    size, tail = walk.frontier.size, walk.frontier.size - walk.sealed
    if not size:
        return Verdict.EMPTY, "there is no entry and no checkpoint"
    if broken:
        return Verdict.BREAK_RECORDED, "entries were lost to damage; the kernel recorded the break"
    if tail:
        return Verdict.UNSEALED_TAIL, f"the last {tail} of {size} entries are not covered by a checkpoint yet"
    return Verdict.OK, f"{size} entries, all covered by signed checkpoints"


def _speaks_of(note: str) -> int:
    """The size that a note claims, its signature unchecked: only to leave out what the walk does not reach."""
    lines = note.split("\n", 2)
    return int(lines[1]) if len(lines) == 3 and lines[1].isdecimal() else sys.maxsize


def _seals(
    connection: sqlite3.Connection, table: str, verifier: Verifier, *, last: bool = False
) -> Iterator[Sealed]:
    """The seals of a table, oldest first, or the newest alone."""
    query = f"SELECT size, note, peaks FROM {table} ORDER BY size"  # noqa: S608 - one of two names of ours
    for size, note, peaks in connection.execute(f"{query} DESC LIMIT 1" if last else query):
        try:
            sealed = open_seal(note, verifier)
        except (NoteError, AttributeError, TypeError) as error:
            raise _BrokenError(Verdict.REWRITTEN, f"checkpoint {size}: {error}") from None
        if sealed.size != size or not isinstance(peaks, bytes):
            raise _BrokenError(Verdict.REWRITTEN, f"checkpoint {size} is filed under another size")
        yield sealed, peaks


def _start_at_base(walk: _Walk, bases: Sequence[Sealed]) -> None:
    """Only a note that the kernel signed as a base excuses the entries before it."""
    for base, peaks in bases[-1:]:
        if not base.base:
            raise _BrokenError(Verdict.REWRITTEN, "the log begins at a checkpoint that is no base")
        _start_at(walk, base, peaks)


def _start_at(walk: _Walk, sealed: Seal, peaks: bytes) -> None:
    cut = [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)]
    try:
        walk.frontier = Frontier(sealed.size, cut)
    except ValueError as error:
        raise _BrokenError(Verdict.REWRITTEN, f"checkpoint {sealed.size}: {error}") from None
    if walk.frontier.root() != sealed.root:
        raise _BrokenError(Verdict.REWRITTEN, f"checkpoint {sealed.size}: its subtrees do not give its root")
    walk.head, walk.last_id, walk.sealed = sealed.head, sealed.last_id, sealed.size


def _walk_entries(
    connection: sqlite3.Connection, walk: _Walk, seals: Iterable[Sealed], wanted: set[int]
) -> dict[int, bytes]:
    """Check every entry after the walk's start; the roots at the sizes that the witness speaks of."""
    due = {sealed.size: (sealed, peaks) for sealed, peaks in seals}
    frontier, roots = walk.frontier, {walk.frontier.size: walk.frontier.root()}
    rows = connection.execute(
        "SELECT id, version, CAST(body AS BLOB), previous, hash FROM entries WHERE id > ? ORDER BY id",
        (walk.last_id,),
    )
    while batch := rows.fetchmany(2000):
        for row in batch:
            leaf = _check_entry(walk, row)
            frontier.append(leaf)
            walk.head, walk.last_id = leaf, row[0]
            walk.checked += 1
            size = frontier.size
            if size in due:
                _check_seal(walk, *due[size])
            if size in wanted:
                roots[size] = frontier.root()
    return roots


def _check_entry(walk: _Walk, row: tuple[Any, ...]) -> bytes:
    entry_id, version, body, previous, stored = row
    if previous != walk.head:
        verdict = Verdict.REWRITTEN if entry_id == walk.last_id + 1 else Verdict.GAP
        raise _BrokenError(verdict, f"entry {entry_id} does not follow entry {walk.last_id}")
    if version != VERSION or not isinstance(body, bytes):
        raise _BrokenError(Verdict.REWRITTEN, f"entry {entry_id} is of version {version!r}, not {VERSION}")
    leaf = sha256(
        b'\0{"body":%b,"id":%d,"previous":"%b","version":%d}'
        % (body, entry_id, previous.hex().encode(), version)
    ).digest()
    if leaf != stored:
        raise _BrokenError(Verdict.REWRITTEN, f"entry {entry_id} does not hash to what is stored")
    if entry_id != walk.last_id + 1:
        lost = (walk.last_id + 1, entry_id - 1)
        if not _declares(body, *lost):
            raise _BrokenError(Verdict.GAP, f"entries {lost[0]} to {lost[1]} are missing")
        walk.declared.append(lost)
    return leaf


def _declares(body: bytes, first: int, last: int) -> bool:
    """Whether this entry is a start after a crash that names exactly these ids as lost."""
    if not 0 <= last - first < MAX_BUFFER:
        return False
    try:
        entry = json.loads(body)
        return bool(entry["event"] == "kernel_start" and entry["metadata"]["lost"] == [first, last])
    except (ValueError, KeyError, TypeError):
        return False


def _check_seal(walk: _Walk, sealed: Seal, peaks: bytes) -> None:
    stored = b"".join(walk.frontier.peaks)
    if sealed.root != walk.frontier.root() or sealed.head != walk.head or peaks != stored:
        raise _BrokenError(Verdict.REWRITTEN, f"the entries do not give the root of checkpoint {sealed.size}")
    if sealed.last_id != walk.last_id:
        raise _BrokenError(Verdict.REWRITTEN, f"checkpoint {sealed.size} ends at another id")
    walk.sealed = sealed.size


def _refuse_missing(walk: _Walk, seals: Sequence[Sealed]) -> None:
    longest = max((sealed.size for sealed, _ in seals), default=0)
    if longest > walk.frontier.size:
        lost = longest - walk.frontier.size
        raise _BrokenError(
            Verdict.TRUNCATED, f"a checkpoint covers {longest} entries; the last {lost} are missing"
        )


def _compare_witness(
    walk: _Walk, seen: Sequence[Seal], seals: Sequence[Sealed], roots: dict[int, bytes], started: int
) -> bool:
    """Hold what was seen elsewhere against this log; whether a recorded break excuses a difference."""
    breaks = [sealed.lost for sealed, _ in seals if sealed.lost is not None]
    excused = False
    for note in seen:
        if any(kept < note.size <= known for kept, known in breaks):
            excused = True
            continue
        if note.size > walk.frontier.size:
            message = f"the witness has seen {note.size} entries; this log has {walk.frontier.size}"
            raise _BrokenError(Verdict.ROLLED_BACK, message)
        if note.size < started or roots.get(note.size) == note.root:
            continue
        signed = any(sealed.size >= note.size for sealed, _ in seals)
        verdict = Verdict.FORKED if signed else Verdict.REWRITTEN
        raise _BrokenError(verdict, f"the witness holds another root for the first {note.size} entries")
    return excused
