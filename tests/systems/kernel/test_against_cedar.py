"""Differential test: the fragment that Cedar and this engine both express, decided by both.

permit and forbid, default deny, forbid wins; `when`/`unless` over action, path prefix, role and state stand for
match and except. The same random policy is written twice, once in each language.
"""

import random

import cedarpy
import pytest

from holdfast.systems.kernel.decision import Outcome
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.policy import compile_policy
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule

SYSCALLS = ("fs.read", "fs.write", "search.grep")
TAGS = ("core_plugin", "trusted_write", "third_party")
STATES = ("run", "hold")
PLACES = ("src", "src/a", "doc", "src/a/b")
PATHS = ("src/a/b/c", "src/a", "src", "doc/x", "other", "src/ab", "doc")


def random_match(pick: random.Random) -> tuple[Match, str]:
    """The same condition in both languages."""
    syscalls = pick.sample(SYSCALLS, pick.choice((0, 1, 2)))
    tags = pick.sample(TAGS, pick.choice((0, 0, 1, 2)))
    states = pick.sample(STATES, pick.choice((0, 0, 1)))
    places = pick.sample(PLACES, pick.choice((0, 1, 1, 2)))
    match = Match(
        frozenset(syscalls) if syscalls else None,
        frozenset(tags) if tags else None,
        PathSet.parse([f"{place}/**" for place in places]) if places else None,
        frozenset(states) if states else None,
    )
    conditions = [
        " || ".join(f'context.{name} == "{value}"' for value in values)
        for name, values in (("syscall", syscalls), ("tag", tags), ("state", states))
        if values
    ]
    if places:
        conditions.append(" || ".join(f'context.path like "{place}/*"' for place in places))
    return match, " && ".join(f"({condition})" for condition in conditions) or "true"


def random_policy(pick: random.Random) -> tuple[list[Rule], str]:
    rules, cedar = [], []
    for number in range(pick.randint(0, 6)):
        match, when = random_match(pick)
        conditions = [random_match(pick) for _ in range(pick.choice((0, 0, 1, 2)))]
        action, word = pick.choice(
            ((Action.ALLOW, "permit"), (Action.ALLOW, "permit"), (Action.DENY, "forbid"))
        )
        rules.append(Rule(f"r{number}", match, action, tuple(except_ for except_, _ in conditions)))
        clauses = f"when {{ {when} }}" + "".join(f" unless {{ {condition} }}" for _, condition in conditions)
        cedar.append(f"{word}(principal, action, resource) {clauses};")
    return rules, "\n".join(cedar)


def compare(seed: int) -> tuple[str, str, str]:
    pick = random.Random(seed)
    rules, cedar = random_policy(pick)
    syscall, tag, state, path = (
        pick.choice(SYSCALLS),
        pick.choice(TAGS),
        pick.choice(STATES),
        pick.choice(PATHS),
    )
    request = Request(syscall, "peer", ResolvedPath.judged(f"/w/{path}", "/w"), tag, state)
    ours = decide(request, compile_policy(rules), 1).outcome
    # Cedar's `like` has no segments: a trailing slash makes `src/*` mean `src` and all below it.
    asked = {
        "principal": 'User::"u"', "action": 'Action::"a"', "resource": 'File::"f"',
        "context": {"syscall": syscall, "tag": tag, "state": state, "path": f"{path}/"},
    }  # fmt: skip
    theirs = cedarpy.is_authorized(asked, cedar, [])
    assert not theirs.diagnostics.errors, cedar
    return ("allow" if ours is Outcome.ALLOW else "deny"), ("allow" if theirs.allowed else "deny"), cedar


def agreeing(seeds: range) -> dict[str, int]:
    seen = {"allow": 0, "deny": 0}
    for seed in seeds:
        ours, theirs, cedar = compare(seed)
        assert ours == theirs, f"seed {seed}: we say {ours}, Cedar says {theirs}, of\n{cedar}"
        seen[ours] += 1
    return seen


def test_300_random_policies_are_decided_as_cedar_decides_them() -> None:
    seen = agreeing(range(300))
    assert min(seen.values()) > 50, f"one-sided sample: {seen}"


@pytest.mark.nightly
def test_10000_random_policies_are_decided_as_cedar_decides_them() -> None:
    seen = agreeing(range(10_000))
    assert min(seen.values()) > 1_500, f"one-sided sample: {seen}"
