"""The rest of the catalogue, run for real: what is held, what is left open and said so, and planted faults."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.harness.battery import plant_home, run_arm, stage_for
from holdfast.harness.gate import Outcome
from holdfast.harness.openings import LEFT_OPEN
from holdfast.harness.run_id import Canaries
from holdfast.sandbox import Host, Isolation, Spawner, load_profile
from holdfast.sandbox.confine import policy_for
from holdfast.sandbox.instance import bring_up, scratch_command
from holdfast.sandbox.plan import Filter
from holdfast.sandbox.probes import FIVE, Probe, catalogue
from holdfast.sandbox.verdict import ArmOutcome
from tests.running import report_of, run

BWRAP, SECCOMP = Isolation.BWRAP, Isolation.SECCOMP


def share(*, five: bool = True) -> tuple[Probe, ...]:
    """The machine's own ABI whole, and of the other ways of calling one act each."""
    native = os.uname().machine
    kept = [
        p
        for p in catalogue()
        if (p.family not in FIVE and p.variant == native)
        or p.act.startswith("abi.")
        or (p.act in {"mount.classic", "uring", "tty.sti"} and p.variant in {"i386", "thread", "execve"})
        or (five and p.variant == native and p.family in FIVE)
    ]
    return tuple(p for p in kept if p.variant != "x32" or p.act == "abi.x32")


def verdicts(folder: Path, isolation: Isolation) -> dict[str, Any]:
    document = json.loads((folder / f"SANDBOX_{isolation.value}.json").read_text())
    return {**{probe["id"]: probe["verdict"] for probe in document["probes"]}, **document["acts"]}


def test_our_profile_holds_the_catalogue_and_says_what_it_leaves_open(tmp_path: Path) -> None:
    concluded = run(tmp_path, SECCOMP, BWRAP, probes=share())
    assert concluded.code == 0, report_of(concluded)
    reasons = " ".join(concluded.overall["catalogue"].reasons)
    for isolation in (SECCOMP, BWRAP):
        found = verdicts(tmp_path, isolation)
        opened = {act for act, verdict in found.items() if verdict == "breached" and "/" not in act}
        assert opened - {"reach.unix", "reach.home", "reach.environment"} <= set(LEFT_OPEN[isolation])
        assert "tty.sctty is left open" in reasons
        for held in (
            "abi.i386",
            "sock.inherited",
            "state.descriptors",
            "state.no_new_privs",
            "uring",
            "kcmp",
        ):
            assert found[held] == "held", held
        for variant in ("i386", "thread", "execve"):
            assert found[f"mount.classic/reach/mount/{variant}"] == "held"
        assert found["sock.inherited/effect/reconnect/x86_64"] == "held"
    assert verdicts(tmp_path, BWRAP)["uffd.device"] == "held"


@pytest.mark.planted
def test_a_profile_of_a_strangers_is_not_excused_by_what_ours_leave_open(tmp_path: Path) -> None:
    probes = tuple(p for p in share() if p.family in {*FIVE, "tty"})
    stranger = replace(load_profile("standard"), sha256="0" * 64, path="mine.json")
    concluded = run(tmp_path, SECCOMP, probes=probes, profile=stranger)
    assert concluded.overall["catalogue"].outcome is Outcome.FAIL
    assert "tty.sctty is open, and nothing says that it may be" in report_of(concluded)


@pytest.mark.planted
def test_an_architecture_too_many_is_a_breach_by_the_i386_program(tmp_path: Path) -> None:
    probes = tuple(p for p in share() if p.family in {*FIVE, "abi"})
    wider = replace(load_profile("standard"), architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))
    concluded = run(tmp_path, SECCOMP, probes=probes, profile=wider)
    assert concluded.overall["catalogue"].outcome is Outcome.FAIL
    assert "abi.i386 is open" in report_of(concluded)


@pytest.mark.planted
def test_no_filter_is_a_breach_of_the_further_families_too(tmp_path: Path) -> None:
    probes = tuple(
        p for p in share(five=False) if p.act in {"uring", "personality.no_randomize", "sock.family"}
    )
    concluded = run(tmp_path, SECCOMP, probes=probes, alter={SECCOMP: lambda plan: plan.without(Filter)})
    assert concluded.overall["catalogue"].outcome is Outcome.FAIL
    assert "uring is open" in report_of(concluded)


@pytest.mark.planted
def test_a_tcp_socket_that_leaks_into_bwrap_reaches_the_hosts_network(
    host: Host, spawner: Spawner, tmp_path: Path
) -> None:
    """Which is why none may: neither the filter nor the empty network namespace stops it."""
    import socket

    canaries = Canaries.fresh()
    probes = tuple(p for p in catalogue() if p.act in {"sock.inherited", "state.descriptors"})
    outcomes = {}
    for leaks in (False, True):
        planting = stage_for(host, canaries)
        (private := tmp_path / f"private-{leaks}").mkdir()
        with plant_home(host, canaries) as home, socket.create_server(("127.0.0.1", 0)) as listener:
            command = scratch_command(host, tmp_path, environment=dict(os.environ))
            policy = policy_for(BWRAP, load_profile("standard"))
            also = {9: listener.fileno()} if leaks else {}
            with bring_up(spawner, BWRAP, policy, command, host, stage=planting, also=also) as instance:
                arm = run_arm(instance, probes, canaries, stage=planting, home_file=home, folder=private)
        outcomes[leaks] = {arm.arms[p.id].outcome for p in probes}
    assert outcomes == {False: {ArmOutcome.DENIED}, True: {ArmOutcome.REACHED}}
