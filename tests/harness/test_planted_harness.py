"""Faults planted in what the harness asks and how it adds up: none of them may read as a pass."""

from pathlib import Path

import pytest

from holdfast.harness.campaign import RESERVED
from holdfast.harness.gate import Gate, Outcome, passed
from holdfast.harness.suite import Suite
from holdfast.sandbox import BadInputError, Isolation
from holdfast.sandbox.probes import all_probes
from holdfast.sandbox.probes.probe import Level
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict, Proof, judge_act
from tests.harness.test_planted_sandboxes import LIAR
from tests.running import report_of, run

SECCOMP = Isolation.SECCOMP


def suite(name: str, *gates: str) -> Suite[None]:
    return Suite(name, name, lambda _: None, tuple(Gate(g, g, lambda _: passed("yes")) for g in gates))


def test_a_battery_that_lacks_one_act_of_a_family_cannot_tell(tmp_path: Path) -> None:
    kept = tuple(probe for probe in all_probes() if probe.act != "bpf.cmd")
    concluded = run(tmp_path, SECCOMP, probes=kept)
    assert concluded.code == 2
    assert "no probe was run for bpf.cmd" in report_of(concluded)


def test_answers_to_something_else_than_was_asked_leave_nothing_held(tmp_path: Path) -> None:
    agent = tmp_path / "agent.py"
    agent.write_text(LIAR.replace('wish.get("id", "x")', '"another"'))
    concluded = run(tmp_path, SECCOMP, agent=agent)
    assert concluded.code == 2
    assert "an answer to something else" in report_of(concluded)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_gate_of_a_suite_never_stands_in_front_of_the_harness_s_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"`{name}` of mine is reserved"):
        run(tmp_path, SECCOMP, suites=(suite("mine", name),))


def test_two_suites_with_one_gate_s_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="`g` of one, two"):
        run(tmp_path, SECCOMP, suites=(suite("one", "g"), suite("two", "g")))


def test_a_suite_without_a_gate_cannot_tell(tmp_path: Path) -> None:
    concluded = run(tmp_path, SECCOMP, suites=(suite("empty"),))
    assert concluded.overall["empty"].outcome is Outcome.CANNOT_TELL
    assert concluded.code == 2


def test_a_counterexample_of_the_prover_takes_held_away() -> None:
    held = [(Level.REACH, ProbeVerdict.HELD)]
    assert judge_act(held) is ActVerdict.HELD
    assert judge_act(held, proof=Proof.COUNTEREXAMPLE) is ActVerdict.CANNOT_TELL
