"""Steps of policy_engine.feature: one line each over the scenario that the tests use too."""

import json
from dataclasses import dataclass
from typing import Any, final

from behave import given, then, when

from holdfast.suites.kernel_cases import CASES, Case
from holdfast.systems.kernel.loader import Warned, load_rules
from holdfast.systems.kernel.scenario import Observed, run_scenario, scenario_from


@final
@dataclass(slots=True)
class PolicyWorld:
    """What one scenario of this feature knows."""

    case: Case
    observed: Observed | None = None
    warnings: tuple[Warned, ...] = ()

    def seen(self) -> Observed:
        assert self.observed is not None, "nothing was decided yet"
        return self.observed


@given("the rules, token and extension of policy case {number:d}")
def step_case(context: Any, number: int) -> None:
    (case,) = (case for case in CASES if case.number == number)
    context.policy = PolicyWorld(case)


@when("the kernel decides that case's call")
def step_decide(context: Any) -> None:
    context.policy.observed = run_scenario(scenario_from(context.policy.case.test, ()))


@when("those policy rules are loaded")
def step_load(context: Any) -> None:
    text = json.dumps({"capabilities": context.policy.case.test["capabilities"]})
    context.policy.warnings = load_rules(text, "rules").warnings


@then("the policy outcome is {outcome}, settled in phase {phase} by rules {rules}")
def step_outcome(context: Any, outcome: str, phase: str, rules: str) -> None:
    seen = context.policy.seen()
    assert (seen.outcome, seen.phase, "+".join(seen.rules) or "none") == (outcome, phase, rules), seen


@then("every determining policy rule gives its reason")
def step_reasons(context: Any) -> None:
    seen = context.policy.seen()
    assert len(seen.reasons) == max(1, len(seen.rules)), seen
    assert all(seen.reasons), seen


@then("loading the policy warns that it {warning}")
def step_warned(context: Any, warning: str) -> None:
    assert [warning in warned.message for warned in context.policy.warnings] == [True]


@then("the policy token has {count:d} use left")
@then("the policy token has {count:d} uses left")
def step_uses(context: Any, count: int) -> None:
    assert context.policy.seen().uses_left == count


@then("the policy extension was asked {count:d} times")
def step_asked(context: Any, count: int) -> None:
    assert context.policy.seen().extension_calls == count
