"""The tables of the verdicts, held against a second, slower reading of the same sentences."""

import itertools
import signal

import pytest

from holdfast.sandbox.probes import all_probes
from holdfast.sandbox.probes.probe import Level, effect, reach
from holdfast.sandbox.verdict import (
    ActVerdict,
    Arm,
    ArmOutcome,
    Context,
    ProbeVerdict,
    Proof,
    classify,
    judge_act,
    judge_family,
    judge_probe,
)

ARMS = (
    Arm(ArmOutcome.REACHED),
    Arm(ArmOutcome.DENIED, "EPERM"),
    Arm(ArmOutcome.DENIED, "ENOSYS"),
    Arm(ArmOutcome.DENIED, "ENODEV"),
    Arm(ArmOutcome.KILLED, signal=signal.SIGSYS),
    Arm(ArmOutcome.KILLED, signal=signal.SIGSEGV),
    Arm(ArmOutcome.MISSING, "ENOENT"),
    Arm(ArmOutcome.TIMEOUT),
    Arm(ArmOutcome.SETUP_FAILED),
    Arm(ArmOutcome.NOT_RUN),
)
CONTEXTS = tuple(Context(*flags) for flags in itertools.product((False, True), repeat=4))


def by_the_sentences(control: Arm, treatment: Arm, context: Context) -> ProbeVerdict:
    """The design's five sentences, one after the other, with nothing shared with the table."""
    broken = ("timeout", "missing", "setup_failed")

    def no(arm: Arm) -> bool:
        return arm.outcome.value == "denied" or (arm.outcome.value == "killed" and arm.signal == 31)

    def unsound(arm: Arm) -> bool:
        return arm.outcome.value in broken or (arm.outcome.value == "killed" and arm.signal != 31)

    if treatment.outcome.value == "reached":
        return ProbeVerdict.OPEN if context.is_control else ProbeVerdict.BREACHED
    if unsound(control) or unsound(treatment) or not context.same_credentials or not context.alive:
        return ProbeVerdict.INVALID
    if control.outcome.value == "reached" and no(treatment):
        return ProbeVerdict.HELD
    if control.errno in ("ENOSYS", "ENODEV") and not context.harness_filtered:
        return ProbeVerdict.ABSENT
    if no(control):
        return ProbeVerdict.VACUOUS
    return ProbeVerdict.NOT_RUN


def test_every_combination_of_arms_and_context_gets_the_verdict_of_the_sentences() -> None:
    combinations = list(itertools.product(ARMS, ARMS, CONTEXTS))
    assert len(combinations) == len(ARMS) ** 2 * 16
    wrong = [
        (c, t, x, judge_probe(c, t, x))
        for c, t, x in combinations
        if judge_probe(c, t, x) is not by_the_sentences(c, t, x)
    ]
    assert wrong == []


def test_a_probe_is_held_in_one_way_only() -> None:
    held = {
        (c.outcome, t.outcome)
        for c, t, x in itertools.product(ARMS, ARMS, CONTEXTS)
        if judge_probe(c, t, x) is ProbeVerdict.HELD
    }
    assert held == {(ArmOutcome.REACHED, ArmOutcome.DENIED), (ArmOutcome.REACHED, ArmOutcome.KILLED)}


@pytest.mark.parametrize("control", ARMS, ids=lambda a: f"{a.outcome.value}-{a.errno or a.signal}")
def test_a_treatment_that_reached_is_never_anything_but_breached(control: Arm) -> None:
    verdicts = {judge_probe(control, ARMS[0], x) for x in CONTEXTS if not x.is_control}
    assert verdicts == {ProbeVerdict.BREACHED}


V, R, E = ProbeVerdict, Level.REACH, Level.EFFECT
ACTS = {
    "nothing": ((), ActVerdict.CANNOT_TELL),
    "one-held": (((E, V.HELD),), ActVerdict.HELD),
    "held-beside-breached": (((R, V.HELD), (E, V.BREACHED)), ActVerdict.BREACHED),
    "held-beside-invalid": (((R, V.HELD), (E, V.INVALID)), ActVerdict.CANNOT_TELL),
    "held-beside-not-run": (((R, V.HELD), (E, V.NOT_RUN)), ActVerdict.CANNOT_TELL),
    "vacuous-effect-covered-by-held-reach": (((R, V.HELD), (E, V.VACUOUS)), ActVerdict.HELD),
    "absent-effect-covered-by-held-reach": (((R, V.HELD), (E, V.ABSENT)), ActVerdict.HELD),
    "vacuous-reach-not-covered-by-held-effect": (((R, V.VACUOUS), (E, V.HELD)), ActVerdict.CANNOT_TELL),
    "only-vacuous": (((R, V.VACUOUS), (E, V.VACUOUS)), ActVerdict.CANNOT_TELL),
    "only-absent": (((R, V.ABSENT),), ActVerdict.CANNOT_TELL),
}


@pytest.mark.parametrize(("verdicts", "expected"), ACTS.values(), ids=ACTS)
def test_an_act_is_held_when_one_probe_is_and_no_other_leaves_a_doubt(
    verdicts: tuple[tuple[Level, ProbeVerdict], ...], expected: ActVerdict
) -> None:
    assert judge_act(verdicts) is expected


def test_a_proof_covers_a_vacuous_probe_but_never_makes_an_act_held_by_itself() -> None:
    assert judge_act([(E, V.HELD), (E, V.VACUOUS)], proof=Proof.PROVEN) is ActVerdict.HELD
    assert judge_act([(E, V.VACUOUS)], proof=Proof.PROVEN) is ActVerdict.CANNOT_TELL


def test_under_none_an_act_is_open_when_a_control_reached() -> None:
    assert judge_act([(R, V.OPEN), (E, V.VACUOUS)], is_control=True) is ActVerdict.OPEN
    assert judge_act([(E, V.VACUOUS)], is_control=True) is ActVerdict.CANNOT_TELL


def test_a_family_needs_each_of_its_acts() -> None:
    held, unclear, broken = ActVerdict.HELD, ActVerdict.CANNOT_TELL, ActVerdict.BREACHED
    assert judge_family([held, held]) is held
    assert judge_family([held, unclear]) is unclear
    assert judge_family([held, unclear, broken]) is broken
    assert judge_family([]) is unclear
    assert judge_family([], is_control=True) is unclear


BOGUS = reach("mount", "m", "x", lambda: None, 14)
SECRET = effect("reachable", "r", "x", lambda _: "", planted="home")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ended": "errno", "errno": 14}, ArmOutcome.REACHED),
        ({"ended": "errno", "errno": 1}, ArmOutcome.DENIED),
        ({"ended": "errno", "errno": 38}, ArmOutcome.DENIED),
        ({"ended": "errno", "errno": 2}, ArmOutcome.MISSING),
        ({"ended": "errno", "errno": 22}, ArmOutcome.SETUP_FAILED),
        ({"ended": "errno", "errno": None}, ArmOutcome.SETUP_FAILED),
        ({"ended": "reached"}, ArmOutcome.REACHED),
        ({"ended": "signal", "signal": 31}, ArmOutcome.KILLED),
        ({"ended": "timeout"}, ArmOutcome.TIMEOUT),
        ({"ended": "silent"}, ArmOutcome.SETUP_FAILED),
        ({"ended": "broken"}, ArmOutcome.SETUP_FAILED),
        ({"ended": "denied"}, ArmOutcome.SETUP_FAILED),
        ({}, ArmOutcome.NOT_RUN),
    ],
    ids=str,
)
def test_an_answer_of_the_agent_becomes_an_outcome(answer: dict[str, object], expected: ArmOutcome) -> None:
    assert classify(BOGUS, answer, None).outcome is expected


def test_success_without_the_planted_secret_is_neither_reached_nor_denied() -> None:
    assert (
        classify(SECRET, {"ended": "reached", "evidence": "guess"}, "secret").outcome
        is ArmOutcome.SETUP_FAILED
    )
    found = classify(SECRET, {"ended": "reached", "evidence": "secret"}, "secret")
    assert found.outcome is ArmOutcome.REACHED
    assert "secret" not in found.evidence, "a secret that was found must not travel into the results"


def test_probe_ids_are_unique_and_every_family_has_both_a_control_and_a_sibling() -> None:
    probes = all_probes()
    assert len({probe.id for probe in probes}) == len(probes)
    five = {p.family for p in probes if p.level is Level.REACH}
    assert five == {"mount", "unshare", "perf_bpf", "ptrace_keyctl", "tiocsti"}
    assert {p.family for p in probes if p.level is Level.EFFECT} == five | {"procmem", "reachable"}


def test_enoent_is_a_denial_only_where_not_being_there_is_the_point() -> None:
    assert {probe.family for probe in all_probes() if 2 in probe.denied_by} == {"reachable"}
