"""The gate `identity`, fact by fact: each disagreement and each unkept promise fails it."""

import dataclasses

import pytest

from holdfast.harness.gate import Outcome
from holdfast.harness.identity import COMPARED, NAMESPACES, Observed, Sight, judge_identity
from holdfast.sandbox import Isolation, Plan
from holdfast.sandbox.plan import DropBoundingSet, DropCapabilities, Filter, NoNewPrivileges, Unshare

HOST = (
    dict.fromkeys(COMPARED, "0")
    | {"CapBnd": "1ff", "CapEff": "1ff"}
    | dict.fromkeys(NAMESPACES.values(), "host")
)
INSIDE = {
    "NoNewPrivs": "1",
    "CapEff": "0",
    "CapBnd": "0",
    "Seccomp": "2",
    "Seccomp_filters": "1",
} | dict.fromkeys(NAMESPACES.values(), "own")
PLAN = Plan(
    Isolation.BWRAP,
    (
        *(Unshare(n) for n in NAMESPACES),
        DropCapabilities(),
        NoNewPrivileges(),
        DropBoundingSet(),
        Filter("p", b""),
    ),
)


def process(**changes: str) -> Observed:
    return Observed(7, "service", ({**INSIDE}, {**INSIDE, **changes}))


SOUND = Sight(Observed(1, "harness", (HOST,)), process(), (process(),), PLAN, ())


def outcome(**changes: object) -> Outcome:
    return judge_identity(dataclasses.replace(SOUND, **changes)).outcome  # type: ignore[arg-type]


def test_agreement_in_every_thread_and_with_the_plan_passes() -> None:
    assert outcome() is Outcome.PASS


@pytest.mark.parametrize("fact", [*COMPARED, *NAMESPACES.values()])
def test_one_thread_of_the_service_that_differs_in_one_fact_fails(fact: str) -> None:
    judgement = judge_identity(dataclasses.replace(SOUND, owners=(process(**{fact: "3"}),)))
    assert judgement.outcome is Outcome.FAIL
    assert fact in judgement.reasons[0]


@pytest.mark.parametrize("fact", [*COMPARED, *NAMESPACES.values()])
def test_one_thread_of_the_agent_that_differs_fails(fact: str) -> None:
    assert outcome(agent=process(**{fact: "3"})) is Outcome.FAIL


@pytest.mark.parametrize("fact", sorted(INSIDE))
def test_a_promise_of_the_plan_that_the_kernel_does_not_show_fails(fact: str) -> None:
    both = Observed(
        7, "service", ({**INSIDE, fact: HOST[fact] if fact not in ("CapEff", "CapBnd") else "1"},)
    )
    assert outcome(agent=both, owners=(both,)) is Outcome.FAIL


def test_a_bounding_set_that_this_user_may_not_empty_is_no_broken_promise() -> None:
    both = Observed(7, "service", ({**INSIDE, "CapBnd": "1ff"},))
    plan = PLAN.without(DropCapabilities)
    assert outcome(agent=both, owners=(both,), plan=plan) is Outcome.FAIL
    assert outcome(agent=both, owners=(both,), plan=plan, skipped=("bounding_set: EPERM",)) is Outcome.PASS


@pytest.mark.parametrize("missing", ["agent", "plan"])
def test_what_could_not_be_looked_at_cannot_tell(missing: str) -> None:
    assert outcome(**{missing: None}) is Outcome.CANNOT_TELL


def test_no_owner_of_the_socket_cannot_tell() -> None:
    assert outcome(owners=()) is Outcome.CANNOT_TELL
