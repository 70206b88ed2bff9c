"""Not being there is a denial for some probes, so what was planted must still be there when they are judged."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.harness import battery
from holdfast.harness.bait import missing_baits
from holdfast.harness.run_id import Canaries
from holdfast.sandbox import Host, Isolation, Spawner
from holdfast.sandbox.confine import policy_for
from holdfast.sandbox.instance import Instance, bring_up, scratch_command
from holdfast.sandbox.probes import all_probes
from holdfast.sandbox.verdict import ArmOutcome

pytestmark = pytest.mark.planted


def kill_neighbour(instance: Instance, home: Path) -> None:
    del home
    assert instance.planted.neighbour is not None
    os.kill(instance.planted.neighbour.pid, signal.SIGKILL)


def remove_file(instance: Instance, home: Path) -> None:
    del instance
    home.unlink()


@pytest.mark.parametrize(
    ("spoil", "acts"),
    [(kill_neighbour, {"reach.unix", "reach.abstract", "procmem.read"}), (remove_file, {"reach.home"})],
    ids=["neighbour-killed", "file-removed"],
)
def test_an_answer_about_a_bait_that_is_gone_is_no_answer(
    spoil: Callable[[Instance, Path], None], acts: set[str], spawner: Spawner, host: Host, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    canaries = Canaries.fresh()
    stage = battery.stage_for(host, canaries)
    probes = tuple(
        p for p in all_probes() if p.act in {"reach.unix", "reach.abstract", "reach.home", "procmem.read"}
    )
    command = scratch_command(host, tmp_path, environment=dict(os.environ))
    with (
        battery.plant_home(host, canaries) as home,
        bring_up(
            spawner, Isolation.NONE, policy_for(Isolation.NONE, None), command, host, stage=stage
        ) as instance,
    ):
        assert home is not None
        assert missing_baits(instance.planted, canaries, home) == {}
        spoil(instance, home)
        arm = battery.run_arm(instance, probes, canaries, stage=stage, home_file=home, folder=tmp_path)
    assert {p.act for p in probes if arm.arms[p.id].outcome is ArmOutcome.NOT_RUN} == acts
    assert replace(arm, arms={}).problem is None
