"""The 26 normative cases; the table itself stands in `holdfast.suites.kernel_cases`, as JSON that any kernel
can be held against, and is run here in this process, with real tokens and a real extension process."""

import json

import pytest

from holdfast.suites.kernel_cases import CASES, SECTIONS, Case, given, rule
from holdfast.systems.kernel.loader import load_rules
from holdfast.systems.kernel.scenario import run_scenario, scenario_from


def test_the_table_holds_each_of_the_26_cases_once() -> None:
    assert [case.number for case in CASES] == list(range(1, 27))
    assert {case.section for case in CASES} == set(SECTIONS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02}")
def test_case(case: Case) -> None:
    observed = run_scenario(scenario_from(case.test, ()))
    for word, expected in case.expect.items():
        found = getattr(observed, word)
        assert (list(found) if isinstance(found, tuple) else found) == expected, f"{case.sentence}: {word}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02}")
def test_case_warns_at_load_where_it_should_and_nowhere_else(case: Case) -> None:
    text = json.dumps({"capabilities": case.test["capabilities"]})
    warnings = [warned.message for warned in load_rules(text, "rules").warnings]
    if case.warning is None:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert case.warning in warnings[0]


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "capabilities:\n", "capabilities: []\n", "{}", "~"]
)
def test_a_file_without_rules_is_an_empty_policy_and_the_builtins_stay(text: str) -> None:
    assert load_rules(text, "empty.yaml").rules == ()
    guarded = given(builtins=(rule("guarded", "deny"),))
    assert run_scenario(scenario_from(guarded, load_rules(text, "empty.yaml").rules)).phase == "builtin"
