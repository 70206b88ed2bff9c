"""The audit log: what is on disk when, what verifies, what is proved, kept, recovered and refused."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from holdfast.records.checkpoint import NoteError
from holdfast.systems.kernel.audit.aio import AsyncAuditLog
from holdfast.systems.kernel.audit.encoding import encode_body, entry_hash, entry_leaf, redacted
from holdfast.systems.kernel.audit.event import MAX_SUMMARY, SECURITY, Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog, DamagedLogError, LogOptions
from holdfast.systems.kernel.audit.read import (
    check_consistency,
    check_proof,
    iter_entries,
    prove,
    prove_consistency,
)
from holdfast.systems.kernel.audit.recovery import Rung, open_or_recover
from holdfast.systems.kernel.audit.retention import Level, Retention, keep, level_of
from holdfast.systems.kernel.audit.seal import append_witness, read_witness
from holdfast.systems.kernel.audit.store import AuditError, open_reader
from holdfast.systems.kernel.audit.verify import MAX_BUFFER, Verdict
from tests.systems.kernel.audit_tools import QUIET, Bench, event
from tests.systems.kernel.sizes import law

# -- writing ----------------------------------------------------------------------------------------


def on_disk(bench: Bench) -> list[int]:
    """What another connection sees: committed entries."""
    return [entry.id for entry in iter_entries(bench.path)]


@pytest.mark.parametrize("kind", EventType)
def test_a_security_event_is_on_disk_when_append_returns_and_others_wait(
    tmp_path: Path, kind: EventType
) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        entry = log.append(event(kind=kind))
        assert (entry in on_disk(bench)) is (kind in SECURITY)


def test_the_security_events_are_those_of_the_specification() -> None:
    words = {"policy_update", "merge_approved", "merge_rejected", "session_mode_change", "capability_issued"}
    assert {kind.value for kind in SECURITY} == words


def test_the_buffer_holds_a_hundred_and_then_commits_and_drops_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        for number in range(MAX_BUFFER):
            log.append(event(number))
        assert (log.waiting, on_disk(bench)) == (MAX_BUFFER, [1])
        log.append(event())
        assert (log.waiting, len(on_disk(bench))) == (1, 1 + MAX_BUFFER)
    assert on_disk(bench) == list(range(1, MAX_BUFFER + 4))


def test_what_waits_is_committed_by_the_timer(tmp_path: Path) -> None:
    from holdfast.clock import wait_until

    bench = Bench(tmp_path, LogOptions(flush_seconds=0.05))
    with bench.open() as log:
        entry = log.append(event())
        wait_until(lambda: entry in on_disk(bench), what="the timer's commit", seconds=10)


def test_threads_that_wait_together_share_commits_and_every_event_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        gate = threading.Barrier(8)

        def work() -> None:
            gate.wait()
            for _ in range(25):
                entry = log.append(event(kind=EventType.MERGE_APPROVED))
                assert log._committed_id >= entry

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        commits = log._wal_commits
    assert commits < 200, "each event had a commit of its own"
    assert bench.verify().verdict is Verdict.OK
    assert on_disk(bench) == list(range(1, 203))


def test_an_event_loop_gets_the_same_promises(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def work() -> list[int]:
        log = AsyncAuditLog(bench.open())
        buffered = [await log.append(event(number)) for number in range(250)]
        secure = await asyncio.gather(*(log.append(event(kind=EventType.POLICY_UPDATE)) for _ in range(5)))
        assert set(secure) <= set(on_disk(bench))
        await log.flush()
        await log.close()
        return buffered + list(secure)

    assert asyncio.run(work()) == list(range(2, 257))
    assert bench.verify().verdict is Verdict.OK


def test_readers_of_other_processes_read_while_it_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        for number in range(30):
            log.append(event(number))
        log.flush()
        code = "import sys; from pathlib import Path; from holdfast.systems.kernel.audit.read import iter_entries; print(sum(1 for _ in iter_entries(Path(sys.argv[1]))))"
        done = subprocess.run([sys.executable, "-c", code, str(bench.path)], capture_output=True, check=True)
        assert int(done.stdout) == 31
        log.append(event())


def test_a_second_writer_is_refused_and_a_reader_cannot_write(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open():
        with pytest.raises(AuditError, match="written by another process"):
            bench.open()
        reader = open_reader(bench.path)
        with pytest.raises(sqlite3.OperationalError):
            reader.execute("DELETE FROM entries")
        reader.close()


# -- the bytes --------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    Event, type=st.sampled_from(EventType), caller=texts, subject=texts, decision=st.none() | texts,
    rules=st.lists(texts, max_size=3).map(tuple), reasons=st.lists(texts, max_size=3).map(tuple),
    mode=st.none() | texts, state=st.none() | texts, token=st.none() | texts, summary=texts,
    duration_us=st.integers(0, 2**53 - 1), sandbox=st.none() | texts,
    metadata=st.dictionaries(texts, json_values, max_size=4),
)  # fmt: skip


@law
@given(events)
def test_the_hand_written_encoding_is_rfc_8785_byte_for_byte(generated: Event) -> None:
    text = encode_body(generated, "2026-01-01T00:00:00+00:00")
    assert rfc8785.dumps(json.loads(text)) == text.encode()
    parsed = json.loads(text)
    assert parsed["rules"] == list(generated.rules)
    assert parsed["metadata"] == dict(generated.metadata)
    leaf = entry_leaf(7, 1, text, bytes(32))
    assert rfc8785.dumps(json.loads(leaf)) == leaf
    from hashlib import sha256

    assert set(json.loads(leaf)) == {"body", "id", "previous", "version"}
    assert entry_hash(7, 1, text, bytes(32)) == sha256(b"\0" + leaf).digest()


@pytest.mark.parametrize(
    "bad", [{"a": float("nan")}, {"a": {1, 2}}, {"a": 2**70}, {"a": "\ud800"}, {"a": b"x"}]
)
def test_what_canonical_json_cannot_hold_is_refused_and_the_log_goes_on(
    tmp_path: Path, bad: dict[str, object]
) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        with pytest.raises(AuditError, match="canonical JSON"):
            log.append(replace(event(), metadata=bad))
        log.append(event())
    assert bench.verify().verdict is Verdict.OK


SECRETS = {
    "sk-ant-REDACTED": "key sk-ant-REDACTED used",
    "hunter2hunter2": "password=hunter2hunter2",
    "s3cr3tvalue": "curl -H 'x-api-key: s3cr3tvalue' http://x",
    "abcdef0123456789": "Authorization: Bearer abcdef0123456789",
    "AKIAIOSFODNN7EXAMPLE": "aws AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123": "git clone with ghp_abcdefghijklmnopqrstuvwxyz0123",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx": "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.sig",
    "user:pa55": "postgres://user:pa55@host/db",
    "MIIEvQIBADANBg": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
    "topsecretvalue": '{"client_secret": "topsecretvalue"}',
    "sk-ant-tail0123456789": "x" * 480 + " sk-ant-tail0123456789",
}  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_never_reaches_the_log(tmp_path: Path, secret: str) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        log.append(replace(event(), summary=SECRETS[secret]))
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("audit.db"))
    assert secret.encode() not in written
    assert secret[:16] not in redacted(SECRETS[secret])


def test_a_summary_is_cut_and_plain_text_is_kept() -> None:
    assert redacted("src/main.py") == "src/main.py"
    assert redacted("tokenizer settings: none of note") == "tokenizer settings: none of note"
    assert len(redacted("x" * 10_000)) == MAX_SUMMARY


# -- verifying --------------------------------------------------------------------------------------


def test_verdicts_from_empty_to_sealed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        log.append(event())
        log.flush()
        report = bench.verify(witness=False)
        assert (report.verdict, report.entries, report.sealed) == (Verdict.UNSEALED_TAIL, 2, 0)
        log.seal_now()
        assert bench.verify().verdict is Verdict.OK
    assert bench.verify().verdict is Verdict.OK


def test_a_log_of_over_a_thousand_entries_and_several_runs_verifies_whole_and_from_its_tail(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, replace(QUIET, seal_every=100))
    for count in (700, 5, 800):
        bench.fill(count)
    whole, tail = bench.verify(), bench.verify(incremental=True)
    assert (whole.verdict, whole.entries, whole.checked) == (Verdict.OK, 1511, 1511)
    assert (tail.verdict, tail.entries, tail.checked) == (Verdict.OK, 1511, 0)


def test_incremental_verification_reads_only_what_is_new_and_still_sees_what_is_wrong_there(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.fill(40)
    with bench.open() as log:
        log.append(event())
        log.flush()
        report = bench.verify(incremental=True)
        assert (report.verdict, report.checked) == (Verdict.UNSEALED_TAIL, 2)
        with sqlite3.connect(bench.path) as other:
            other.execute("UPDATE entries SET body = replace(body, 'because', 'despite') WHERE id = 44")
        other.close()
        assert bench.verify(incremental=True).verdict is Verdict.REWRITTEN


def test_a_crash_shows_as_declared_ids_and_a_gap_that_nobody_declared_is_a_gap(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    code = (
        "import os,sys; from pathlib import Path; from tests.systems.kernel.audit_tools import *\n"
        "log = Bench(Path(sys.argv[1])).open()\n"
        "for n in range(5): log.append(event(n))\n"
        "log.flush()\n"
        "for n in range(7): log.append(event(n))\n"
        "os._exit(9)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False).returncode == 9
    bench.fill(3)
    report = bench.verify()
    assert (report.verdict, report.declared) == (Verdict.OK, ((7, 106),))
    with bench.raw() as db:
        db.execute("DELETE FROM entries WHERE id = 109")
    assert bench.verify().verdict is Verdict.GAP


def test_a_clean_shutdown_declares_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(3)
    bench.fill(3)
    assert bench.verify().declared == ()
    assert on_disk(bench) == list(range(1, 11))


def test_a_start_refuses_a_log_whose_tail_was_changed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        log.append(event())
        log.flush()
    with bench.raw() as db:
        db.execute("DELETE FROM checkpoints")
        db.execute("UPDATE entries SET body = replace(body, 'because', 'despite') WHERE id = 2")
    with pytest.raises(DamagedLogError, match="rewritten"):
        bench.open()


def test_a_witness_that_another_key_signed_is_refused_not_ignored(tmp_path: Path) -> None:
    one, other = Bench(_made(tmp_path / "one")), Bench(_made(tmp_path / "other"))
    one.fill(3)
    other.fill(3)
    append_witness(one.folder / "witness", read_witness(other.folder / "witness")[0])
    with pytest.raises(NoteError):
        one.verify()


def test_what_a_crash_left_of_a_witness_note_is_cut_off_by_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(3)
    witness = tmp_path / "witness"
    whole = witness.read_bytes()
    witness.write_bytes(whole + b"test.example/log\n99\nAAAA")
    bench.fill(3)
    assert witness.read_bytes().startswith(whole)
    assert bench.verify().verdict is Verdict.OK


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- proofs -----------------------------------------------------------------------------------------


def test_every_entry_is_proved_offline_and_no_other_entry_passes_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(25)
    for entry in on_disk(bench):
        proof = json.loads(json.dumps(prove(bench.path, entry)))
        assert check_proof(proof, bench.signer.verifier)["id"] == entry
        for forged in (
            {**proof, "leaf": proof["leaf"].replace("because", "despite").replace("kernel", "Kernel")},
            {**proof, "index": proof["index"] + 1},
            {**proof, "path": proof["path"][1:]},
            {**proof, "checkpoint": proof["checkpoint"].replace("\n27\n", "\n28\n")},
        ):
            with pytest.raises(NoteError):
                check_proof(forged, bench.signer.verifier)


def test_an_entry_that_is_not_sealed_or_not_there_has_no_proof(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        log.append(event())
        log.flush()
        with pytest.raises(AuditError, match="not covered by a checkpoint yet"):
            prove(bench.path, 2)
        with pytest.raises(AuditError, match="no entry 99"):
            prove(bench.path, 99)


def test_a_later_log_is_proved_to_hold_the_earlier_one_and_a_forked_one_is_not(tmp_path: Path) -> None:
    bench, forked = Bench(_made(tmp_path / "one")), Bench(_made(tmp_path / "fork"))
    forked.signer = bench.signer
    bench.fill(5)
    (old,) = read_witness(tmp_path / "one" / "witness")
    bench.fill(20)
    proof = json.loads(json.dumps(prove_consistency(bench.path, old, bench.signer.verifier)))
    assert check_consistency(proof, bench.signer.verifier) == (7, 29)
    with pytest.raises(NoteError):
        check_consistency({**proof, "path": proof["path"][1:]}, bench.signer.verifier)
    forked.fill(25)
    with pytest.raises(NoteError, match="not shown to be a prefix"):
        check_consistency(prove_consistency(forked.path, old, bench.signer.verifier), bench.signer.verifier)
    with pytest.raises(AuditError, match="does not hold all entries"):
        prove_consistency(
            _short(tmp_path, bench).path,
            read_witness(tmp_path / "one" / "witness")[-1],
            bench.signer.verifier,
        )


def _short(tmp_path: Path, like: Bench) -> Bench:
    short = Bench(_made(tmp_path / "short"))
    short.signer = like.signer
    short.fill(2)
    return short


def test_a_snapshot_is_taken_now_and_then(tmp_path: Path) -> None:
    from holdfast.clock import wait_until

    bench = Bench(tmp_path, LogOptions(flush_seconds=0.02, snapshot_seconds=0.0))
    with bench.open() as log:
        log.append(event())
        wait_until((tmp_path / "audit.db.snapshot").exists, what="a snapshot", seconds=20)
    assert replace_path(bench, tmp_path / "audit.db.snapshot").verify(witness=False).verdict is Verdict.OK


# -- retention --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "level"),
    [(0, Level.FINE), (800, Level.FINE), (801, Level.WARN), (950, Level.WARN), (951, Level.CRITICAL),
     (1000, Level.CRITICAL), (1001, Level.OVER)],
)  # fmt: skip
def test_storage_levels(used: int, level: Level) -> None:
    assert level_of(used, 1000) is level


def test_archives_verify_on_their_own_go_when_old_or_over_the_limit_and_each_going_is_logged(
    tmp_path: Path,
) -> None:
    bench = Bench(_made(tmp_path / "live"))
    retention = Retention(tmp_path / "archives", limit=1 << 30, segment=1)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with bench.open() as log:
        for day in range(3):
            for number in range(50):
                log.append(event(number))
            keep(log, retention, now + timedelta(days=day))
        archives = sorted(retention.archives.glob("audit-*.db"))
        assert len(archives) == 3
        for archive in archives:
            report = replace_path(bench, archive).verify(witness=False)
            assert report.verdict is Verdict.OK
        assert bench.verify().verdict is Verdict.OK
        os.utime(archives[0], (0, 0))
        keep(log, replace(retention, segment=1 << 30), now)
        assert not archives[0].exists()
        small = sum(path.stat().st_size for path in archives[1:])
        level = keep(log, replace(retention, segment=1 << 30, limit=small), now)
        assert not archives[1].exists()
        log.flush()
        told = [entry.body for entry in iter_entries(bench.path)]
        assert level is not Level.OVER
    deleted = [body["metadata"]["archive"] for body in told if body["event"] == "audit_archive_deleted"]
    assert deleted[:2] == [archives[0].name, archives[1].name]
    assert [b["metadata"]["level"] for b in told if b["event"] == "audit_storage_warning"] == ["over"]
    assert bench.verify().verdict is Verdict.OK


def replace_path(bench: Bench, path: Path) -> Bench:
    other = Bench(bench.folder)
    other.path = path
    return other


def test_a_log_that_went_on_from_an_archive_opens_again(tmp_path: Path) -> None:
    bench = Bench(_made(tmp_path / "live"))
    bench.fill(20)
    with bench.open() as log:
        assert log.archive(tmp_path / "audit-1.db") == 23
        log.append(event())
    bench.fill(2)
    report = bench.verify()
    assert (report.verdict, report.entries, report.checked) == (Verdict.OK, 29, 6)


# -- recovery ---------------------------------------------------------------------------------------


def corrupt(bench: Bench, where: float) -> None:
    """Overwrite 2 KiB of the database with noise, as a dying disk does."""
    raw = bytearray(bench.path.read_bytes())
    at = int(len(raw) * where) // 4096 * 4096
    raw[at : at + 2048] = b"\xa5" * 2048
    bench.path.write_bytes(bytes(raw))


def test_a_sound_log_is_just_opened(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(3)
    recovered = open_or_recover(bench.path, bench.signer, bench.options)
    recovered.log.close()
    assert (recovered.rung, recovered.aside) == (Rung.SOUND, None)


def test_a_changed_tail_is_recovered_up_to_where_it_verifies_and_the_break_is_recorded(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.fill(40)
    with bench.raw() as db:
        db.execute("DELETE FROM checkpoints WHERE size > 20")
        db.execute("UPDATE entries SET body = replace(body, 'because', 'despite') WHERE id = 35")
    recovered = open_or_recover(bench.path, bench.signer, bench.options)
    recovered.log.close()
    assert (recovered.rung, recovered.kept) == (Rung.RECOVERED, 34)
    assert recovered.aside is not None
    assert recovered.aside.exists()
    assert bench.verify().verdict is Verdict.BREAK_RECORDED
    start = next(entry for entry in iter_entries(bench.path) if "break" in entry.body["metadata"])
    assert (start.body["metadata"]["rung"], start.body["metadata"]["kept"]) == ("recovered", 34)


def test_a_snapshot_is_used_when_it_holds_more_than_can_be_recovered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as log:
        for number in range(300):
            log.append(event(number))
        log.snapshot()
    bench.path.write_bytes(b"not a database at all" * 100)
    recovered = open_or_recover(bench.path, bench.signer, bench.options)
    recovered.log.close()
    assert (recovered.rung, recovered.kept) == (Rung.SNAPSHOT, 301)
    assert bench.verify().verdict is Verdict.BREAK_RECORDED


def test_with_nothing_left_a_new_log_begins_and_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(30)
    bench.path.write_bytes(b"\xa5" * 8192)
    recovered = open_or_recover(bench.path, bench.signer, bench.options)
    recovered.log.close()
    assert (recovered.rung, recovered.kept) == (Rung.NEW, 0)
    assert bench.verify().verdict is Verdict.BREAK_RECORDED


def test_a_locked_log_is_no_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open(), pytest.raises(AuditError, match="another process"):
        open_or_recover(bench.path, bench.signer, bench.options)
    assert not list(tmp_path.glob("*.damaged*"))


# -- when the machine says no -----------------------------------------------------------------------


def test_a_corrupt_page_is_unreadable_not_ok(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(300)
    corrupt(bench, 0.5)
    assert bench.verify().verdict in {Verdict.UNREADABLE, Verdict.REWRITTEN, Verdict.GAP}


def test_a_file_that_is_no_database_is_unreadable_and_one_that_is_not_there_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.write_bytes(b"hello" * 1000)
    assert bench.verify(witness=False).verdict is Verdict.UNREADABLE
    bench.path.unlink()
    with pytest.raises(AuditError, match="no audit log at"):
        bench.verify(witness=False)


def test_a_locked_database_fails_closed_for_a_security_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(QUIET, busy_seconds=0.05))
    log = bench.open()
    blocker = sqlite3.connect(bench.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(AuditError, match="locked"):
        log.append(event(kind=EventType.MERGE_APPROVED))
    with pytest.raises(AuditError, match="open the log anew"):
        log.append(event())
    blocker.execute("ROLLBACK")
    blocker.close()
    log.close()
    bench.fill(1)
    report = bench.verify()
    assert (report.verdict, len(report.declared)) == (Verdict.OK, 1)
    assert "merge_approved" not in {entry.body["event"] for entry in iter_entries(bench.path)}


def test_a_full_disk_fails_closed_with_a_clear_error_and_the_log_survives(tmp_path: Path) -> None:
    """The limit on file sizes stands for the disk: writes fail with the same error path in SQLite."""
    bench = Bench(tmp_path)
    bench.fill(2)
    code = f"""
import resource, signal, sys
from pathlib import Path
from tests.systems.kernel.audit_tools import *
from holdfast.systems.kernel.audit.store import AuditError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Bench(Path(sys.argv[1])).open()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for n in range(10_000):
    try:
        print(log.append(event(n, EventType.{EventType.MERGE_APPROVED.name})), flush=True)
    except AuditError as error:
        print(f"refused: {{error}}")
        break
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    *acknowledged, last = done.stdout.split("\n")[:-1]
    assert last.startswith("refused: ")
    assert "could not be written" in last
    bench.fill(1)
    assert bench.verify().verdict is Verdict.OK
    assert {int(line) for line in acknowledged} <= set(on_disk(bench))
    assert len(acknowledged) > 10
    assert resource.RLIMIT_FSIZE is not None
    assert signal.SIGXFSZ


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(AuditError, match="cannot be opened for writing"):
        AuditLog(tmp_path / "missing" / "audit.db", bench.signer, QUIET)
    with pytest.raises(AuditError, match="cannot be opened for writing"):
        AuditLog(Path("/proc/audit.db"), bench.signer, QUIET)
