"""Small logs for tests, made and opened in one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from holdfast.records.checkpoint import Signer
from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog, LogOptions
from holdfast.systems.kernel.audit.seal import load_or_make_signer, read_witness
from holdfast.systems.kernel.audit.verify import Report, verify

QUIET = LogOptions(flush_seconds=3600.0, seal_every=10)
"""No timer: what is written when is the test's alone."""


class Bench:
    """One folder with a log, its key and its witness."""

    def __init__(self, folder: Path, options: LogOptions = QUIET) -> None:
        self.folder = folder
        self.path = folder / "audit.db"
        self.signer: Signer = load_or_make_signer(folder / "key", "test.example/log")
        self.options = replace(options, witness=folder / "witness")

    def open(self) -> AuditLog:
        return AuditLog(self.path, self.signer, self.options)

    def fill(self, count: int) -> None:
        """A run of its own: start, `count` entries, shutdown."""
        with self.open() as log:
            for number in range(count):
                log.append(event(number))

    def verify(self, *, witness: bool = True, incremental: bool = False) -> Report:
        notes = read_witness(self.options.witness) if witness and self.options.witness else ()
        return verify(self.path, self.signer.verifier, notes, incremental=incremental)

    @contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        """The database as an attacker with the file has it; committed at the end."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            yield connection
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()


def event(number: int = 0, kind: EventType = EventType.SYSCALL) -> Event:
    return Event(
        kind, f"caller-{number}", "fs.read", "allow", (f"rule-{number}",), (f"because {number}",), "strict", "run",
        f"{number:032x}", f"input {number}", number, f"sandbox-{number}", {"number": number},
    )  # fmt: skip
