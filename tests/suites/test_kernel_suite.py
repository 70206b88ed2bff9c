"""The kernel's suite: what it says of the kernel here, and of one that is wrong, silent or missing."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdfast.harness.gate import Outcome, judge_all
from holdfast.harness.service import Running, ServiceSpec
from holdfast.harness.suite import Completed
from holdfast.suites.kernel import KernelEvidence, suite
from holdfast.suites.kernel_cases import CASES, Case


@dataclass(frozen=True)
class Here:
    """The stage without any isolation: commands run as they are."""

    folder: Path
    isolation: str = "none"
    command: tuple[str, ...] | None = None

    def serve(self, spec: ServiceSpec) -> AbstractContextManager[Running]:
        raise AssertionError("the kernel's suite brings no service up")

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        done = subprocess.run(
            list(argv), input=stdin, env=env, capture_output=True, timeout=seconds, check=False
        )
        return Completed(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> KernelEvidence:
    return suite.gather(Here(tmp_path_factory.mktemp("stage")))


def test_the_kernel_passes_every_section_and_says_on_how_much(evidence: KernelEvidence) -> None:
    judged = judge_all(suite.gates, evidence)
    assert {name: judgement.outcome for name, judgement in judged.items()} == dict.fromkeys(
        judged, Outcome.PASS
    )
    assert sum(int(judgement.reasons[0].split()[0]) for judgement in judged.values()) == 26
    assert suite.details(evidence) == {"cases": 26, "as_specified": 26}
    assert suite.title == "policy engine"


def test_no_answer_is_never_a_pass() -> None:
    for silent in (KernelEvidence({}, {}), KernelEvidence({}, {}, "no such command")):
        for judgement in judge_all(suite.gates, silent).values():
            assert judgement.outcome is Outcome.CANNOT_TELL


def test_one_missing_case_cannot_be_told(evidence: KernelEvidence) -> None:
    for case in CASES:
        fewer = replace(evidence, observed={n: o for n, o in evidence.observed.items() if n != case.number})
        outcomes = [judgement.outcome for judgement in judge_all(suite.gates, fewer).values()]
        assert outcomes.count(Outcome.CANNOT_TELL) == 1


@pytest.mark.planted
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02}")
def test_planted_each_case_turns_its_gate_red(evidence: KernelEvidence, case: Case) -> None:
    observed = dict(evidence.observed)
    found = dict(observed[case.number])
    found["outcome"] = "allow" if found["outcome"] != "allow" else "deny"
    observed[case.number] = found
    judged = judge_all(suite.gates, replace(evidence, observed=observed))
    failing = [judgement for judgement in judged.values() if judgement.outcome is Outcome.FAIL]
    assert len(failing) == 1
    assert f"case {case.number} " in failing[0].reasons[0]


@pytest.mark.planted
def test_planted_a_kernel_that_does_not_warn_fails(evidence: KernelEvidence) -> None:
    judged = judge_all(suite.gates, replace(evidence, warnings=dict.fromkeys(evidence.warnings, "fine")))
    assert [j.outcome for j in judged.values()].count(Outcome.FAIL) == 2


@pytest.mark.planted
def test_planted_a_command_that_says_nothing_useful_is_no_evidence(tmp_path: Path) -> None:
    class Mute(Here):
        def run(self, argv: Sequence[str], **_: object) -> Completed:
            return Completed(0, json.dumps({"results": "all passed"}).encode(), b"")

    found = suite.gather(Mute(tmp_path))
    assert found.trouble is not None
    assert {j.outcome for j in judge_all(suite.gates, found).values()} == {Outcome.CANNOT_TELL}
