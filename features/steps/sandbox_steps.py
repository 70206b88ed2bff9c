"""Steps of the sandbox's features: one line each, over the objects that pytest uses."""

from behave import given, register_type, then, when
from behave.runner import Context

from holdfast.harness.gate import Outcome
from holdfast.sandbox import Isolation, parse_isolations
from holdfast.sandbox.plan import Filter
from tests.harness.test_planted_sandboxes import LIAR
from tests.running import report_of, run

OUTCOMES = {"passes": Outcome.PASS, "fails": Outcome.FAIL, "cannot tell": Outcome.CANNOT_TELL}


def parse_outcome(text: str) -> Outcome:
    """The words after a gate's name."""
    return OUTCOMES[text]


parse_outcome.pattern = "|".join(OUTCOMES)  # type: ignore[attr-defined]  # how behave's types say what they match
register_type(Outcome=parse_outcome)


@given("an agent that reports a denial for everything")
def agent_that_lies(context: Context) -> None:
    context.agent = context.folder / "liar.py"
    context.agent.write_text(LIAR)


@given("a sandbox whose filter is not loaded")
def filter_not_loaded(context: Context) -> None:
    context.alter = {Isolation.SECCOMP: lambda plan: plan.without(Filter)}


@when("the battery runs under {isolations}")
def battery_runs(context: Context, isolations: str) -> None:
    changes = {name: getattr(context, name) for name in ("agent", "alter") if name in context}
    context.concluded = run(
        context.folder / "results", *parse_isolations(isolations.replace(" and ", ",")), **changes
    )


@then("the family {family} is {verdict} under {isolation}")
def family_is(context: Context, family: str, verdict: str, isolation: str) -> None:
    row = next(row for row in context.concluded.page.matrix if row.family == family)
    cell = row.cells[context.concluded.page.isolations.index(isolation)]
    assert cell.startswith(verdict), cell


@then("the gate {gate} {outcome:Outcome}")
def gate_outcome(context: Context, gate: str, outcome: Outcome) -> None:
    assert context.concluded.overall[gate].outcome is outcome, context.concluded.overall[gate]


@then('the report says "{sentence}"')
def report_says(context: Context, sentence: str) -> None:
    assert sentence in report_of(context.concluded)
