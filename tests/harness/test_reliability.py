"""What a harness leaves behind: nothing that lives, and nothing that the next run does not sweep."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast import clock
from holdfast.harness.lock import HeldError, hold, holder
from holdfast.harness.service import free_port
from holdfast.harness.sweep import is_gone, owned_prefix, start_time, sweep
from holdfast.sandbox import read_host

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))


def holdfast(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HOLDFAST, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


HOME = Path(read_host().home)


def left_in(*folders: Path, of: int | None = None) -> list[str]:
    """Temporary things of a harness, or of the one with that process id."""
    names = [p.name for folder in folders for p in folder.iterdir() if re.match(r"\.?holdfast-", p.name)]
    return sorted(name for name in names if of is None or f"-{of}-" in name)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def dead_process() -> tuple[int, int]:
    """A process that has ended, and when it had begun."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        start = start_time(process.pid)
    assert start is not None
    return process.pid, start


@contextmanager
def harness_at_work(tmp: Path, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose service never becomes ready, so that it is in the middle of its work; its folder is there."""
    port = free_port()
    words = [HOLDFAST, "deny", "--isolation", "bwrap", "--ready", f"http://127.0.0.1:{port}/never", "--"]
    service = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp)}
    with subprocess.Popen(
        [*words, *service], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        clock.wait_until(lambda: answers(port), what="the service being up", seconds=20)
        assert len(left_in(tmp, HOME, of=process.pid)) == 2, "its folder and its canary"
        yield process
        process.kill()


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    tmp, cwd = tmp_path / "tmp", tmp_path / "cwd"
    tmp.mkdir()
    cwd.mkdir()
    return tmp, cwd


def test_a_run_that_succeeds_and_one_that_fails_leave_no_temporary_folder(place: tuple[Path, Path]) -> None:
    tmp, cwd = place
    environment = {"TMPDIR": str(tmp)}
    assert holdfast("deny", "--isolation", "none", cwd=cwd, **environment).returncode == 0
    assert left_in(tmp) == []
    assert holdfast("deny", "--isolation", "bwrap", cwd=cwd, **environment, PATH=str(tmp)).returncode == 2
    assert left_in(tmp) == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "SIGTERM"]
)
def test_an_interrupted_run_removes_its_folders_itself(
    number: int, status: int, place: tuple[Path, Path]
) -> None:
    with harness_at_work(*place) as process:
        process.send_signal(number)
        assert process.wait(20) == status
    assert left_in(place[0], HOME, of=process.pid) == []


def test_what_kill_9_leaves_is_swept_by_the_next_run(place: tuple[Path, Path]) -> None:
    tmp, cwd = place
    with harness_at_work(*place) as process:
        process.kill()
        process.wait(20)
    assert len(left_in(tmp, HOME, of=process.pid)) == 2, "a folder and a canary, with nobody to remove them"
    assert holdfast("deny", "--isolation", "none", cwd=cwd, TMPDIR=str(tmp)).returncode == 0
    assert left_in(tmp, HOME, of=process.pid) == []


def test_the_folder_of_a_living_owner_is_not_swept(tmp_path: Path) -> None:
    mine = tmp_path / f"{owned_prefix()}x"
    mine.mkdir()
    assert sweep(tmp_path) == ()
    assert mine.is_dir()


def test_a_process_id_that_is_used_again_does_not_keep_a_folder(tmp_path: Path) -> None:
    """Same id, other start time: the owner is gone."""
    namespace = owned_prefix().split("-")[1]
    old = tmp_path / f"holdfast-{namespace}-{os.getpid()}-1-x"
    old.mkdir()
    (old / "file").write_text("x")
    assert sweep(tmp_path) == (old,)
    assert not old.exists()


def test_what_is_not_ours_or_cannot_be_told_is_not_swept(tmp_path: Path) -> None:
    pid, start = dead_process()
    namespace = owned_prefix().split("-")[1]
    assert is_gone(f"holdfast-{namespace}-{pid}-{start}-x")
    for name in ("holdfast-notes", f"holdfast-1-{pid}-{start}-x", f"other-{namespace}-{pid}-{start}-x"):
        (tmp_path / name).mkdir()
        assert not is_gone(name)
    assert sweep(tmp_path) == ()


def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    pid, start = dead_process()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    link = tmp_path / f"holdfast-{owned_prefix().split('-')[1]}-{pid}-{start}-x"
    link.symlink_to(kept)
    assert sweep(tmp_path) == (link,)
    assert (kept / "file").read_text() == "x"


def test_two_harnesses_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    runs = [
        subprocess.Popen([HOLDFAST, "deny", "--quiet"], cwd=folder, stdout=subprocess.PIPE)
        for folder in folders
    ]
    assert [run.communicate(timeout=120)[0] and run.returncode for run in runs] == [0, 0]


def test_a_second_run_in_the_same_checkout_waits_for_the_first(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    said: list[str] = []
    entered, waiting = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        said.append(line)
        waiting.set()

    def second() -> None:
        with hold(results, seconds=20, told=tell):
            entered.set()

    with hold(results, told=said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        assert not entered.is_set()
    assert entered.wait(20)
    thread.join()
    assert len(said) == 1
    assert f"is held by process {os.getpid()}" in said[0]


def test_a_run_that_cannot_have_the_folder_says_who_holds_it(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert holder(tmp_path).startswith(f"process {os.getpid()} (`")
        with (
            pytest.raises(HeldError, match=f"still held by process {os.getpid()}"),
            hold(tmp_path, seconds=0.05, told=lambda _: None),
        ):
            raise AssertionError("it must not be entered")
    finally:
        os.close(descriptor)


def test_a_full_disk_is_70_with_the_reason_and_the_last_good_report_stays(tmp_path: Path) -> None:
    """A results folder on a file system of 24 KiB, filled up but for less than a run writes."""
    results = tmp_path / "results"
    results.mkdir()
    script = (
        f"echo good > {results}/SANDBOX-REPORT.md; {HOLDFAST} deny --isolation none --quiet; echo code $?; "
        f"cat {results}/SANDBOX-REPORT.md; ls -A {results}"
    )
    words = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        "24576",
        "--tmpfs",
        str(results),
        "/bin/sh",
        "-c",
        script,
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "code 70" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "\ngood\n" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith(".SANDBOX")]
