"""The log survives a kill at any byte, and says what it mended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.systems.agentos.errors import StoreError
from holdfast.systems.agentos.integrations.local import LocalClient
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.journal import Journal, Mended, iter_lines
from holdfast.systems.agentos.privacy import LocalOnly

TURN = {"model": "glm-4.6", "tokens_in": 3, "tokens_out": 4, "measurement": {"feature_delta": 1}}


def record(folder: Path, turns: int) -> None:
    with Recorder(folder) as recorder:
        session = LocalClient(LocalOnly(), recorder).start({"session_id": "s"})
        for number in range(turns):
            session.log({**TURN, "turn_id": f"t{number}"})


def test_cut_at_every_byte_of_its_last_two_lines_the_log_keeps_every_whole_line(tmp_path: Path) -> None:
    """A cut is what a kill inside `write` leaves. Each is opened, gone on with, and counted."""
    record(tmp_path / "whole", 3)
    whole = (tmp_path / "whole" / "windows.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1]) - len(lines[-2])
    seen = set()
    for cut in range(start, len(whole) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "windows.jsonl").write_bytes(whole[:cut])
        with Recorder(folder) as recorder:
            kept = (folder / "windows.jsonl").read_bytes()
            repairs = recorder.repairs
            turns = recorder.turns
        finished = cut + 1 <= len(whole) and whole[cut : cut + 1] == b"\n"
        expected = whole[: cut + finished] if finished else whole[: whole.rfind(b"\n", 0, cut) + 1]
        assert kept == expected
        assert turns == kept.count(b'"type":"turn"')
        assert bool(repairs) == (not whole[:cut].endswith(b"\n"))
        seen |= {repair.how for repair in repairs}
        if repairs and not finished:
            assert whole[len(kept) : cut].hex() in (folder / "windows.jsonl.torn").read_text()
    assert seen == {Mended.FINISHED, Mended.SET_ASIDE}


def test_a_mended_log_goes_on_and_the_retried_turn_counts_once(tmp_path: Path) -> None:
    record(tmp_path, 3)
    log = tmp_path / "windows.jsonl"
    log.write_bytes(log.read_bytes()[:-10])
    with Recorder(tmp_path) as recorder:
        session = LocalClient(LocalOnly(), recorder)
        del session
        event = {"type": "turn", "v": 1, "session_id": "s", "input_kind": "text", "latency_ms": 0, **TURN}
        assert [recorder.log({**event, "turn_id": f"t{n}"}).value for n in range(3)] == [
            "already",
            "already",
            "recorded",
        ]
    assert log.read_bytes().count(b'"type":"turn"') == 3


def test_glm_counts_are_made_good_after_a_kill_between_the_log_and_them(tmp_path: Path) -> None:
    record(tmp_path, 4)
    glm = tmp_path / "glm_counts.jsonl"
    whole = glm.read_bytes()
    glm.write_bytes(whole[: whole.rfind(b"\n", 0, -1) + 1])
    Recorder(tmp_path).close()
    assert glm.read_bytes() == whole


def test_two_processes_cannot_write_one_log(tmp_path: Path) -> None:
    with Recorder(tmp_path), pytest.raises(StoreError, match="in use by another process"):
        Recorder(tmp_path, patience=0.05)


@pytest.mark.parametrize("limit", [1500, 3000, 5000])
def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, limit: int) -> None:
    """RLIMIT_FSIZE stops a write in its middle, as a full disk does: what the caller was told of is there."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from holdfast.systems.agentos.integrations.recorder import Recorder\n"
        "from holdfast.systems.agentos.integrations.local import LocalClient\n"
        "from holdfast.systems.agentos.privacy import LocalOnly\n"
        "from holdfast.systems.agentos.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))\n"
        "recorder = Recorder(Path(sys.argv[1]))\n"
        "session = LocalClient(LocalOnly(), recorder).start({'session_id': 's'})\n"
        "done = 0\n"
        "try:\n"
        "    while True:\n"
        "        session.log({'turn_id': f't{done}', 'model': 'm', 'tokens_in': 1, 'tokens_out': 1})\n"
        "        done += 1\n"
        "except StoreError as problem:\n"
        "    print(done, problem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "d"), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    acknowledged, _, words = done.stdout.partition(" ")
    assert "as large as it may get" in words or "disk is full" in words
    lines = list(iter_lines(tmp_path / "d" / "windows.jsonl"))
    assert len(lines) == int(acknowledged) + 1
    assert (tmp_path / "d" / "windows.jsonl").read_bytes().endswith(b"\n")


def test_a_log_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        Recorder(tmp_path / "file" / "data")


def test_reading_passes_over_a_line_past_its_limit_without_keeping_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"{}\n" + b"x" * (3 << 20) + b"\n{}\n{")
    found = [(line.start, line.end, len(line.content)) for line in iter_lines(path)]
    assert found == [(0, 3, 2), (3, (3 << 20) + 4, 1 << 20), ((3 << 20) + 4, (3 << 20) + 7, 2)]


def test_nul_bytes_left_by_power_loss_are_set_aside(tmp_path: Path) -> None:
    record(tmp_path, 1)
    log = tmp_path / "windows.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b"\0" * 4096)
    with Recorder(tmp_path) as recorder:
        assert [repair.how for repair in recorder.repairs] == [Mended.SET_ASIDE]
    assert log.read_bytes() == whole


def test_an_acknowledged_line_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log")
    journal.append(b"one\n")
    assert os.read(os.open(tmp_path / "log", os.O_RDONLY), 10) == b"one\n"
    journal.close()
