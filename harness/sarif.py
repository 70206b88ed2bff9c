"""SARIF 2.1.0 for code-scanning pages, and a GitHub step summary: the same judgements, other readers.

sarif_document(run, verdicts) -> dict         a rule a gate, a result for each that does not pass; pure
step_summary(title, verdicts) -> str          Markdown; pure
append_step_summary(text)                     to the file that GITHUB_STEP_SUMMARY names, if it does
"""

import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from holdfast.harness.gate import Judgement, Outcome
from holdfast.harness.report.render import cell, plain
from holdfast.harness.run_id import Run

__all__ = ["Verdicts", "append_step_summary", "render_sarif", "sarif_document", "step_summary"]

Verdicts = Mapping[str, Mapping[str, Judgement]]
"""By where (an isolation, or a suite under one), then by gate."""

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: Mapping[Outcome, str] = {Outcome.FAIL: "error", Outcome.CANNOT_TELL: "warning"}
"""A page that shows errors only still shows every refuted claim; a doubt is a warning, never a note."""


def sarif_document(run: Run, verdicts: Verdicts) -> dict[str, Any]:
    """One SARIF run; passes are counted in its properties, so that an empty list of results means something."""
    gates = sorted({gate for own in verdicts.values() for gate in own})
    judged = [judgement for own in verdicts.values() for judgement in own.values()]
    driver = {
        "name": "holdfast",
        "version": version("holdfast"),
        "rules": [{"id": gate, "shortDescription": {"text": gate.replace("_", " ")}} for gate in gates],
    }
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "automationDetails": {"id": f"holdfast/{run.id}"},
                "results": list(_iter_results(verdicts)),
                "properties": {
                    "judged": len(judged),
                    "passed": sum(j.outcome is Outcome.PASS for j in judged),
                },
                "invocations": [{"executionSuccessful": bool(judged), "startTimeUtc": run.started}],
            }
        ],
    }


def render_sarif(run: Run, verdicts: Verdicts) -> str:
    """The document as text."""
    return json.dumps(sarif_document(run, verdicts), indent=1, ensure_ascii=True) + "\n"


def _iter_results(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    for where, own in verdicts.items():
        for gate, judgement in own.items():
            if judgement.outcome is Outcome.PASS:
                continue
            said = "; ".join(plain(reason) for reason in judgement.reasons[:8])
            yield {
                "ruleId": gate,
                "level": LEVELS[judgement.outcome],
                "message": {"text": f"{where}: {judgement.outcome.value.replace('_', ' ')}: {said}"},
                "locations": [{"physicalLocation": {"artifactLocation": {"uri": _artifact(where)}}}],
                "partialFingerprints": {"holdfast/1": f"{where}/{gate}"},
            }


def _artifact(where: str) -> str:
    """The evidence's file; what speaks of no isolation points at the report."""
    isolation = where.rpartition(" ")[2]
    known = isolation in {"none", "seccomp", "bwrap"}
    return f"results/SANDBOX_{isolation}.json" if known else "results/SANDBOX-REPORT.md"


def step_summary(title: str, verdicts: Verdicts) -> str:
    """A table of what was judged, the worst first in words."""
    lines = [f"## {title}", ""]
    bad = list(_iter_results(verdicts))
    count = sum(len(own) for own in verdicts.values())
    lines += [
        f"{count} judgements, {count - len(bad)} pass." if count else "Nothing was judged: cannot tell.",
        "",
    ]
    lines += [f"- **{r['ruleId']}** {cell(r['message']['text'])}" for r in bad]
    gates = dict.fromkeys(gate for own in verdicts.values() for gate in own)
    lines += ["", f"| gate | {' | '.join(verdicts)} |", f"|---|{'---|' * len(verdicts)}"]
    for gate in gates:
        told = (own[gate].outcome.value.replace("_", " ") if gate in own else "" for own in verdicts.values())
        lines.append(f"| {gate} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def append_step_summary(text: str) -> None:
    """For the page of a GitHub job; nothing elsewhere."""
    if name := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
