"""Two crash sweeps over a scripted workload: the process dies at a write; the power goes at a write.

After each crash: every acknowledged security event is there, at most the buffer is lost, the loss shows as
declared ids, and the next start verifies. Planted: `synchronous=NORMAL` survives the first sweep, since the
page cache outlives a process, and must fail the second.
"""

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog
from holdfast.systems.kernel.audit.read import iter_entries
from holdfast.systems.kernel.audit.seal import load_or_make_signer, read_witness
from holdfast.systems.kernel.audit.store import AuditError
from holdfast.systems.kernel.audit.verify import MAX_BUFFER, Verdict, verify
from tests.systems.kernel.power_loss import CALLS, Op, image, record
from tests.systems.kernel.sizes import NIGHTLY
from tests.systems.kernel.workload import ORIGIN, options

EVENTS = 400 if NIGHTLY else 70
POINTS = 500 if NIGHTLY else 24
IMAGES = 500 if NIGHTLY else 60
KILLED_AT = ("pwrite64", "write", "fsync", "fdatasync", "ftruncate", "rename", "unlink")
WORKLOAD = str(Path(__file__).with_name("workload.py"))


class LossError(AssertionError):
    """Something was lost that must not be."""


def survivors(folder: Path, said: str) -> None:
    """Start again on what is left, close, and hold the log against what the workload was told."""
    acknowledged = {int(i) for i in re.findall(r"^ack (\d+)$", said, re.MULTILINE)}
    taken = acknowledged | {int(i) for i in re.findall(r"^took (\d+)$", said, re.MULTILINE)}
    signer = load_or_make_signer(folder / "key", ORIGIN)
    try:
        with AuditLog(folder / "audit.db", signer, options(folder)) as log:
            log.append(Event(EventType.SYSCALL, "after", "the crash"))
    except AuditError as error:
        raise LossError(f"the next start does not verify: {error}") from None
    witness = folder / "witness"
    report = verify(folder / "audit.db", signer.verifier, read_witness(witness) if witness.exists() else ())
    if report.verdict is not Verdict.OK:
        raise LossError(f"{report.verdict.value}: {report.message}")
    entries = {entry.id: entry.body for entry in iter_entries(folder / "audit.db")}
    present = {i for i, body in entries.items() if body["caller"] == "workload"}
    if gone := acknowledged - present:
        raise LossError(f"acknowledged security events are gone: {sorted(gone)}")
    lost = taken - present
    declared = {i for first, last in report.declared for i in range(first, last + 1)}
    if len(lost) > MAX_BUFFER or not lost <= declared:
        raise LossError(f"{len(lost)} entries lost, not declared: {sorted(lost - declared)}")
    if any(entries[i]["input"] != f"number {i - 2}" for i in present):
        raise LossError("an entry is not what was logged")


# -- process death ----------------------------------------------------------------------------------


def boundaries(ops_log: str) -> list[tuple[str, int]]:
    """Every write boundary of one run: a call, and which of its kind."""
    seen: dict[str, int] = {}
    points = []
    for call in re.findall(r"^\d+ +(\w+)\(", ops_log, re.MULTILINE):
        if call in KILLED_AT:
            seen[call] = seen.get(call, 0) + 1
            points.append((call, seen[call]))
    return points


def die_at(folder: Path, synchronous: str, call: str, nth: int) -> str:
    """Run the workload, killed -9 at the nth such call; what it had said."""
    folder.mkdir()
    # Not with --seccomp-bpf: strace 6.1 then injects nothing, and every point would pass untouched.
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    inject = ["-e", f"inject={call}:signal=SIGKILL:when={nth}"]
    command = [*strace, *inject, sys.executable, WORKLOAD, str(folder), synchronous, str(EVENTS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, f"it was not killed at {call} {nth}"
    return done.stdout.decode()


def death_points(tmp_path: Path, count: int, synchronous: str = "FULL") -> list[tuple[str, int]]:
    folder = tmp_path / "whole"
    folder.mkdir()
    record(folder, synchronous, EVENTS)
    points = boundaries((tmp_path / "whole.strace").read_text())
    assert len(points) >= count, f"only {len(points)} write boundaries"
    return random.Random(6).sample(points, count)


def test_whatever_write_the_process_dies_at_no_security_event_is_lost(tmp_path: Path) -> None:
    for number, (call, nth) in enumerate(death_points(tmp_path, POINTS)):
        said = die_at(tmp_path / str(number), "FULL", call, nth)
        try:
            survivors(tmp_path / str(number), said)
        except LossError as loss:
            raise AssertionError(f"killed at {call} {nth}: {loss}") from None


# -- power loss -------------------------------------------------------------------------------------


def images(ops: tuple[Op, ...], count: int) -> Iterator[tuple[int, dict[str, bytes], str]]:
    """Disks at random prefixes; what had been said by then."""
    pick = random.Random(62)
    for _ in range(count):
        cut = pick.randint(1, len(ops))
        said = b"".join(op.data for op in ops[:cut] if op.kind == "said").decode()
        yield cut, image(ops[:cut], pick), said


def losses(tmp_path: Path, synchronous: str) -> list[str]:
    folder = tmp_path / "whole"
    folder.mkdir()
    ops = record(folder, synchronous, EVENTS)
    assert sum(op.kind == "said" for op in ops) == EVENTS
    found = []
    for number, (cut, files, said) in enumerate(images(ops, IMAGES)):
        disk = tmp_path / f"disk{number}"
        disk.mkdir()
        for name, content in files.items():
            (disk / name).write_bytes(content)
        try:
            survivors(disk, said)
        except LossError as loss:
            found.append(f"power lost after {cut} of {len(ops)} operations: {loss}")
    return found


def test_whenever_the_power_goes_no_security_event_is_lost(tmp_path: Path) -> None:
    assert losses(tmp_path, "FULL") == []


@pytest.mark.planted
def test_planted_synchronous_normal_survives_process_death_and_not_power_loss(tmp_path: Path) -> None:
    for number, (call, nth) in enumerate(death_points(tmp_path, 6, "NORMAL")):
        survivors(tmp_path / str(number), die_at(tmp_path / str(number), "NORMAL", call, nth))
    power = tmp_path / "power"
    power.mkdir()
    found = losses(power, "NORMAL")
    assert any("acknowledged security events are gone" in loss or "rolled_back" in loss for loss in found), (
        found
    )


def test_the_recording_holds_every_byte(tmp_path: Path) -> None:
    """The simulation's own control: all operations, all kept, rebuild the files exactly."""
    folder = tmp_path / "whole"
    folder.mkdir()
    ops = record(folder, "FULL", 20)
    rebuilt = image(
        (*ops, *(Op("sync", n) for n in ("audit.db", "witness", "key")), Op("syncdir")), random.Random(0)
    )
    assert {name: len(content) for name, content in rebuilt.items()} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }
    for name, content in rebuilt.items():
        assert content == (folder / name).read_bytes(), name
    assert "write" in {op.kind for op in ops}
    assert "pwrite64" in CALLS
