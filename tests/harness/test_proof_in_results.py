"""`--prove`: each act's proof stands beside its probes, over the filter that was loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.harness.campaign import Wanted
from holdfast.harness.conclude import conclude
from holdfast.harness.other_abis import read_other_abis
from holdfast.harness.run_id import begin_run
from holdfast.sandbox import Isolation, Profile, load_profile
from holdfast.sandbox.plan import Filter
from holdfast.sandbox.probes import all_probes
from tests.running import Listener, edited_profile

SECCOMP = Isolation.SECCOMP
ACTS = ("mount.classic", "tty.sti", "reach.home")


def proofs(folder: Path, profile: Profile, **changes: Any) -> dict[str, str]:
    wanted = Wanted(
        run=begin_run(),
        isolations=(Isolation.NONE, SECCOMP),
        profile=profile,
        probes=tuple(p for p in all_probes() if p.act in ACTS),
        proves=True,
    )
    conclude(replace(wanted, **changes), Listener(), results=folder, name="test", command="")
    none = json.loads((folder / "SANDBOX_none.json").read_text())
    assert {probe["proof"] for probe in none["probes"]} == {"not_run"}, "there is no filter to prove"
    assert none["host"]["confounders"].keys() >= read_other_abis().keys()
    document = json.loads((folder / "SANDBOX_seccomp.json").read_text())
    return {probe["act"]: probe["proof"] for probe in document["probes"]}


def test_acts_are_proven_and_what_no_filter_can_see_cannot_be_told(tmp_path: Path) -> None:
    assert proofs(tmp_path, load_profile("standard")) == {
        "mount.classic": "proven",
        "tty.sti": "proven",
        "reach.home": "cannot_tell",
    }


@pytest.mark.planted
def test_a_profile_that_allows_mount_has_a_counterexample(tmp_path: Path) -> None:
    profile = edited_profile(
        "standard", lambda rules: [*rules, {"names": ["mount"], "action": "SCMP_ACT_ALLOW"}]
    )
    assert proofs(tmp_path, profile)["mount.classic"] == "counterexample"


@pytest.mark.planted
def test_a_filter_that_is_not_loaded_is_not_proven(tmp_path: Path) -> None:
    found = proofs(
        tmp_path, load_profile("standard"), alterations={SECCOMP: lambda plan: plan.without(Filter)}
    )
    assert set(found.values()) == {"not_run"}
