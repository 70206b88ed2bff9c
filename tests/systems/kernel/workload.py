"""A scripted workload on an audit log, for the crash sweeps: run as a process, told to die at any moment.

    workload.py FOLDER FULL|NORMAL EVENTS

Each security event is acknowledged on stdout, `ack ID`, only after `append` returned; so is the number of
buffered ones that were taken, `took ID`. It starts, works, seals now and then, and closes.
"""

import os
import sys
from pathlib import Path

from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog, LogOptions
from holdfast.systems.kernel.audit.seal import load_or_make_signer
from holdfast.systems.kernel.audit.store import Synchronous

ORIGIN = "crash.example/log"
SECURITY_EVERY = 7


def options(folder: Path, synchronous: Synchronous = Synchronous.FULL) -> LogOptions:
    # The timer is off: what is written when is the script's alone, so that a sweep can be repeated.
    return LogOptions(
        witness=folder / "witness",
        flush_seconds=3600.0,
        seal_every=20,
        wal_commits=4,
        synchronous=synchronous,
    )


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def work(folder: Path, synchronous: Synchronous, events: int) -> None:
    signer = load_or_make_signer(folder / "key", ORIGIN)
    with AuditLog(folder / "audit.db", signer, options(folder, synchronous)) as log:
        for number in range(events):
            kind = EventType.MERGE_APPROVED if number % SECURITY_EVERY == 6 else EventType.SYSCALL
            entry = log.append(Event(kind, "workload", "step", summary=f"number {number}"))
            say(f"{'ack' if kind is EventType.MERGE_APPROVED else 'took'} {entry}")


if __name__ == "__main__":
    work(Path(sys.argv[1]), Synchronous[sys.argv[2]], int(sys.argv[3]))
