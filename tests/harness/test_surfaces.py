"""What runs leave for people and machines: the HTML page, history, diff, SARIF, the step summary."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from holdfast.harness.diff import Kind, Snapshot, compare, exit_of, read_snapshot
from holdfast.harness.gate import cannot_tell, failed, passed
from holdfast.harness.history import points_of
from holdfast.harness.run_id import Run
from holdfast.harness.sarif import sarif_document, step_summary
from holdfast.sandbox import BadInputError, Isolation
from holdfast.sandbox.plan import Filter
from tests.running import run

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))
RUN = Run("20260101T000000-aaaa", "2026-01-01T00:00:00+00:00", "unknown")


def holdfast(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HOLDFAST, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sound run, and one whose filter was not loaded."""
    sound, broken = tmp_path_factory.mktemp("sound"), tmp_path_factory.mktemp("broken")
    run(sound, Isolation.NONE, Isolation.SECCOMP)
    run(
        broken,
        Isolation.NONE,
        Isolation.SECCOMP,
        alter={Isolation.SECCOMP: lambda plan: plan.without(Filter)},
    )
    return sound, broken


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.targets, self.tags = set[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.add(tag)
        self.ids |= {told["id"] or ""} if "id" in told else set()
        self.targets |= {told["href"] or ""} if "href" in told else set()
        assert "src" not in told


def test_the_page_is_self_contained_and_each_cell_leads_to_its_evidence(two_runs: tuple[Path, Path]) -> None:
    page = (two_runs[0] / "SANDBOX-REPORT.html").read_text()
    seen = Links(page)
    assert all(target.startswith("#") for target in seen.targets)
    assert {target[1:] for target in seen.targets} <= seen.ids
    assert {"cell-mount-seccomp", "cell-tiocsti-none"} <= seen.ids
    assert not seen.tags & {"script", "link", "img", "iframe"}
    assert "default-src 'none'" in page
    assert "mount.classic/reach/mount" in page
    assert "Every gate passes" in page


def test_a_breach_is_the_pages_headline_and_its_cell_is_not_green(two_runs: tuple[Path, Path]) -> None:
    page = (two_runs[1] / "SANDBOX-REPORT.html").read_text()
    assert '<h1 class="bad">A gate fails</h1>' in page
    assert re.search(r'class="cell bad" href="#cell-ptrace_keyctl-seccomp"', page)
    assert not re.search(r'class="cell good" href="#cell-ptrace_keyctl-seccomp"', page)


def test_what_a_service_says_becomes_neither_markup_nor_control(tmp_path: Path) -> None:
    """Through the whole way: an agent whose last words are hostile."""
    agent = tmp_path / "agent.py"
    agent.write_text("raise SystemExit('<script>alert(1)</script>\\x1b[31m\\u202e')")
    run(tmp_path / "results", Isolation.SECCOMP, agent=agent)
    page = (tmp_path / "results" / "SANDBOX-REPORT.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_report_names_the_page_and_draws_the_history(tmp_path: Path) -> None:
    for _ in range(2):
        assert holdfast("deny", "--isolation", "none", "--quiet", cwd=tmp_path).returncode == 0
    done = holdfast("report", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "results/SANDBOX-REPORT.html"
    assert "deny: every gate passes" in done.stdout
    assert holdfast("report", "--history", cwd=tmp_path).returncode == 0
    page = (tmp_path / "results" / "HISTORY.html").read_text()
    assert "2 runs kept" in page
    assert len(re.findall(r'<i class="good"', page)) >= 4, "two gates, two runs"


def test_open_starts_the_browser_that_the_user_has(tmp_path: Path) -> None:
    holdfast("deny", "--isolation", "none", "--quiet", cwd=tmp_path)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    assert holdfast("report", "--open", cwd=tmp_path, BROWSER=f"{browser} %s").returncode == 0
    assert (tmp_path / "opened").read_text() == (tmp_path / "results" / "SANDBOX-REPORT.html").as_uri()


def test_a_report_that_is_not_there_is_64_with_a_hint(tmp_path: Path) -> None:
    for words in (("report",), ("report", "--history")):
        done = holdfast(*words, cwd=tmp_path)
        assert done.returncode == 64
        assert "holdfast gates, or holdfast deny" in done.stderr


def test_a_family_that_was_held_and_is_not_comes_first(two_runs: tuple[Path, Path]) -> None:
    done = holdfast("diff", str(two_runs[0]), str(two_runs[1]), cwd=two_runs[0])
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[1].startswith("regression: gate ")
    assert "regression: gate denials under test: pass -> fail" in lines
    assert "regression: family ptrace_keyctl under seccomp: held -> breached" in lines
    assert lines[-1] == "holdfast: exit 1 (something that was good is not)"
    back = holdfast("diff", str(two_runs[1]), str(two_runs[0]), cwd=two_runs[0])
    assert back.returncode == 0
    assert "fixed: gate denials under test: fail -> pass" in back.stdout.splitlines()


def test_a_run_does_not_differ_from_itself(two_runs: tuple[Path, Path]) -> None:
    snapshot = read_snapshot(two_runs[0])
    assert snapshot.verdicts
    assert compare(snapshot, snapshot) == ()
    assert exit_of(snapshot, snapshot, ()) == 0


KEY = ("family", "bwrap", "mount")


@pytest.mark.parametrize(
    ("old", "new", "kind", "code"),
    [
        ({KEY: "held"}, {KEY: "breached"}, Kind.REGRESSION, 1),
        ({KEY: "held"}, {KEY: "cannot_tell"}, Kind.REGRESSION, 1),
        ({KEY: "held"}, {}, Kind.LOST, 1),
        ({KEY: "breached"}, {KEY: "held"}, Kind.FIXED, 0),
        ({KEY: "open"}, {KEY: "cannot_tell"}, Kind.CHANGED, 0),
        ({}, {KEY: "held"}, Kind.NEW, 2),
        ({KEY: "open"}, {}, Kind.GONE, 2),
    ],
    ids=["breached", "doubt", "not-looked-at", "fixed", "changed", "new", "gone"],
)
def test_how_a_thing_can_change(
    old: dict[tuple[str, str, str], str], new: dict[tuple[str, str, str], str], kind: Kind, code: int
) -> None:
    before, after = Snapshot(("a",), old), Snapshot(("b",), new)
    changes = compare(before, after)
    assert [change.kind for change in changes] == [kind]
    assert exit_of(before, after, changes) == code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no result of holdfast"),
        ("[]", "is no result of holdfast"),
        ('{"schema": "holdfast.metrics/1"}', "breaks its schema"),
        ('{"schema": "../x"}', "cannot read"),
    ],
    ids=["torn", "a-list", "without-fields", "another-schema"],
)
def test_what_is_no_result_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInputError, match=says):
        read_snapshot(tmp_path / "a.json")


VERDICTS = {
    "none": {"denials": passed("open")},
    "bwrap": {"denials": failed("mount | is breached"), "x": cannot_tell("no look")},
}


def test_sarif_has_an_error_for_a_fail_and_a_warning_for_a_doubt() -> None:
    (told,) = sarif_document(RUN, VERDICTS)["runs"]
    assert [(r["ruleId"], r["level"]) for r in told["results"]] == [("denials", "error"), ("x", "warning")]
    assert {rule["id"] for rule in told["tool"]["driver"]["rules"]} == {"denials", "x"}
    assert told["properties"] == {"judged": 3, "passed": 1}
    assert (
        told["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        == "results/SANDBOX_bwrap.json"
    )


def test_sarif_of_nothing_is_not_a_success() -> None:
    (told,) = sarif_document(RUN, {})["runs"]
    assert told["invocations"][0]["executionSuccessful"] is False


def test_the_step_summary_is_written_where_github_says(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    holdfast("deny", "--isolation", "none", "--quiet", cwd=tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    text = summary.read_text()
    assert text.startswith("before\n")
    assert "## Holdfast: deny" in text
    assert "| denials | pass |" in text
    assert "mount \\| is breached" in step_summary("x", VERDICTS)
    assert "cannot tell" in step_summary("x", {})


def test_a_chart_of_one_value_is_a_level_line() -> None:
    assert points_of([3.0]) == "0.0,2.0 100.0,2.0"
    assert points_of([0.0, 0.0]) == "0.0,23.0 100.0,23.0"


def test_repro_quick_asks_each_lane_once(tmp_path: Path) -> None:
    words = ("gates", "--suite", "ccp-quick", "--isolation", "none", "--name", "repro_quick")
    done = holdfast(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "results" / "METRICS_repro_quick.json").read_text())
    for lane in ("anthropic", "zai"):
        figures = told["lanes"][lane]
        assert (figures["requests"], figures["status"], figures["violations"]) == (1, {"200": 1}, 0)
        assert figures["tokens"] == {"input": 7, "output": 3}
        assert set(figures["ttfb_ms"]) == set(figures["latency_ms"]) == {"p50", "p95", "max"}
    assert told["live"] is False
    assert "nothing was shown about the providers" in done.stdout
