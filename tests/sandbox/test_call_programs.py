"""The ELF files that the project writes, and the table of doors that they and the other ways of calling try."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.sandbox import load_profile
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.kernel_calls import load_filter, set_no_new_privs
from holdfast.sandbox.probes import all_probes, catalogue, liveness_of
from holdfast.sandbox.probes.doors import DOORS
from holdfast.sandbox.probes.programs import call_in_program
from holdfast.sandbox.profile import Action, Profile

on_x86_64 = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the programs are machine code of x86-64"
)

GETPID = {"i386": 20, "x86_64": 39}
MOUNT = {"i386": 21, "x86_64": 165}
BOGUS = (1, 1, 1, 0, 0)


def under(profile: Profile, folder: Path, abi: str, number: int, arguments: tuple[int, ...]) -> int:
    """In a child under the profile's filter: 0 when the call returned, its errno, or minus the signal."""
    code = assemble(profile).code
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            set_no_new_privs()
            load_filter(code)
            call_in_program(str(folder), abi, number, arguments)
            status = 0
        except OSError as error:
            status = error.errno or 98
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@on_x86_64
@pytest.mark.parametrize("abi", ["i386", "x86_64"])
def test_a_program_tells_what_its_call_returned(abi: str, tmp_path: Path) -> None:
    assert 1 < call_in_program(str(tmp_path), abi, GETPID[abi], ()) != os.getpid()
    assert list(tmp_path.iterdir()) == []


@on_x86_64
@pytest.mark.parametrize("abi", ["i386", "x86_64"])
def test_a_program_tells_the_kernels_errno(abi: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call_in_program(str(tmp_path), abi, {"i386": 54, "x86_64": 16}[abi], (0xFFFFFFFF, 0x5412, 0))
    assert caught.value.errno == errno.EBADF


@on_x86_64
def test_a_filter_that_kills_the_other_abi_is_heard_as_its_signal(tmp_path: Path) -> None:
    standard = load_profile("standard")
    assert under(standard, tmp_path, "i386", GETPID["i386"], ()) == -signal.SIGSYS
    assert under(standard, tmp_path, "x86_64", GETPID["x86_64"], ()) == 0


@on_x86_64
def test_a_filter_that_answers_the_other_abi_with_an_errno_is_heard_too(tmp_path: Path) -> None:
    both = replace(load_profile("standard"), architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))
    assert under(both, tmp_path, "i386", MOUNT["i386"], BOGUS) == errno.EPERM
    assert under(both, tmp_path, "i386", GETPID["i386"], ()) == 0


@on_x86_64
def test_a_filter_stays_after_execve(tmp_path: Path) -> None:
    assert under(load_profile("standard"), tmp_path, "x86_64", MOUNT["x86_64"], BOGUS) == errno.EPERM


def test_ids_are_unique_in_the_whole_catalogue_and_the_default_battery_comes_first() -> None:
    ids = [probe.id for probe in catalogue()]
    assert len(set(ids)) == len(ids) > 300
    assert ids[: len(all_probes())] == [probe.id for probe in all_probes()]
    assert all(liveness_of(probe.family) for probe in catalogue())


def test_each_call_of_each_forbidden_act_has_a_door_of_that_act() -> None:
    """But `connect`, which every profile needs and whose act is about what is inherited, and `personality`."""
    doors = {(door.act, door.call) for door in DOORS}
    calls = {(act.id, attempt.name) for act in ACTS.values() for attempt in act.attempts if attempt.name}
    without = {name for _, name in calls - doors}
    assert without - {"socketcall"} == {"connect", "personality"}
    assert {probe.act for probe in catalogue()} >= set(ACTS)


def test_every_door_is_an_act_of_the_catalogue() -> None:
    assert {door.act for door in DOORS} <= set(ACTS)
    assert all(door.errnos for door in DOORS)


def test_who_wants_the_default_battery_does_not_read_the_rest() -> None:
    script = "import sys, holdfast.sandbox.probes as p; p.all_probes(); print('holdfast.sandbox.probes.further' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_rule_of_a_shipped_profile_kills_the_programs_own_telling() -> None:
    """A program tells by write and exit_group, so these must be allowed or a denial would be silence."""
    for name in ("strict", "standard", "standard-net"):
        rules = load_profile(name).rules
        for call in ("write", "exit_group", "execve"):
            assert any(call in r.names and r.action is Action.ALLOW and not r.conditions for r in rules)
