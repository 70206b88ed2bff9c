"""Steps of lane hygiene: one line each, over the objects that pytest uses."""

from behave import given, then, when
from behave.runner import Context

from holdfast.harness.gate import Outcome
from holdfast.sandbox import parse_isolations
from holdfast.suites.ccp import GATES, suite
from tests.running import proxy_with, run


@given("the proxy of this project")
def own_proxy(context: Context) -> None:
    context.proxy = None


@given("a stranger's proxy without a fault")
def sound_proxy(context: Context) -> None:
    context.proxy = proxy_with("none")


@given("a stranger's proxy that {fault}")
def faulty_proxy(context: Context, fault: str) -> None:
    context.proxy = proxy_with(fault)


@given("a proxy command that ends at once")
def ending_proxy(context: Context) -> None:
    context.proxy = ("/bin/false",)


@when("its traffic is watched under {isolations}")
def traffic_watched(context: Context, isolations: str) -> None:
    context.concluded = run(
        context.folder / "results", *parse_isolations(isolations), suites=(suite,), proxy=context.proxy
    )


@then("every lane gate passes")
def all_pass(context: Context) -> None:
    outcomes = {gate.name: context.concluded.overall[gate.name] for gate in GATES}
    assert all(j.outcome is Outcome.PASS for j in outcomes.values()), outcomes


@then("the lane gate {gate} is red")
def gate_is_red(context: Context, gate: str) -> None:
    assert context.concluded.overall[gate].outcome is Outcome.FAIL, context.concluded.overall[gate]


@then("no lane gate passes")
def none_passes(context: Context) -> None:
    outcomes = {gate.name: context.concluded.overall[gate.name].outcome for gate in GATES}
    assert set(outcomes.values()) == {Outcome.CANNOT_TELL}, outcomes
