"""Why a decision came out as it did, and what would have to change for another one.

The advice is not guessed: each suggested change is decided again, and only those that lead to `allow` stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from holdfast.systems.kernel.decision import Decision, Outcome
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.policy import Policy, compile_policy
from holdfast.systems.kernel.request import Request
from holdfast.systems.kernel.rules import Action, Rule

__all__ = ["Explanation", "explain"]

MOST_ADVICE = 5
STRICT = frozenset({Action.DENY, Action.REVIEW})


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, the rules that made it, and verified ways to `allow`."""

    decision: Decision
    deciding: tuple[Rule, ...]
    advice: tuple[str, ...]
    """Each line alone would change the outcome to allow; empty when it is allowed or when none was found."""


def explain(request: Request, policy: Policy, now: int) -> Explanation:
    """Decide without token and extension, and look for the smallest changes that would allow the call."""
    decision = decide(request, policy, now)
    named = set(decision.rules)
    deciding = tuple(rule for rule in policy.rules if rule.name in named and rule.vote(request) is not None)
    advice = () if decision.outcome is Outcome.ALLOW else tuple(_advice(request, policy, now, deciding))
    return Explanation(decision, deciding, advice[:MOST_ADVICE])


def _advice(request: Request, policy: Policy, now: int, deciding: Sequence[Rule]) -> Iterator[str]:
    objecting = [rule for rule in deciding if rule.action in STRICT]
    for changed, change in _other_requests(request, policy):
        if decide(changed, policy, now).outcome is Outcome.ALLOW:
            yield change
    without = compile_policy(rule for rule in policy.rules if rule not in objecting)
    if objecting and decide(request, without, now).outcome is Outcome.ALLOW:
        names = " and ".join(f"`{rule.name}`" for rule in objecting)
        yield f"an `except` in {names} that holds for this call: another rule allows it already"
    for rule in policy.rules:
        if rule.action is Action.ALLOW and not objecting and (missing := _paths_missing(rule, request)):
            yield missing


def _other_requests(request: Request, policy: Policy) -> Iterator[tuple[Request, str]]:
    """The same call by another caller tag or in another state, as far as rules speak of them."""
    tags = sorted({tag for rule in policy.rules for tag in rule.match.caller_tags or ()})
    for tag in tags:
        if tag != request.caller_tag:
            yield replace(request, caller_tag=tag), f"a caller with the tag `{tag}`"
    states = sorted({state for rule in policy.rules for state in rule.match.states or ()})
    for state in states:
        if state != request.state:
            yield replace(request, state=state), f"the state `{state}`"


def _paths_missing(rule: Rule, request: Request) -> str | None:
    """The advice to widen an allow rule's globs, if its globs alone keep it from allowing this call."""
    if rule.match.paths is None or request.path is None:
        return None
    widened = replace(rule, match=replace(rule.match, paths=None))
    if rule.match.holds(request) or widened.vote(request) is not Action.ALLOW:
        return None
    return f"a `path_glob` in rule `{rule.name}` (line {rule.line}) that holds for `{request.path.text}`"
