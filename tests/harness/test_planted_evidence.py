"""Faults planted in the evidence: results that are missing, stale with a fresh time, or cut short."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.harness.gate import Outcome
from holdfast.harness.results import judge_results
from holdfast.sandbox import Isolation
from tests.running import record, run

pytestmark = pytest.mark.planted

FILE = "SANDBOX_seccomp.json"


def missing(folder: Path, old: Path) -> None:
    del old
    (folder / FILE).unlink()


def of_another_run(folder: Path, old: Path) -> None:
    """Another run's file, good in itself, with a time later than everything else's."""
    shutil.copyfile(old / FILE, folder / FILE)
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    os.utime(folder / FILE, (newest + 60, newest + 60))


def cut_short(folder: Path, old: Path) -> None:
    del old
    text = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(text[: len(text) // 2])


def emptied(folder: Path, old: Path) -> None:
    del old
    document = json.loads((folder / FILE).read_text())
    del document["probes"]
    (folder / FILE).write_text(json.dumps(document))


FAULTS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a missing results file": (missing, f"{FILE} is missing"),
    "a results file of another run with a fresh time": (of_another_run, "not of this one"),
    "a truncated results file": (cut_short, f"{FILE} cannot be read"),
    "a results file without its probes": (emptied, f"{FILE} breaks its schema"),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    run(folder, Isolation.SECCOMP)
    return folder


@pytest.mark.parametrize(("fault", "plant", "says"), [(f, *e) for f, e in FAULTS.items()], ids=list(FAULTS))
def test_evidence_that_is_not_this_runs_own_is_refused(
    fault: str,
    plant: Callable[[Path, Path], None],
    says: str,
    earlier: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    record(record_property, subject="evidence", fault=fault, gate="results", says=says)
    concluded = run(tmp_path, Isolation.SECCOMP)
    assert judge_results(tmp_path, [FILE], concluded.campaign.wanted.run).outcome is Outcome.PASS
    plant(tmp_path, earlier)
    judgement = judge_results(tmp_path, [FILE], concluded.campaign.wanted.run)
    assert judgement.outcome is Outcome.FAIL
    assert says in judgement.reasons[0]
