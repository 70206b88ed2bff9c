"""Filters read out of running processes: the bytes that were loaded, every thread, and nobody harmed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.clock import wait_until
from holdfast.sandbox.bpf.live import CannotReadError, read_live
from holdfast.sandbox.refusal import BadInputError

from .filters_of_tests import PRIVILEGED, compiled, privileged

CHILD = """
import ctypes, sys, threading
libc = ctypes.CDLL(None, use_errno=True)

def load(raw):
    code = ctypes.create_string_buffer(raw, len(raw))
    program = (ctypes.c_uint64 * 2)(len(raw) // 8, ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program)) == 0, ctypes.get_errno()

def wait():
    ready.release()
    threading.Event().wait()

own, threads = [[bytes.fromhex(word) for word in part.split()] for part in sys.argv[1].split("/")]
for raw in own:
    load(raw)
ready = threading.Semaphore(0)
for raw in threads:
    threading.Thread(target=lambda: (load(raw), wait()), daemon=True).start()
    ready.acquire()
print("ready", flush=True)
for line in sys.stdin:
    print("echo", line.strip(), flush=True)
"""

FIRST = compiled("allow", ("errno 1", "mount"))
SECOND = compiled("allow", ("errno 13", "bpf"), ("kill", "acct"))


@contextmanager
def running(own: Sequence[bytes] = (), threads: Sequence[bytes] = ()) -> Iterator[subprocess.Popen[str]]:
    """A child under `own` filters, with one more thread for each of `threads` that adds that one."""
    argument = "/".join(" ".join(raw.hex() for raw in part) for part in (own, threads))
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            yield child
        finally:
            child.kill()


@privileged
def test_the_bytes_that_were_loaded_come_back_oldest_first() -> None:
    with running([FIRST, SECOND]) as child:
        assert read_live(child.pid) == ((FIRST, SECOND),)


@privileged
def test_threads_under_other_filters_are_another_stack() -> None:
    with running([FIRST], threads=[SECOND, SECOND]) as child:
        assert read_live(child.pid) == ((FIRST,), (FIRST, SECOND))


def test_a_process_without_filters_is_an_empty_stack() -> None:
    with running() as child:
        assert read_live(child.pid) == ((),)


@privileged
def test_the_process_goes_on_unharmed() -> None:
    with running([FIRST], threads=[SECOND]) as child:
        for _ in range(20):
            read_live(child.pid)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("still here\n")
        child.stdin.flush()
        assert child.stdout.readline() == "echo still here\n"
        for task in Path(f"/proc/{child.pid}/task").iterdir():
            status = (task / "status").read_text(encoding="utf-8")
            assert "TracerPid:\t0\n" in status
            assert "State:\tT" not in status


def test_a_process_that_is_gone_is_bad_input() -> None:
    with running() as child:
        pid = child.pid
    with pytest.raises(BadInputError, match=f"no process {pid}"):
        read_live(pid)


READER = """
import os, sys
from holdfast.clock import wait_until
from holdfast.sandbox.bpf.live import CannotReadError, read_live
{before}
try:
    print(read_live(int(sys.argv[1])))
except CannotReadError as error:
    print("cannot tell:", error)
"""

UNDER_A_FILTER = """
import ctypes
libc = ctypes.CDLL(None)
code = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"), 8)
program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program)) == 0
"""

ANOTHER_USER = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


def read_by(before: str, pid: int) -> str:
    return subprocess.run(
        [sys.executable, "-c", READER.format(before=before), str(pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@privileged
def test_another_user_may_not_read() -> None:
    with running([FIRST]) as child:
        assert "cannot tell: may not trace thread" in read_by(ANOTHER_USER, child.pid)


@privileged
def test_a_reader_under_a_filter_may_not_read() -> None:
    with running([FIRST]) as child:
        said = read_by(UNDER_A_FILTER, child.pid)
        assert "cannot tell: the filters of thread" in said
        assert "no filter of one's own" in said


OWN_CHILD = """
import ctypes
libc = ctypes.CDLL(None)
if PRIVILEGED:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
libc.prctl(4, 1)  # dumpable again, so that our own user may trace us
reading, writing = os.pipe()
started, loaded = os.pipe()
child = os.fork()
if not child:
    os.close(writing)
    code = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"), 8)
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(code))
    libc.prctl(38, 1, 0, 0, 0)
    libc.prctl(22, 2, ctypes.byref(program))
    os.write(loaded, b"x")
    os.read(reading, 1)
    os._exit(0)
os.read(started, 1)
sys.argv[1] = str(child)
"""


def test_an_ordinary_user_may_trace_a_child_but_not_read_its_filters() -> None:
    said = read_by(OWN_CHILD.replace("PRIVILEGED", str(PRIVILEGED)), os.getpid())
    assert "cannot tell: the filters of thread" in said
    assert "CAP_SYS_ADMIN" in said


@privileged
def test_a_process_with_another_tracer_cannot_be_told() -> None:
    with running([FIRST]) as child, traced(child.pid), pytest.raises(CannotReadError, match="another tracer"):
        read_live(child.pid)


@privileged
def test_a_stopped_process_stays_stopped() -> None:
    with running([FIRST]) as child:
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert read_live(child.pid) == ((FIRST,),)
        status = Path(f"/proc/{child.pid}/status")
        # let go, it runs a few instructions in the kernel on its way back into the stop
        wait_until(lambda: "State:\tT (stopped)" in status.read_text(), what="the stop to stay", seconds=5)
        os.kill(child.pid, signal.SIGCONT)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("on\n")
        child.stdin.flush()
        assert child.stdout.readline() == "echo on\n"


TRACER = """
import sys
from holdfast.sandbox.bpf import ptrace
ptrace.seize(int(sys.argv[1]))
print("traced", flush=True)
sys.stdin.read()
"""


@contextmanager
def traced(pid: int) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "traced\n"
        try:
            yield
        finally:
            tracer.communicate()
