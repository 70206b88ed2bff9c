"""Each planted fault is killed by the test that is named for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systems.kernel.mutants import CASES, MUTANTS, ROOT, Mutant, copy_package, run_tests, whole_suite

PUBLISHED = ROOT / "docs" / "KERNEL-MUTANTS.md"
BY_CASES_ALONE = 8
"""How many of the planted faults the 26 cases notice: published beside the whole suite's score."""


def test_every_fault_of_the_list_that_is_the_kernels_is_planted() -> None:
    planted = {one.name.rstrip("abcd") for one in MUTANTS}
    assert planted == {f"P{number}" for number in range(1, 19)} - {"P14"}


def test_the_unchanged_copy_is_what_is_tested_and_every_killer_passes_on_it(tmp_path: Path) -> None:
    package = copy_package(tmp_path / "control")
    where = subprocess.run(
        [sys.executable, "-c", "import holdfast.systems.kernel.engine as e; print(e.__file__)"],
        env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert where.stdout.startswith(str(package))
    assert run_tests(package, *dict.fromkeys(one.killer for one in MUTANTS)) == 0


@pytest.mark.planted
@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_planted_fault_is_killed_by_its_named_test(tmp_path: Path, one: Mutant) -> None:
    assert run_tests(copy_package(tmp_path / one.name, one.edits), one.killer) == 1, one.fault


def test_the_published_scores_name_every_mutant_and_no_survivor() -> None:
    text = PUBLISHED.read_text()
    assert f"Of the whole suite: **{len(MUTANTS)} of {len(MUTANTS)}**" in text
    assert f"cases alone: **{BY_CASES_ALONE} of {len(MUTANTS)}**" in text
    for one in MUTANTS:
        assert f"| {one.name} | {one.fault} |" in text


@pytest.mark.nightly
def test_the_published_scores_are_what_a_run_gives(tmp_path: Path) -> None:
    assert run_tests(copy_package(tmp_path / "control"), *whole_suite()) == 0, "the control fails"
    killed = {one.name: copy_package(tmp_path / one.name, one.edits) for one in MUTANTS}
    assert sum(run_tests(package, CASES) == 1 for package in killed.values()) == BY_CASES_ALONE
    assert [name for name, package in killed.items() if run_tests(package, *whole_suite()) != 1] == []
