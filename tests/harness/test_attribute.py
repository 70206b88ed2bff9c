"""Attribution by ablation: on the kernel for a few probes, and the deciding on values."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.harness.ablation import MARKER, bare, layers_of, marked_filter, only_layer, without_layer
from holdfast.harness.attribute import Ablations, Attribution, attribute
from holdfast.harness.battery import ArmRun, Finding, Findings
from holdfast.harness.campaign import Wanted
from holdfast.harness.conclude import Concluded, conclude
from holdfast.harness.run_id import begin_run
from holdfast.sandbox import Host, Isolation, Plan, load_profile
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.confine import plan_command
from holdfast.sandbox.plan import Bind, Command, Filter, HostRoot, LandlockDomain, Unshare
from holdfast.sandbox.probes import Probe, all_probes
from holdfast.sandbox.verdict import Arm, ArmOutcome, ProbeVerdict
from tests.running import Listener, report_of

BWRAP, SECCOMP = Isolation.BWRAP, Isolation.SECCOMP

MOUNT = "mount.classic/effect/tmpfs/x86_64"
USERNS = "ns.unshare/effect/user/x86_64"
PERF = "perf.open/effect/task-clock/x86_64"
HOME = "reach.home/effect/home-file/x86_64"
VARIABLE = "reach.environment/effect/variable/x86_64"
WANTED = (MOUNT, USERNS, PERF, HOME, VARIABLE)

as_root_on_x86_64 = pytest.mark.skipif(
    os.getuid() != 0 or os.uname().machine != "x86_64",
    reason="which layers deny depends on the user; the expectations are root's",
)


def probes(ids: tuple[str, ...] = WANTED) -> tuple[Probe, ...]:
    return tuple(probe for probe in all_probes() if probe.id in ids)


def attributed(folder: Path, *isolations: Isolation, **changes: object) -> Concluded:
    wanted = Wanted(
        run=begin_run(),
        isolations=isolations,
        profile=load_profile("standard"),
        probes=probes(),
        attributes=True,
    )
    return conclude(replace(wanted, **changes), Listener(), results=folder, name="test", command="")  # type: ignore[arg-type]


def denied_by(folder: Path, isolation: Isolation) -> dict[str, list[str] | None]:
    document = json.loads((folder / f"SANDBOX_{isolation.value}.json").read_text())
    return {probe["id"]: probe["denied_by"] for probe in document["probes"]}


@as_root_on_x86_64
def test_each_layer_that_suffices_alone_is_found_by_taking_the_others_away(tmp_path: Path) -> None:
    concluded = attributed(tmp_path, SECCOMP, BWRAP)
    by_seccomp, by_bwrap = denied_by(tmp_path, SECCOMP), denied_by(tmp_path, BWRAP)
    assert by_seccomp[MOUNT] == ["filter", "bounding set"]
    assert by_seccomp[USERNS] == by_seccomp[PERF] == by_bwrap[PERF] == ["filter"]
    assert by_seccomp[HOME] is None, "it is not denied there"
    assert by_bwrap[MOUNT] == ["filter", "capabilities", "user namespace"]
    assert by_bwrap[USERNS] == ["filter", "user namespace"]
    assert by_bwrap[HOME] == ["root"]
    assert by_bwrap[VARIABLE] == ["environment"]
    report = report_of(concluded)
    assert "Under seccomp, unshare is one defence deep: without the filter alone" in report
    assert "Under bwrap, no effect of mount, unshare hangs on one layer alone" in report
    assert "did not come up" not in report


@as_root_on_x86_64
@pytest.mark.planted
def test_a_filter_that_is_not_loaded_is_never_named(tmp_path: Path) -> None:
    attributed(tmp_path, SECCOMP, alterations={SECCOMP: lambda plan: plan.without(Filter)})
    found = denied_by(tmp_path, SECCOMP)
    assert found[MOUNT] == ["bounding set"]
    assert found[PERF] is None


def plan(isolation: Isolation, host: Host) -> Plan:
    return plan_command(isolation, Command(("/bin/true",)), load_profile("standard"), host)


def test_a_plan_without_a_layer_lacks_it_and_keeps_the_rest(host: Host) -> None:
    whole = plan(BWRAP, host)
    for layer in layers_of(whole):
        cut = without_layer(whole, layer, {"INHERITED": "1"})
        assert not any(layer.has(op) for op in cut.ops), layer.name
        others = [other for other in layers_of(whole) if other.name not in {layer.name, "environment"}]
        assert all(any(other.has(op) for op in cut.ops) for other in others), layer.name


def test_a_layer_alone_has_no_other(host: Host) -> None:
    whole = plan(BWRAP, host)
    filter_layer = next(layer for layer in layers_of(whole) if layer.name == "filter")
    alone = only_layer(whole, filter_layer, {})
    assert alone.has(Filter)
    assert alone.has(HostRoot)
    assert not any(alone.has(kind) for kind in (Bind, Unshare, LandlockDomain))
    assert not bare(whole, {}).has(Filter)


def test_every_errno_of_a_marked_filter_is_the_marker() -> None:
    errno_action, data = 0x0005_0000, 0xFFFF
    returns = {i.k for i in decode(marked_filter(load_profile("standard"))) if i.code == 0x06}
    errnos = {value & data for value in returns if value & ~data == errno_action}
    assert errnos == {MARKER}


HELD = probes((USERNS,))[0]
DENIED, REACHED = Arm(ArmOutcome.DENIED, "EPERM"), Arm(ArmOutcome.REACHED)
MARKED = Arm(ArmOutcome.SETUP_FAILED, str(MARKER))


def arm_run(arm: Arm) -> ArmRun:
    return ArmRun(SECCOMP, None, {HELD.id: arm}, {}, {}, {}, (), None)


def decided(bare_arm: Arm, alone: Arm | str, gone: Arm, marked: Arm = DENIED) -> Attribution:
    finding = Finding(HELD, REACHED, DENIED, ProbeVerdict.HELD)
    findings = Findings(SECCOMP, (finding,), {}, {}, arm_run(DENIED), arm_run(REACHED), ())
    only = alone if isinstance(alone, str) else arm_run(alone)
    ablations = Ablations((), arm_run(bare_arm), arm_run(marked), {"filter": only}, {"filter": arm_run(gone)})
    return attribute(findings, ablations)


@pytest.mark.parametrize(
    ("bare_arm", "alone", "gone", "marked", "expected", "deep"),
    [
        (REACHED, DENIED, REACHED, MARKED, ("filter",), ("filter",)),
        (REACHED, DENIED, DENIED, MARKED, ("filter",), None),
        (REACHED, REACHED, REACHED, DENIED, (), ("filter",)),
        (DENIED, DENIED, DENIED, DENIED, ("launcher",), None),
        (Arm(ArmOutcome.TIMEOUT), DENIED, REACHED, DENIED, None, ("filter",)),
        (REACHED, "no bwrap", DENIED, DENIED, (), None),
        (REACHED, "no bwrap", DENIED, MARKED, ("filter",), None),
        (REACHED, Arm(ArmOutcome.SETUP_FAILED), DENIED, DENIED, (), None),
    ],
    ids=["flips", "another-too", "only-together", "launcher", "unmeasured", "lost", "marker-alone", "broken"],
)
def test_what_the_arms_say_is_what_is_named(
    bare_arm: Arm,
    alone: Arm | str,
    gone: Arm,
    marked: Arm,
    expected: tuple[str, ...] | None,
    deep: tuple[str, ...] | None,
) -> None:
    found = decided(bare_arm, alone, gone, marked)
    assert found.denied_by[HELD.id] == expected
    assert found.one_deep.get("unshare") == deep
    assert found.deeper == (() if deep else ("unshare",))


@pytest.mark.planted
@pytest.mark.parametrize("gone", [Arm(ArmOutcome.TIMEOUT), Arm(ArmOutcome.SETUP_FAILED), MARKED], ids=str)
def test_an_arm_without_an_answer_makes_no_family_deep(gone: Arm) -> None:
    found = decided(REACHED, DENIED, gone)
    assert found.unclear == {"unshare": ("filter",)}
    assert found.deeper == ()
    assert found.one_deep == {}


def test_an_arm_that_did_not_come_up_is_said(tmp_path: Path) -> None:
    assert (
        "the arm with the filter alone did not come up: no bwrap"
        in decided(REACHED, "no bwrap", DENIED).notes
    )


def test_a_marker_where_the_filter_alone_denies_nothing_is_a_contradiction() -> None:
    assert "carries the marker" in decided(REACHED, REACHED, REACHED, MARKED).notes[0]
