"""When a log on disk is damaged: recover what verifies, else the snapshot, else begin anew; never in silence.

The damaged files are set aside, not deleted. The log that goes on says so twice: in the start's metadata, and
in a signed checkpoint with a `break` line, which `verify` reports as `break_recorded` from then on.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, final

from holdfast.records.checkpoint import NoteError, Signer
from holdfast.systems.kernel.audit.encoding import GENESIS, VERSION, entry_hash
from holdfast.systems.kernel.audit.log import AuditLog, DamagedLogError, LogOptions
from holdfast.systems.kernel.audit.seal import open_seal, read_witness
from holdfast.systems.kernel.audit.store import AuditError, Synchronous, open_reader, open_writer
from holdfast.systems.kernel.audit.verify import Verdict, verify

__all__ = ["Recovered", "Rung", "open_or_recover"]

FILES: Final = ("", "-wal", "-shm", "-journal")


@final
class Rung(Enum):
    """How far down the ladder it took."""

    SOUND = "sound"
    RECOVERED = "recovered"
    SNAPSHOT = "snapshot"
    NEW = "new"


@final
@dataclass(frozen=True, slots=True)
class Recovered:
    """An open log, and what it took."""

    log: AuditLog
    rung: Rung
    kept: int
    """Entries that were kept."""
    aside: Path | None
    """Where the damaged database lies now."""


def open_or_recover(path: Path, signer: Signer, options: LogOptions | None = None) -> Recovered:
    """Open the log, by the ladder if need be; raises `AuditError` for anything but damage (locked, read-only)."""
    try:
        log = AuditLog(path, signer, options)
    except DamagedLogError as damage:
        return _climb_down(path, signer, options or LogOptions(), damage)
    return Recovered(log, Rung.SOUND, 0, None)


def _climb_down(path: Path, signer: Signer, options: LogOptions, damage: DamagedLogError) -> Recovered:
    known = _known_size(path, signer, options)
    aside = _set_aside(path)
    saved = Path(f"{path}.recovered")
    saved.unlink(missing_ok=True)
    salvaged = _salvage(aside, saved, signer)
    snapshot = Path(f"{path}.snapshot")
    rung, source, kept = Rung.RECOVERED, saved, salvaged
    whole = _entries_of_sound(snapshot, signer)
    if whole > salvaged:
        rung, source, kept = Rung.SNAPSHOT, snapshot, whole
    if not kept:
        rung = Rung.NEW
    else:
        path.write_bytes(source.read_bytes())
    saved.unlink(missing_ok=True)
    note = {"break": str(damage), "rung": rung.value, "kept": kept, "known": known, "aside": aside.name}
    log = AuditLog(path, signer, options, origin_note=note)
    log.seal_now(f"break {kept} {max(known, kept)}")
    return Recovered(log, rung, kept, aside)


def _known_size(path: Path, signer: Signer, options: LogOptions) -> int:
    """The most entries that anything signed speaks of: what a later reader may find missing."""
    notes: list[str] = []
    if options.witness is not None and options.witness.exists():
        notes += read_witness(options.witness)
    try:
        connection = open_reader(path)
        try:
            notes += [row[0] for row in connection.execute("SELECT note FROM checkpoints")]
        finally:
            connection.close()
    except (AuditError, sqlite3.Error):
        pass
    return max((seal.size for seal in _valid(notes, signer)), default=0)


def _valid(notes: list[str], signer: Signer) -> Iterator[Any]:
    for note in notes:
        try:
            yield open_seal(note, signer.verifier)
        except NoteError:
            continue


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for end in FILES:
        source = Path(f"{path}{end}")
        if source.exists():
            source.replace(f"{aside}{end}")
    return aside


def _salvage(damaged: Path, target: Path, signer: Signer) -> int:
    """Copy the longest prefix that hashes and chains, with the checkpoints that cover it; how many entries."""
    output = open_writer(target, synchronous=Synchronous.FULL, busy_seconds=1.0)
    count, head = 0, GENESIS
    try:
        output.execute("BEGIN IMMEDIATE")
        for row in _rows(damaged, "SELECT * FROM bases"):
            for base in _valid([row[1]], signer):
                output.execute("INSERT INTO bases VALUES (?, ?, ?)", row)
                count, head = base.size, base.head
        for row in _rows(damaged, "SELECT * FROM entries ORDER BY id"):
            entry_id, version, body, previous, digest = row
            if (
                previous != head
                or version != VERSION
                or entry_hash(entry_id, version, body, previous) != digest
            ):
                break
            output.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
            count, head = count + 1, digest
        for row in _rows(damaged, "SELECT * FROM checkpoints ORDER BY size"):
            if row[0] <= count:
                output.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", row)
        for row in _rows(damaged, "SELECT * FROM policies"):
            output.execute("INSERT INTO policies VALUES (?, ?)", row)
        output.execute("COMMIT")
        output.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        output.close()
    return count if verify(target, signer.verifier).verdict in {Verdict.OK, Verdict.UNSEALED_TAIL} else 0


def _rows(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """Rows as far as they can be read: a corrupt page ends them."""
    try:
        connection = open_reader(path)
    except AuditError:
        return
    try:
        yield from connection.execute(query)
    except (sqlite3.Error, ValueError):
        return
    finally:
        connection.close()


def _entries_of_sound(snapshot: Path, signer: Signer) -> int:
    if not snapshot.is_file():
        return 0
    report = verify(snapshot, signer.verifier)
    return report.entries if report.verdict in {Verdict.OK, Verdict.UNSEALED_TAIL} else 0
