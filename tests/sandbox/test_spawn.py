"""Starting, ending and supervising: threads, death, descriptors, signals, exit status."""

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast import clock
from holdfast.sandbox import (
    BadInputError,
    CannotConfineError,
    Command,
    Confined,
    Isolation,
    Spawner,
    confine,
    load_profile,
)
from holdfast.sandbox.spawn import Launch

STANDARD = load_profile("standard")
EACH = pytest.mark.parametrize("isolation", list(Isolation), ids=lambda i: i.value)


def start(
    spawner: Spawner, isolation: Isolation, *argv: str, folder: Path | None = None, **fds: int
) -> Confined:
    command = Command(argv=argv, inherited=dict(os.environ), writable=(str(folder),) if folder else ())
    handed = {0: 0, 1: fds.get("out", 1), 2: 2}
    return confine(spawner, isolation, command, profile=STANDARD, descriptors=handed)


def output(spawner: Spawner, isolation: Isolation, *argv: str) -> tuple[int, str]:
    reader, writer = os.pipe()
    try:
        with start(spawner, isolation, *argv, out=writer) as confined:
            os.close(writer)
            with os.fdopen(reader) as file:
                text = file.read()
            return confined.wait(10), text
    except BaseException:
        os.close(reader)
        raise


def gone(pid: int) -> bool:
    """Not there, or a zombie that only its parent keeps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@EACH
@pytest.mark.parametrize("status", [0, 1, 3, 77, 127, 255])
def test_the_exit_status_is_the_commands_own(spawner: Spawner, isolation: Isolation, status: int) -> None:
    with start(spawner, isolation, "/bin/sh", "-c", f"exit {status}") as confined:
        assert confined.wait(10) == status


@EACH
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda s: s.name)
def test_a_death_by_signal_is_128_and_the_signal(spawner: Spawner, isolation: Isolation, number: int) -> None:
    with start(spawner, isolation, "/bin/sh", "-c", f"kill -{int(number)} $$") as confined:
        assert confined.wait(10) == 128 + number


@EACH
def test_a_signal_is_forwarded_to_the_command_itself(spawner: Spawner, isolation: Isolation) -> None:
    reader, writer = os.pipe()
    script = "trap 'exit 42' TERM; echo ready; while :; do read -t 1 x || sleep 0.05; done"
    with start(spawner, isolation, "/bin/bash", "-c", script, out=writer) as confined:
        os.close(writer)
        assert os.read(reader, 16) == b"ready\n"
        confined.signal(signal.SIGTERM)
        assert confined.wait(10) == 42
    os.close(reader)


@EACH
def test_no_descriptor_above_2_leaks_in(spawner: Spawner, isolation: Isolation) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    listing = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')))"
    try:
        status, text = output(spawner, isolation, sys.executable, "-I", "-S", "-c", listing)
    finally:
        os.close(leak)
    assert (status, text.strip()) == (0, "[0, 1, 2]")


@EACH
def test_a_sandbox_started_from_a_thread_outlives_that_thread(spawner: Spawner, isolation: Isolation) -> None:
    started: list[Confined] = []
    thread = threading.Thread(target=lambda: started.append(start(spawner, isolation, "/bin/sleep", "60")))
    thread.start()
    thread.join()
    with started[0] as confined:
        assert not gone(confined.pid)
        with pytest.raises(TimeoutError):
            confined.wait(0.2)
        assert not gone(confined.pid)


@EACH
def test_closing_ends_a_grandchild_that_called_setsid(spawner: Spawner, isolation: Isolation) -> None:
    seconds = unused_seconds()
    confined = start(spawner, isolation, "/bin/sh", "-c", f"setsid sleep {seconds} & wait")
    clock.wait_until(lambda: sleepers(seconds), what="the grandchild", seconds=10)
    confined.close()
    assert not sleepers(seconds)


@EACH
def test_what_a_command_leaves_behind_ends_with_it(
    spawner: Spawner, isolation: Isolation, tmp_path: Path
) -> None:
    mark, seconds = tmp_path / "mark", unused_seconds()
    tmp_path.chmod(0o777)
    script = f"setsid sh -c 'sh -c \"echo started > {mark}; exec sleep {seconds}\" &' & while ! [ -s {mark} ]; do :; done"
    with start(spawner, isolation, "/bin/sh", "-c", script, folder=tmp_path) as confined:
        assert confined.wait(10) == 0
    assert mark.read_text() == "started\n"
    assert not sleepers(seconds)


def unused_seconds() -> str:
    """A number of seconds that no other test sleeps for."""
    return str(1_000_000 + secrets.randbelow(1_000_000_000))


def sleepers(seconds: str) -> list[int]:
    """Living processes that sleep for exactly so long."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", seconds.encode()] and not gone(int(entry.name)):
                found.append(int(entry.name))
    return found


HARNESS = """
import os, sys
from pathlib import Path
from holdfast.sandbox import *
with Spawner() as spawner:
    command = Command(argv=("/bin/sh", "-c", f"setsid sleep {sys.argv[2]} & echo up > {sys.argv[3]}; wait"),
                      inherited=dict(os.environ), writable=(str(Path(sys.argv[3]).parent),))
    with confine(spawner, parse_isolation(sys.argv[1]), command, profile=load_profile("standard")) as confined:
        confined.wait()
"""


@EACH
def test_killing_the_harness_with_9_ends_the_whole_sandbox(isolation: Isolation, tmp_path: Path) -> None:
    mark, seconds = tmp_path / "mark", unused_seconds()
    tmp_path.chmod(0o777)
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, isolation.value, seconds, str(mark)])
    try:
        clock.wait_until(mark.exists, what="the sandbox being up", seconds=15)
        clock.wait_until(lambda: sleepers(seconds), what="the grandchild", seconds=5)
    finally:
        harness.kill()
        harness.wait()
    clock.wait_until(lambda: not sleepers(seconds), what="the end of the sandbox", seconds=10)


def test_a_killed_spawner_takes_its_commands_with_it() -> None:
    with Spawner() as own:
        confined = start(own, Isolation.SECCOMP, "/bin/sleep", "60")
        os.kill(own.pid, signal.SIGKILL)
        with pytest.raises(CannotConfineError, match="supervisor is gone"):
            confined.wait(10)
        clock.wait_until(lambda: gone(confined.pid), what="the command's end", seconds=5)
        confined.close()
        with pytest.raises(CannotConfineError, match="the spawner is gone"):
            start(own, Isolation.SECCOMP, "/bin/true")


def test_many_sandboxes_at_once_do_not_disturb_each_other(spawner: Spawner) -> None:
    running = [start(spawner, Isolation.SECCOMP, "/bin/sh", "-c", f"exit {n}") for n in range(20)]
    assert [confined.wait(10) for confined in running] == list(range(20))
    for confined in running:
        confined.close()


@pytest.mark.parametrize("isolation", [Isolation.NONE, Isolation.SECCOMP], ids=lambda i: i.value)
def test_a_command_that_is_not_there_is_the_callers_fault(spawner: Spawner, isolation: Isolation) -> None:
    with pytest.raises(BadInputError, match=r"could not be executed: No such file.*check its path"):
        start(spawner, isolation, "/no/such/command")


def test_a_folder_that_is_not_there_is_the_callers_fault(spawner: Spawner) -> None:
    with pytest.raises(BadInputError, match="working directory"):
        confine(spawner, Isolation.NONE, Command(("/bin/true",), cwd="/no/such"), profile=None)


def test_waiting_past_the_deadline_is_a_timeout_and_the_command_goes_on(spawner: Spawner) -> None:
    with start(spawner, Isolation.NONE, "/bin/sleep", "60") as confined:
        with pytest.raises(TimeoutError):
            confined.wait(0.05)
        assert not gone(confined.pid)
    assert gone(confined.pid)


def test_the_environment_never_stands_on_a_command_line(spawner: Spawner) -> None:
    secret = "secret-" + os.urandom(8).hex()
    command = Command(("/bin/sleep", "60"), environment={"TOKEN": secret}, inherited={})
    with confine(spawner, Isolation.BWRAP, command, profile=STANDARD) as confined:
        lines = Path(f"/proc/{confined.pid}/cmdline").read_bytes()
        assert b"--seccomp" in lines
        assert secret.encode() not in lines


def without_internal_signals(text: str) -> str:
    """glibc keeps 32 and 33 for its threads, and an ancestor's posix_spawn may have left them ignored."""
    kept = ~(0b11 << 31)
    return re.sub(r"(Sig\w+:\t)([0-9a-f]{16})", lambda m: f"{m[1]}{int(m[2], 16) & kept:016x}", text)


ASK = (
    "grep -E '^(Cap|NoNewPrivs|Seccomp|Sig[BICP])' /proc/self/status; ulimit -n; ls /proc/self/fd; env | sort"
)


def test_the_native_program_and_the_forked_child_leave_a_command_the_same() -> None:
    """Two implementations of the steps must agree; without memfd execution the spawner falls back by itself."""
    environment = {"PATH": "/usr/bin:/bin", "X": "y"}
    command = Command(("/bin/sh", "-c", ASK), environment=environment, inherited={})
    seen = []
    for forked in (False, True):
        reader, writer = os.pipe()
        with Spawner(native=not forked) as own:
            handed = {0: 0, 1: writer, 2: 2}
            with confine(own, Isolation.SECCOMP, command, profile=STANDARD, descriptors=handed) as confined:
                os.close(writer)
                with os.fdopen(reader) as file:
                    seen.append(file.read())
                assert confined.wait(10) == 0
    assert without_internal_signals(seen[0]) == without_internal_signals(seen[1])
    assert "Seccomp:\t2" in seen[0]
    assert "CapBnd:\t0000000000000000" in seen[0] or os.getuid() != 0


@pytest.mark.parametrize("native", [True, False], ids=["native", "forked"])
def test_a_filter_that_the_kernel_refuses_is_told_as_that_step(native: bool) -> None:
    launch = Launch(steps=(("no_new_privs",), ("filter", b"\xff" * 8), ("execute", ["/bin/true"], {})))
    with (
        Spawner(native=native) as own,
        pytest.raises(CannotConfineError, match="step `filter` failed: Invalid argument"),
    ):
        own.launch(launch)


@EACH
def test_many_starts_leave_no_descriptor_behind(spawner: Spawner, isolation: Isolation) -> None:
    def held(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    counts = []
    for _ in range(3):
        for _ in range(4):
            with start(spawner, isolation, "/bin/true") as confined:
                assert confined.wait(10) == 0
        counts.append((held(os.getpid()), held(spawner.pid)))
    # The spawner closes its end just after it has told the last exit, so it is waited for.
    clock.wait_until(lambda: held(spawner.pid) <= counts[0][1], what="the spawner's descriptors", seconds=5)
    assert counts[1][0] == counts[2][0]
