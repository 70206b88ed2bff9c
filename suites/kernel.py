"""The agent kernel under test: its policy engine, held against the 26 normative cases inside an isolation.

The kernel is driven as any user drives it, by `agent-kernel policy test --json`; what it says about passing is
not used. Expectations live in `kernel_cases`, and the gates compare them with what was observed.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from holdfast.harness.gate import Gate, Judgement, cannot_tell, failed, passed
from holdfast.harness.suite import Stage, Suite
from holdfast.suites.kernel_cases import CASES, SECTIONS, Case

__all__ = ["KernelEvidence", "suite"]

COMMAND: Final = (sys.executable, "-c", "from holdfast.systems.kernel.cli import main; main()", "policy")
TITLE: Final = "policy engine"


@final
@dataclass(frozen=True, slots=True)
class KernelEvidence:
    """What the kernel under test said."""

    observed: Mapping[int, Mapping[str, Any]]
    """By case number: outcome, phase, rules and the rest, as JSON."""
    warnings: Mapping[int, str]
    """By case number: what `policy check` printed, for the cases that must warn."""
    trouble: str | None = None
    """Why the command gave no answer at all."""


def gather(stage: Stage) -> KernelEvidence:
    """Run all cases by one command, and `policy check` for those that must warn at load."""
    tests = [{"name": str(case.number), **case.test, "expect": {"outcome": "allow"}} for case in CASES]
    file = stage.folder / "kernel-cases.json"
    file.write_text(json.dumps({"tests": tests}))
    done = stage.run([*COMMAND, "test", "--json", str(file)], seconds=60.0)
    try:
        results = json.loads(done.stdout)["results"]
        observed = {int(result["name"]): dict(result["observed"]) for result in results}
    except (ValueError, KeyError, TypeError):
        said = (done.stderr or done.stdout)[-200:].decode(errors="replace")
        return KernelEvidence({}, {}, f"`policy test` gave no results (exit {done.status}): {said!r}")
    warnings = {case.number: _warnings(stage, case) for case in CASES if case.warning is not None}
    return KernelEvidence(observed, warnings)


def _warnings(stage: Stage, case: Case) -> str:
    file = stage.folder / f"kernel-case-{case.number}.json"
    file.write_text(json.dumps({"capabilities": case.test["capabilities"]}))
    return stage.run([*COMMAND, "check", str(file)]).stdout.decode(errors="replace")


def judge_section(section: str, evidence: KernelEvidence) -> Judgement:
    """All cases of one section; pure."""
    if evidence.trouble is not None:
        return cannot_tell(evidence.trouble)
    cases = [case for case in CASES if case.section == section]
    if absent := [case.number for case in cases if case.number not in evidence.observed]:
        return cannot_tell(f"no answer for case {', '.join(map(str, absent))}")
    wrong = [line for case in cases for line in _wrong(case, evidence)]
    return failed(*wrong) if wrong else passed(f"{len(cases)} of 26 cases came out as specified")


def _wrong(case: Case, evidence: KernelEvidence) -> list[str]:
    found = evidence.observed[case.number]
    lines = [
        f"case {case.number} ({case.sentence}): {word} is {found.get(word)!r}, expected {expected!r}"
        for word, expected in case.expect.items()
        if found.get(word) != expected
    ]
    if case.warning is not None and case.warning not in evidence.warnings.get(case.number, ""):
        lines.append(f"case {case.number} ({case.sentence}): no warning at load")
    return lines


def _gate(section: str) -> Gate[KernelEvidence]:
    name = "policy_" + section.replace(" ", "_")
    count = sum(case.section == section for case in CASES)
    claim = f"policy engine, {section}: the {count} normative cases come out as specified"
    return Gate(name, claim, lambda evidence: judge_section(section, evidence))


def details(evidence: KernelEvidence) -> Mapping[str, Any]:
    """For the report: how many cases came out right."""
    right = sum(not _wrong(case, evidence) for case in CASES if case.number in evidence.observed)
    return {"cases": len(CASES), "as_specified": right}


suite: Final = Suite(
    name="kernel",
    title=TITLE,
    gather=gather,
    gates=tuple(_gate(section) for section in SECTIONS),
    details=details,
)
