"""Reading a log: entries, JSON lines, and proofs that a third party checks without the log."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from holdfast.records.checkpoint import NoteError, Verifier, open_note
from holdfast.records.merkle import (
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
    leaf_hash,
)
from holdfast.systems.kernel.audit.encoding import entry_leaf
from holdfast.systems.kernel.audit.store import AuditError, open_reader

__all__ = [
    "Entry",
    "check_consistency",
    "check_proof",
    "iter_entries",
    "prove",
    "prove_consistency",
    "read_policy",
]

CONSISTENCY_SCHEMA: Final = "holdfast.audit-consistency/1"
PROOF_SCHEMA: Final = "holdfast.audit-proof/1"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One row, parsed."""

    id: int
    version: int
    body: dict[str, Any]
    previous: bytes
    hash: bytes
    text: str
    """The body as stored: canonical JSON."""

    def document(self) -> dict[str, Any]:
        """As `audit export` writes it."""
        return {
            "id": self.id,
            "version": self.version,
            **self.body,
            "previous": self.previous.hex(),
            "hash": self.hash.hex(),
        }


def iter_entries(path: Path, *, after: int = 0, last: int | None = None) -> Iterator[Entry]:
    """Entries with an id over `after`, oldest first; with `last`, only that many newest ones.

    Raises `AuditError` when the file cannot be read or an entry is not JSON.
    """
    connection = open_reader(path)
    try:
        query = "SELECT id, version, body, previous, hash FROM entries WHERE id > ? ORDER BY id"
        rows = connection.execute(query, (after,))
        if last is not None:
            newest = "SELECT * FROM entries WHERE id > ? ORDER BY id DESC LIMIT ?"
            rows = connection.execute(f"SELECT * FROM ({newest}) ORDER BY id", (after, last))  # noqa: S608 - no input in it
        for entry_id, version, body, previous, digest in rows:
            yield Entry(entry_id, version, json.loads(body), previous, digest, body)
    except sqlite3.Error as error:
        raise AuditError(f"`{path}` cannot be read: {error}") from None
    except (ValueError, TypeError):
        raise AuditError(
            f"`{path}` holds an entry that is not JSON; run `agent-kernel audit verify`"
        ) from None
    finally:
        connection.close()


def read_policy(path: Path, digest: str) -> str | None:
    """The document of a policy that the log remembers."""
    connection = open_reader(path)
    try:
        row = connection.execute("SELECT text FROM policies WHERE digest = ?", (digest,)).fetchone()
    except sqlite3.Error as error:
        raise AuditError(f"`{path}` cannot be read: {error}") from None
    finally:
        connection.close()
    return None if row is None else str(row[0])


def prove(path: Path, entry_id: int) -> dict[str, Any]:
    """An inclusion proof of one entry under the newest checkpoint that covers it; raises `AuditError`."""
    connection = open_reader(path)
    try:
        row = connection.execute(
            "SELECT version, body, previous FROM entries WHERE id = ?", (entry_id,)
        ).fetchone()
        top = connection.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        if row is None:
            raise AuditError(f"no entry {entry_id} in `{path}`")
        if connection.execute("SELECT 1 FROM bases").fetchone():
            raise AuditError(
                f"`{path}` goes on from an archive; prove the entry from the archive that holds it"
            )
        ids = [found[0] for found in connection.execute("SELECT id FROM entries ORDER BY id")]
        index = ids.index(entry_id)
        if top is None or index >= top[0]:
            raise AuditError(f"entry {entry_id} is not covered by a checkpoint yet")
        query = "SELECT hash FROM entries ORDER BY id LIMIT ?"
        leaves = [found[0] for found in connection.execute(query, (top[0],))]
    except sqlite3.Error as error:
        raise AuditError(f"`{path}` cannot be read: {error}") from None
    finally:
        connection.close()
    return {
        "schema": PROOF_SCHEMA,
        "leaf": entry_leaf(entry_id, row[0], row[1], row[2]).decode(),
        "index": index,
        "path": [node.hex() for node in inclusion_path(leaves, index)],
        "checkpoint": top[1],
    }


def prove_consistency(path: Path, old: str, verifier: Verifier) -> dict[str, Any]:
    """That the log of the checkpoint `old` is a prefix of the newest sealed one; raises `AuditError`, `NoteError`."""
    size = open_note(old, verifier).size
    connection = open_reader(path)
    try:
        top = connection.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        if top is None or top[0] < size or connection.execute("SELECT 1 FROM bases").fetchone():
            raise AuditError(f"`{path}` does not hold all entries from the first to one after {size}")
        query = "SELECT hash FROM entries ORDER BY id LIMIT ?"
        leaves = [found[0] for found in connection.execute(query, (top[0],))]
    except sqlite3.Error as error:
        raise AuditError(f"`{path}` cannot be read: {error}") from None
    finally:
        connection.close()
    nodes = consistency_path(leaves, size)
    return {"schema": CONSISTENCY_SCHEMA, "old": old, "path": [n.hex() for n in nodes], "new": top[1]}


def check_consistency(proof: dict[str, Any], verifier: Verifier) -> tuple[int, int]:
    """The two sizes, when the proof shows that nothing before the first was changed; raises `NoteError`."""
    try:
        if proof["schema"] != CONSISTENCY_SCHEMA:
            raise NoteError(f"not a proof of {CONSISTENCY_SCHEMA}")
        old, new = open_note(str(proof["old"]), verifier), open_note(str(proof["new"]), verifier)
        path = [bytes.fromhex(node) for node in proof["path"]]
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, NoteError) else NoteError("the proof is not well-formed") from None
    if not consistency_holds(old.size, new.size, old.root, new.root, path):
        raise NoteError(f"the log of {old.size} entries is not shown to be a prefix of that of {new.size}")
    return old.size, new.size


def check_proof(proof: dict[str, Any], verifier: Verifier) -> dict[str, Any]:
    """The entry that `proof` shows to be in the log of `verifier`; needs no log. Raises `NoteError`."""
    try:
        if proof["schema"] != PROOF_SCHEMA:
            raise NoteError(f"not a proof of {PROOF_SCHEMA}")
        leaf, index = str(proof["leaf"]).encode(), int(proof["index"])
        path = [bytes.fromhex(node) for node in proof["path"]]
        checkpoint = open_note(str(proof["checkpoint"]), verifier)
        holds = inclusion_holds(leaf_hash(leaf), index, checkpoint.size, path, checkpoint.root)
        entry: dict[str, Any] = json.loads(leaf)
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, NoteError) else NoteError("the proof is not well-formed") from None
    if not holds:
        raise NoteError("the path does not lead from the entry to the checkpoint's root")
    return entry
