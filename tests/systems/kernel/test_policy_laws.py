"""Laws of the policy engine, over generated policies and requests."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.kernel.decision import Decision, Outcome
from holdfast.systems.kernel.engine import STRICTNESS, decide, strictest
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import compile_policy, parse_document
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule, Source
from holdfast.systems.kernel.standing import Standing, TokenCheck
from holdfast.systems.kernel.tokens import Claim, IssueRefusedError, TokenStore
from tests.systems.kernel.sizes import law

GLOBS = (
    "src/**", "src/a/**", "src/a/b", "**/b", "/etc/**", "/w/src/**", "*.py", "doc/", "src/*/b", "/w/**/a/*",
    "/w/src/a/b", "s?c/**", "src/[ab]/**", "**/a/**/b", "/**",
)  # fmt: skip
SYSCALLS = ("fs.read", "fs.write", "search.grep")
PATHS = ("/w/src/a/b", "/w/src/b", "/w/doc/x.py", "/etc/passwd", "/w", "/w/src/a/c/b", "/", "/w/sxc/a")
TAGS = ("core_plugin", "third_party")
STATES = ("run", "hold")

globs = st.lists(st.sampled_from(GLOBS + tuple(f"!{glob}" for glob in GLOBS)), max_size=3)


def some(values: Sequence[str]) -> st.SearchStrategy[frozenset[str] | None]:
    """Any value, or a few."""
    return st.none() | st.frozensets(st.sampled_from(values), max_size=2)


matches = st.builds(
    Match,
    syscalls=some(SYSCALLS),
    caller_tags=some(TAGS),
    paths=st.none() | globs.map(PathSet.parse),
    states=some(STATES),
)
rules = st.builds(
    Rule,
    name=st.sampled_from("abcdef"),
    match=matches,
    action=st.sampled_from(Action),
    excepts=st.lists(matches, max_size=2).map(tuple),
    reason=st.sampled_from(("", "because", "since")),
    limits=st.sampled_from(((), (("max_size", 10),), (("max_size", 20), ("max_time", 5)))),
    source=st.sampled_from((Source.BUILTIN, Source.YAML, Source.YAML)),
)
policies = st.lists(rules, max_size=8)
requests = st.builds(
    Request,
    syscall=st.sampled_from(SYSCALLS),
    caller=st.just("law"),
    path=st.sampled_from(PATHS).map(lambda text: ResolvedPath.judged(text, "/w")),
    caller_tag=st.none() | st.sampled_from(TAGS),
    state=st.none() | st.sampled_from(STATES),
)
standings = st.none() | st.sampled_from(Standing)


def decided(listed: list[Rule], request: Request, standing: Standing | None = None) -> Decision:
    check = None if standing is None else TokenCheck(standing, request, 1)
    return decide(request, compile_policy(listed), 1, check)


@law
@given(policies, requests, standings, st.randoms(use_true_random=False))
def test_order_and_duplicates_never_matter(
    listed: list[Rule], request: Request, standing: Standing | None, shuffle: random.Random
) -> None:
    doubled = listed + [rule for rule in listed if rule.source is Source.YAML and shuffle.random() < 0.5]
    shuffle.shuffle(doubled)
    assert decided(doubled, request, standing) == decided(listed, request, standing)


@law
@given(policies, rules, requests, standings)
def test_adding_a_deny_never_loosens(
    listed: list[Rule], added: Rule, request: Request, standing: Standing | None
) -> None:
    deny = Rule("new", added.match, Action.DENY, added.excepts, source=added.source)
    before, after = decided(listed, request, standing), decided([*listed, deny], request, standing)
    assert STRICTNESS[after.outcome] <= STRICTNESS[before.outcome]


@law
@given(policies, requests)
def test_a_token_never_lifts_a_builtin(listed: list[Rule], request: Request) -> None:
    builtins = [rule for rule in listed if rule.source is Source.BUILTIN]
    alone = decided(builtins, request)
    by_token = decided(listed, request, Standing.VALID)
    if alone.rules and alone.outcome is not Outcome.ALLOW:
        assert (by_token.outcome, by_token.rules) == (alone.outcome, alone.rules)
    else:
        assert by_token.outcome is Outcome.ALLOW


@law
@given(policies, requests, st.sampled_from([s for s in Standing if s is not Standing.VALID]))
def test_a_token_that_is_not_valid_changes_nothing(
    listed: list[Rule], request: Request, standing: Standing
) -> None:
    assert decided(listed, request, standing)._replace(token=None) == decided(listed, request)


@law
@given(policies, st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2), requests)
def test_the_token_path_never_allows_what_the_full_path_would_have_refused_when_the_token_was_issued(
    listed: list[Rule], claimed: list[str], request: Request
) -> None:
    policy = compile_policy(listed)
    store, peer = TokenStore("/w", secret=bytes(32)), Peer("mnt:1", 1, 1)
    claim = Claim(request.syscall, tuple(claimed), caller_tag=request.caller_tag, state=request.state)
    try:
        issued = store.issue(peer, claim, policy, 0)
    except IssueRefusedError:
        return
    check = store.check(issued.sealed, request, peer, 1)
    if decide(request, policy, 1, check).outcome is Outcome.ALLOW and check.standing is Standing.VALID:
        assert decide(request, policy, 1).outcome is Outcome.ALLOW


@law
@given(policies, requests)
def test_only_allows_allow_and_every_determining_rule_is_named(listed: list[Rule], request: Request) -> None:
    decision = decided(listed, request)
    votes = [(rule, rule.vote(request)) for rule in listed]
    word = {Outcome.ALLOW: Action.ALLOW, Outcome.DENY: Action.DENY, Outcome.REVIEW: Action.REVIEW}[
        decision.outcome
    ]
    assert set(decision.rules) == {rule.name for rule, said in votes if said is word}
    assert set(decision.reasons) >= {rule.ballot().reason for rule, said in votes if said is word}


@law
@given(policies, requests)
def test_a_policy_survives_its_document(listed: list[Rule], request: Request) -> None:
    policy = compile_policy(listed)
    again = parse_document(policy.document)
    assert again.digest == policy.digest
    assert decide(request, again, 1) == decide(request, policy, 1)


@law
@given(policies, requests)
def test_the_index_hides_no_rule(listed: list[Rule], request: Request) -> None:
    """What the shelves give is what asking every rule gives."""
    policy = compile_policy(listed)
    found = {
        (vote.rule, vote.action)
        for shelf in (policy.builtin, policy.yaml)
        for vote in shelf[request.syscall].votes(request)
    }
    asked = {
        (rule.name, rule.action) for rule in listed if rule.vote(request) is rule.action is not Action.PASS
    }
    assert found == asked


def test_limits_of_several_allows_come_out_tightest() -> None:
    one = Rule("one", Match(), Action.ALLOW, limits=(("max_size", 10), ("max_time", 9)))
    two = Rule("two", Match(), Action.ALLOW, limits=(("max_size", 20),))
    request = Request("tool.execute", "law")
    assert decided([one, two], request).limits == (("max_size", 10), ("max_time", 9))
    assert decided([one, Rule("no", Match(), Action.DENY)], request).limits == ()


def test_a_call_on_two_paths_gets_the_strictest_decision_and_one_on_none_gets_none() -> None:
    request = Request("tool.execute", "law")
    allow = decided([Rule("yes", Match(), Action.ALLOW)], request)
    deny = decided([], request)
    assert strictest([allow, deny]) == strictest([deny, allow]) == deny
    try:
        strictest([])
    except ValueError:
        return
    raise AssertionError("a call on no path was decided")
