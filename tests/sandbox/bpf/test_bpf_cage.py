"""Nothing that is asked about executes, and what cannot be asked says so."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.action import ALLOW, ERRNO, KILL_PROCESS
from holdfast.sandbox.bpf.cage import Answer, Cage, CannotReplayError, Fate
from holdfast.sandbox.bpf.call import Call

from .filters_of_tests import ALLOWED, asks_the_kernel, compiled, privileged, program

pytestmark = asks_the_kernel

OPEN = program(ALLOWED)
PASSED = Answer(Fate.PASSED)


def native(number: int, *args: int) -> Call:
    first, second, third, fourth, fifth, sixth = (*args, *[0] * (6 - len(args)))
    return Call(Abi.X86_64.arch, number, (first, second, third, fourth, fifth, sixth))


def test_a_call_that_passes_does_not_execute() -> None:
    """kill(this process, SIGUSR1) would be seen; so would exit, and a second child of ours."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with Cage([OPEN]) as cage:
            for call in (native(62, os.getpid(), signal.SIGUSR1), native(60, 1), native(231, 1), native(57)):
                assert cage.ask(Abi.X86_64, call) == PASSED
            compat_kill = Call(Abi.I386.arch, 37, (os.getpid(), signal.SIGUSR1, 0, 0, 0, 0))
            assert cage.ask(Abi.I386, compat_kill) == PASSED
            x32_kill = Call(Abi.X32.arch, 0x4000_0000 | 62, (os.getpid(), signal.SIGUSR1, 0, 0, 0, 0))
            assert cage.ask(Abi.X32, x32_kill) == PASSED
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == []


def test_the_control_would_have_executed() -> None:
    """The same kill from here is seen, so the test above could have failed."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_a_child_that_was_killed_is_replaced() -> None:
    raw = compiled("allow", ("kill", "mount"), ("trap", "bpf"), ("errno 13", "chroot"))
    with Cage([raw]) as cage:
        for _ in range(3):
            assert cage.ask(Abi.X86_64, native(165)).fate is Fate.KILLED
            assert cage.ask(Abi.X86_64, native(321)).fate is Fate.TRAPPED
            assert cage.ask(Abi.X86_64, native(161)) == Answer(Fate.FAILED, 13)
            assert cage.ask(Abi.X86_64, native(39)) == PASSED


def test_no_child_is_left_behind() -> None:
    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")

    before = children()
    with Cage([OPEN]) as cage:
        cage.ask(Abi.X86_64, native(39))
        assert children() != before
    assert children() == before


@pytest.mark.parametrize("number", [335, 336], ids=["uretprobe", "uprobe"])
def test_numbers_that_no_filter_sees_are_never_made(number: int) -> None:
    with Cage([OPEN]) as cage, pytest.raises(CannotReplayError, match="which no filter sees"):
        cage.ask(Abi.X86_64, native(number))


def test_a_foreign_machine_call_is_refused() -> None:
    with Cage([OPEN]) as cage, pytest.raises(CannotReplayError, match="aarch64 call cannot be made"):
        cage.ask(Abi.AARCH64, Call(Abi.AARCH64.arch, 40))


@privileged
def test_a_stack_is_rebuilt_though_its_first_filter_denies_loading_the_second() -> None:
    first, second = compiled("allow", ("errno 1", "seccomp")), compiled("allow", ("errno 2", "mount"))
    with Cage([first, second]) as cage:
        assert cage.ask(Abi.X86_64, native(165)) == Answer(Fate.FAILED, 2)
        assert cage.ask(Abi.X86_64, native(317)) == Answer(Fate.FAILED, 1)


def test_a_filter_that_cannot_be_loaded_says_so() -> None:
    with (
        Cage([program("ld #k 1")]) as cage,
        pytest.raises(CannotReplayError, match="could not be loaded: EINVAL"),
    ):
        cage.ask(Abi.X86_64, native(39))


def test_minus_one_is_a_number_like_any_other() -> None:
    raw = program("ld [k] 0", "jeq #k 0xffffffff 0 1", f"ret #k {ERRNO | 5}", f"ret #k {ALLOW}")
    with Cage([raw]) as cage:
        assert cage.ask(Abi.X86_64, native(0xFFFF_FFFF)) == Answer(Fate.FAILED, 5)


def test_a_kill_leaves_no_core_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        with Cage([program(f"ret #k {KILL_PROCESS}")]) as cage:
            assert cage.ask(Abi.X86_64, native(39)).fate is Fate.KILLED
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert list(tmp_path.iterdir()) == []


UNDER_A_FILTER = """
import ctypes
libc = ctypes.CDLL(None)
code = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"), 8)
program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program)) == 0
from holdfast.sandbox.bpf.cage import obstacle
print(obstacle())
"""


def test_under_a_filter_of_our_own_nothing_is_replayed() -> None:
    """That filter would be inherited by the child, and its denials taken for those of the one under test."""
    ran = subprocess.run([sys.executable, "-c", UNDER_A_FILTER], capture_output=True, text=True, check=True)
    assert "under a filter of its own" in ran.stdout
