"""The tamper matrix: what an attacker who has the files, and not the key, may do; and what `verify` says.

python -m tests.systems.kernel.tamper > docs/TAMPER-MATRIX.md
"""

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.records.merkle import Frontier
from holdfast.systems.kernel.audit.encoding import GENESIS, entry_hash
from holdfast.systems.kernel.audit.log import AuditLog
from tests.systems.kernel.audit_tools import Bench, event

VICTIM, OTHER = 12, 17
"""Ids in the middle of a log of 27 entries, covered by checkpoints at 9, 26 and 27."""
FIRST_SEAL, SECOND_SEAL = 9, 26
COLUMNS = ("id", "version", "body", "previous", "hash")
FIELDS = ("caller", "decision", "duration_us", "event", "input", "metadata", "mode", "reasons", "rules", "sandbox",
          "state", "subject", "time", "token")  # fmt: skip
UNDETECTED = "ok"


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that was done to a log, and what was said of it without and with the witness."""

    target: str
    operation: str
    alone: str
    witnessed: str


Attack = Callable[[Bench, sqlite3.Connection], None]


def _get(db: sqlite3.Connection, column: str, entry: int) -> object:
    return db.execute(f"SELECT {column} FROM entries WHERE id = ?", (entry,)).fetchone()[0]


def _set(db: sqlite3.Connection, column: str, value: object, entry: int) -> None:
    db.execute(f"UPDATE entries SET {column} = ? WHERE id = ?", (value, entry))


def _flipped(value: object) -> object:
    if isinstance(value, int):
        return value ^ 64
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    return str(value).replace("1", "2", 1)


def column_attacks(column: str) -> dict[str, Attack]:
    def swap(_: Bench, db: sqlite3.Connection) -> None:
        one, other = _get(db, column, VICTIM), _get(db, column, OTHER)
        if column == "id":
            _set(db, column, 10_000, VICTIM)
            _set(db, column, one, OTHER)
            _set(db, column, other, 10_000)
        else:
            _set(db, column, other, VICTIM)
            _set(db, column, one, OTHER)

    empty: dict[str, object] = {"id": 0, "version": 0, "body": "", "previous": b"", "hash": b""}
    attacks: dict[str, Attack] = {
        "flip": lambda _, db: _set(db, column, _flipped(_get(db, column, VICTIM)), VICTIM),
        "delete": lambda _, db: _set(db, column, empty[column], VICTIM),
        "swap": swap,
    }
    if column != "id":  # two rows cannot have one id
        attacks["duplicate"] = lambda _, db: _set(db, column, _get(db, column, OTHER), VICTIM)
    if column == "version":
        # All versions are alike: swapping or copying one changes nothing, so these two are left out.
        del attacks["swap"], attacks["duplicate"]
    return attacks


def field_attacks(field: str) -> dict[str, Attack]:
    def edit(change: Callable[[dict[str, object], dict[str, object]], None]) -> Attack:
        def attack(_: Bench, db: sqlite3.Connection) -> None:
            one, other = (json.loads(str(_get(db, "body", entry))) for entry in (VICTIM, OTHER))
            change(one, other)
            for entry, body in ((VICTIM, one), (OTHER, other)):
                _set(
                    db,
                    "body",
                    json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
                    entry,
                )

        return attack

    def swap(one: dict[str, object], other: dict[str, object]) -> None:
        one[field], other[field] = other[field], one[field]
        if one[field] == other[field]:
            one[field] = "swapped from elsewhere"

    def flip(one: dict[str, object], _: dict[str, object]) -> None:
        one[field] = "flipped"

    def delete(one: dict[str, object], _: dict[str, object]) -> None:
        del one[field]

    def duplicate(one: dict[str, object], other: dict[str, object]) -> None:
        one[field] = [other[field], other[field]]

    return {"flip": edit(flip), "delete": edit(delete), "swap": edit(swap), "duplicate": edit(duplicate)}


# -- rows, checkpoints, files -----------------------------------------------------------------------


def rehash(db: sqlite3.Connection) -> None:
    """Make the chain fit again from the first entry on, as anyone can without a key."""
    head = GENESIS
    for entry, version, body in db.execute("SELECT id, version, body FROM entries ORDER BY id").fetchall():
        digest = entry_hash(entry, version, body, head)
        db.execute("UPDATE entries SET previous = ?, hash = ? WHERE id = ?", (head, digest, entry))
        head = digest


def _insert(_: Bench, db: sqlite3.Connection) -> None:
    row = db.execute("SELECT version, body, previous, hash FROM entries WHERE id = ?", (VICTIM,)).fetchone()
    db.execute("UPDATE entries SET id = -id WHERE id > ?", (VICTIM,))
    db.execute("UPDATE entries SET id = 1 - id WHERE id < 0")
    db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (VICTIM + 1, *row))


def _insert_rehashed(bench: Bench, db: sqlite3.Connection) -> None:
    _insert(bench, db)
    rehash(db)


def _delete_row(_: Bench, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM entries WHERE id = ?", (VICTIM,))


def _delete_row_rehashed(bench: Bench, db: sqlite3.Connection) -> None:
    _delete_row(bench, db)
    rehash(db)


def _swap_rows(_: Bench, db: sqlite3.Connection) -> None:
    for entry, to in ((VICTIM, -1), (OTHER, VICTIM), (-1, OTHER)):
        db.execute("UPDATE entries SET id = ? WHERE id = ?", (to, entry))


def _truncate(_: Bench, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM entries WHERE id > 22")


def _truncate_with_seals(bench: Bench, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM entries WHERE id > ?", (FIRST_SEAL,))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (FIRST_SEAL,))


def _rewrite(_: Bench, db: sqlite3.Connection) -> None:
    db.execute("UPDATE entries SET body = replace(body, 'allow', 'deny')")
    rehash(db)


def _rewrite_and_unseal(bench: Bench, db: sqlite3.Connection) -> None:
    _rewrite(bench, db)
    db.execute("DELETE FROM checkpoints")


def _forge_seal(bench: Bench, db: sqlite3.Connection) -> None:
    """A checkpoint of a rewritten log under the old signature."""
    _rewrite(bench, db)
    frontier = Frontier()
    for (digest,) in db.execute("SELECT hash FROM entries ORDER BY id"):
        frontier.append(digest)
    import base64

    for size, note in db.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchall():
        lines = note.split("\n")
        lines[2] = base64.b64encode(frontier.root()).decode()
        db.execute("UPDATE checkpoints SET note = ? WHERE size = ?", ("\n".join(lines), size))


def _new_version(_: Bench, db: sqlite3.Connection) -> None:
    db.execute("UPDATE entries SET version = 2 WHERE id = ?", (VICTIM,))


def _new_version_rehashed(bench: Bench, db: sqlite3.Connection) -> None:
    _new_version(bench, db)
    rehash(db)


def _refile_seal(_: Bench, db: sqlite3.Connection) -> None:
    db.execute("UPDATE checkpoints SET size = 15 WHERE size = ?", (FIRST_SEAL,))


def _flip_peaks(_: Bench, db: sqlite3.Connection) -> None:
    (peaks,) = db.execute("SELECT peaks FROM checkpoints WHERE size = ?", (SECOND_SEAL,)).fetchone()
    db.execute(
        "UPDATE checkpoints SET peaks = ? WHERE size = ?", (bytes([peaks[0] ^ 1]) + peaks[1:], SECOND_SEAL)
    )


def _base_from_seal(_: Bench, db: sqlite3.Connection) -> None:
    """Pretend that the first entries were archived."""
    db.execute("INSERT INTO bases SELECT size, note, peaks FROM checkpoints WHERE size = ?", (FIRST_SEAL,))
    db.execute("DELETE FROM entries WHERE id <= ?", (FIRST_SEAL,))
    db.execute("DELETE FROM checkpoints WHERE size <= ?", (FIRST_SEAL,))


ROWS: dict[str, Attack] = {
    "insert a row": _insert,
    "insert a row, rehash": _insert_rehashed,
    "delete a row": _delete_row,
    "delete a row, rehash": _delete_row_rehashed,
    "swap two rows": _swap_rows,
    "truncate the tail": _truncate,
    "truncate the tail and its checkpoints": _truncate_with_seals,
    "rewrite all, rehash": _rewrite,
    "rewrite all, delete all checkpoints": _rewrite_and_unseal,
    "rewrite all, forge a checkpoint": _forge_seal,
    "change a row's version": _new_version,
    "change a row's version, rehash": _new_version_rehashed,
    "file a checkpoint under another size": _refile_seal,
    "flip a checkpoint's stored subtrees": _flip_peaks,
    "cut the front off at a checkpoint": _base_from_seal,
}


def _roll_back(bench: Bench, work: Path) -> None:
    """The whole folder of an earlier day, but for the witness, which is elsewhere."""
    shutil.copy(work / "earlier.db", bench.path)


def _fork(bench: Bench, work: Path) -> None:
    """Rolled back, and then continued by the real kernel, key and all."""
    _roll_back(bench, work)
    with AuditLog(bench.path, bench.signer) as log:
        for number in range(30):
            log.append(event(900 + number))


def _delete_wal(bench: Bench, _: Path) -> None:
    """The entries since the last fold of the write-ahead log are in it alone."""
    for end in ("-wal", "-shm"):
        Path(f"{bench.path}{end}").unlink()


def _delete_all(bench: Bench, _: Path) -> None:
    with bench.raw() as db:
        for table in ("entries", "checkpoints"):
            db.execute(f"DELETE FROM {table}")


FILES: dict[str, Callable[[Bench, Path], None]] = {
    "roll the file back": _roll_back,
    "roll the file back, go on writing with the key": _fork,
    "delete the -wal": _delete_wal,
    "delete every row": _delete_all,
}


# -- the run ----------------------------------------------------------------------------------------


def prepared(work: Path) -> Path:
    """A folder with a sealed log of 27 entries, the same log as it was at its first checkpoint, and its write-ahead log."""
    whole = work / "whole"
    whole.mkdir()
    bench = Bench(whole)
    with bench.open() as log:
        for number in range(8):
            log.append(event(number + 1))
        log.seal_now()
        with bench.raw():
            pass
        shutil.copy(bench.path, work / "earlier.db")
        for number in range(8, 25):
            log.append(event(number + 1))
        log.flush()
        log.seal_now()
        live = work / "live"
        live.mkdir()
        for path in whole.iterdir():
            shutil.copy(path, live / path.name)
    return whole


def verdicts(bench: Bench) -> tuple[str, str]:
    return bench.verify(witness=False).verdict.value, bench.verify(witness=True).verdict.value


def cells(work: Path) -> Iterator[Cell]:
    whole = prepared(work)
    attacks = [
        *(
            (f"column `{column}`", name, attack)
            for column in COLUMNS
            for name, attack in column_attacks(column).items()
        ),
        *(
            (f"field `{field}`", name, attack)
            for field in FIELDS
            for name, attack in field_attacks(field).items()
        ),
        *(("entries and checkpoints", name, attack) for name, attack in ROWS.items()),
    ]
    for number, (target, name, attack) in enumerate(attacks):
        bench = _copy(whole, work / f"cell{number}")
        with bench.raw() as db:
            before = "\n".join(db.iterdump())
            attack(bench, db)
            assert "\n".join(db.iterdump()) != before, f"{name} of {target} changed nothing"
        yield Cell(target, name, *verdicts(bench))
    for name, file_attack in FILES.items():
        source = work / "live" if "-wal" in name else whole
        bench = _copy(source, work / name.replace(" ", "-"))
        file_attack(bench, work)
        yield Cell("files", name, *verdicts(bench))
    yield Cell("(nothing)", "the control", *verdicts(_copy(whole, work / "control")))


def _copy(source: Path, target: Path) -> Bench:
    shutil.copytree(source, target)
    return Bench(target)


def render(found: list[Cell]) -> str:
    blind = [
        cell
        for cell in found
        if cell.alone in {"ok", "unsealed_tail", "empty"} and cell.target != "(nothing)"
    ]
    lines = [
        "# Tamper matrix of the audit log",
        "",
        "Rendered from a run: each row is done to a copy of a sealed log of 27 entries by someone who has the files",
        "and not the signing key, and judged by `agent-kernel audit verify` without and with the witness file.",
        "",
        "| target | operation | verdict alone | verdict with the witness |",
        "|---|---|---|---|",
        *(f"| {cell.target} | {cell.operation} | {cell.alone} | {cell.witnessed} |" for cell in found),
        "",
        "## What needs the witness",
        "",
        "These leave a log that fits together; without checkpoints kept elsewhere they cannot be told from an",
        'honest one, or only as "not covered by a signature":',
        "",
        *(f"- {cell.operation}: `{cell.alone}` alone, `{cell.witnessed}` with the witness" for cell in blind),
        "",
        "With the witness every row is detected. Entries after the last checkpoint are covered by no signature:",
        "`unsealed_tail` says how many, and whoever has the files can replace those.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(render(list(cells(Path(folder)))))


if __name__ == "__main__":
    main()
