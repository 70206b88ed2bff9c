"""Results are of this run, valid and whole, or the gate says which is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.harness.gate import Outcome
from holdfast.harness.results import (
    judge_results,
    metrics_document,
    read_mutation,
    validate_document,
    write_document,
    write_text,
)
from holdfast.harness.run_id import Run, begin_run
from holdfast.sandbox import Isolation, load_profile
from tests.running import report_of, run

RUN = Run("20260101T000000-abcd", "2026-01-01T00:00:00+00:00", "c")


def metrics(run_id: Run = RUN) -> dict[str, Any]:
    return metrics_document(run_id, name="x", code=0, live=False, lanes={}, gates={})


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def test_files_of_this_run_that_keep_to_their_schema_pass(tmp_path: Path) -> None:
    write_document(tmp_path / "a.json", metrics())
    assert judge_results(tmp_path, ["a.json"], RUN).outcome is Outcome.PASS


def test_no_file_asked_for_cannot_tell(tmp_path: Path) -> None:
    assert judge_results(tmp_path, [], RUN).outcome is Outcome.CANNOT_TELL


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "a.json is missing"),
    "of-another-run-with-a-fresh-time": (lambda p: write(p, metrics(begin_run())), "not of this one"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-20]), "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "cannot be read"),
    "no-schema": (lambda p: write(p, {"run": {"id": RUN.id}}), "cannot be read"),
    "unknown-schema": (
        lambda p: write(p, {**metrics(), "schema": "holdfast.nothing/9"}),
        "is missing|cannot be read",
    ),
    "breaks-its-schema": (lambda p: write(p, {**metrics(), "live": "no"}), r"breaks its schema at \$.live"),
    "a-field-gone": (
        lambda p: write(p, {k: v for k, v in metrics().items() if k != "gates"}),
        "breaks its schema",
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_fails_and_says_how(
    damage: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_document(path, metrics())
    damage(path)
    judgement = judge_results(tmp_path, ["a.json"], RUN)
    assert judgement.outcome is Outcome.FAIL
    assert __import__("re").search(says, judgement.reasons[0]), judgement.reasons


def test_a_document_that_breaks_its_schema_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is not of type"):
        write_document(tmp_path / "a.json", {**metrics(), "live": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_last_good_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "good")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "good"


def test_a_whole_run_leaves_one_valid_file_an_isolation_all_of_one_run(tmp_path: Path) -> None:
    concluded = run(tmp_path, Isolation.NONE, Isolation.BWRAP)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "METRICS_test.json",
        "SANDBOX-REPORT.html",
        "SANDBOX-REPORT.md",
        "SANDBOX.sarif",
        "SANDBOX_bwrap.json",
        "SANDBOX_none.json",
        "history",
    ]
    documents = [json.loads((tmp_path / n).read_text()) for n in names if n.endswith(".json")]
    for document in documents:
        validate_document(document)
    assert {d["run"]["id"] for d in documents} == {concluded.campaign.wanted.run.id}


def test_a_document_counts_its_probes_and_names_its_launcher(tmp_path: Path) -> None:
    run(tmp_path, Isolation.BWRAP)
    document = json.loads((tmp_path / "SANDBOX_bwrap.json").read_text())
    assert sum(document["counts"].values()) == len(document["probes"]) > 50
    assert document["launcher"]["name"] == "bwrap"
    assert "--seccomp" in document["launcher"]["argv"]
    assert document["host"]["confounders"]["legacy_tiocsti"] in {0, 1, None}
    assert all(probe["denied_by"] is None for probe in document["probes"])
    assert "holdfast-" not in json.dumps([p["treatment"] for p in document["probes"]]), (
        "a canary in the results"
    )


def mutation(sha256: str) -> dict[str, Any]:
    return {
        "schema": "holdfast.mutation/1",
        "run": {"id": "20260101T000000-m", "started": RUN.started, "commit": "c"},
        "profile": {"path": "profiles/standard.json", "sha256": sha256},
        "sample": None,
        "seed": 0,
        "score_percent": 97.5,
        "aimed": 40,
        "counts": {"killed": 39, "survived": 1},
        "mutants": [],
        "removals": None,
    }


def test_the_report_gives_the_mutation_score_of_this_very_profile_and_of_no_other(tmp_path: Path) -> None:
    profile = load_profile("standard")
    assert read_mutation(tmp_path, profile) == ""
    write(tmp_path / "MUTATION_standard.json", mutation("0" * 64))
    assert read_mutation(tmp_path, profile) == ""
    write(tmp_path / "MUTATION_standard.json", mutation(profile.sha256))
    assert "mutation score 97.5 % (39 mutants killed, 1 survived" in read_mutation(tmp_path, profile)
    concluded = run(tmp_path, Isolation.SECCOMP, profile=profile)
    assert "mutation score 97.5 %" in report_of(concluded)
