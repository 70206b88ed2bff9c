"""What a test session leaves behind: merged metrics, SARIF, a step summary, the table of planted faults.

Everything here is made from the properties that each test recorded, which travel with its report from any
worker to the controller; no worker writes a file that another one writes too.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.harness.acceptance import merge
from holdfast.harness.gate import Judgement, Outcome
from holdfast.harness.report.render import cell
from holdfast.harness.results import write_document, write_text
from holdfast.harness.run_id import Run
from holdfast.harness.sarif import append_step_summary, render_sarif, step_summary

__all__ = ["Told", "planted_table", "write_acceptance", "write_planted_table"]


KEPT = 5
"""Acceptance runs whose campaigns' files stay."""


@final
@dataclass(frozen=True, slots=True)
class Told:
    """One test's report: its id, `passed`, `failed` or `error`, and the properties that it recorded."""

    nodeid: str
    outcome: str
    properties: Mapping[str, object]
    planted: bool = False
    """Whether it carries the marker; one that recorded no row gets one from its name."""

    @property
    def row(self) -> tuple[str, str, str, str]:
        """What was broken, the fault, the gate, the sentence."""
        file, _, name = self.nodeid.rpartition("::")
        seen = self.properties
        subject = str(seen.get("subject", Path(file).stem.removeprefix("test_").replace("_", " ")))
        fault = str(seen.get("planted", name.removeprefix("test_").replace("_", " ")))
        return subject, fault, str(seen.get("gate", "")), str(seen.get("says", ""))


def write_acceptance(told: Iterable[Told], run: Run, folder: Path) -> Iterator[str]:
    """Merge what the acceptance tests came to; yields lines for the terminal, none when there was no such test.

    The campaigns' own files are in `folder`, one a run; the last few are kept. METRICS_acceptance.json and
    ACCEPTANCE.sarif go to the results folder two levels up.
    """
    verdicts: dict[str, dict[str, Judgement]] = {}
    for test in told:
        seen = test.properties
        if "gate" in seen and "suite" in seen:
            where = f"{seen['suite']} under {seen['isolation']}"
            judgement = Judgement(Outcome(str(seen["verdict"])), tuple(str(seen["reasons"]).split("\n")))
            verdicts.setdefault(where, {})[str(seen["gate"])] = judgement
    if not verdicts:
        return
    document = merge(folder, run, verdicts)
    target = folder.parent.parent
    write_document(target / "METRICS_acceptance.json", document)
    write_text(target / "ACCEPTANCE.sarif", render_sarif(run, verdicts))
    append_step_summary(step_summary("Holdfast: acceptance", verdicts))
    for old in sorted(folder.parent.iterdir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    count = sum(len(own) for own in verdicts.values())
    passed = sum(j.outcome is Outcome.PASS for own in verdicts.values() for j in own.values())
    yield f"holdfast: {passed} of {count} gates pass; {target.name}/METRICS_acceptance.json"


def write_planted_table(told: Iterable[Told], run: Run, path: Path) -> str:
    """Render the table; returns a line for the terminal."""
    rows = [test for test in told if test.planted]
    write_text(path, planted_table(rows, run))
    killed = sum(test.outcome == "passed" for test in rows)
    return f"holdfast: {killed} of {len(rows)} planted faults killed; {path}"


def planted_table(rows: Iterable[Told], run: Run) -> str:
    """`docs/PLANTED-FAULTS.md`, by what was broken and then by fault."""
    # Rows that name a gate and a sentence first: proxies, sandboxes, evidence; then the parts' own tests.
    ordered = sorted(rows, key=lambda test: ("planted" not in test.properties, test.row))
    killed = sum(test.outcome == "passed" for test in ordered)
    lines = [
        "# Planted faults",
        "",
        "Each row is a fault put in on purpose. It counts as killed when the gate named here turned red, or",
        "could not tell, *and* the report said the sentence; a row without them is a part's own test, which says",
        "in its name what is broken and what must be seen. Rendered by a run of the suite:",
        "",
        "```console",
        "make planted",
        "```",
        "",
        f"**{killed} of {len(ordered)} killed** (run {run.id}, commit {run.commit}).",
        "",
        "| broken | fault | gate | the report says | killed |",
        "|---|---|---|---|---|",
    ]
    for test in ordered:
        words = [cell(word) for word in test.row]
        lines.append(f"| {' | '.join(words)} | {'yes' if test.outcome == 'passed' else '**no**'} |")
    return "\n".join(lines) + "\n"
