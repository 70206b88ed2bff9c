"""Every policy of up to three rules over a small alphabet, against every request and token state: the engine
and the thirty-line model agree. Nightly walks all of it; here a seeded share, within a time box."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import pytest

from holdfast.clock import monotonic
from holdfast.systems.kernel.decision import Phase
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.policy import Policy, compile_policy
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule, Source, Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck
from tests.systems.kernel.reference_model import ModelRule, model

SRC = PathSet.parse(["src/**"])
READ_ONLY = frozenset({"fs.read"})
MATCHES = {
    "anything": Match(),
    "reads": Match(syscalls=READ_ONLY),
    "sources": Match(paths=SRC),
}
EXCEPTS: dict[str, tuple[Match, ...]] = {
    "nothing": (),
    "reads": (Match(syscalls=READ_ONLY),),
    "sources or never": (Match(paths=SRC), Match(paths=PathSet.parse([]))),
}
TOKENS = (None, Standing.VALID, Standing.EXPIRED)


def _request(syscall: str, path: str) -> Request:
    return Request(syscall, "model", ResolvedPath.judged(path, "/w"))


def _in_sources(request: Request) -> bool:
    return request.path is not None and request.path.text.startswith("/w/src/")


REQUESTS = tuple(_request(s, p) for s in ("fs.read", "fs.write") for p in ("/w/src/a", "/w/doc/a"))
HOLDS: dict[str, Callable[[Request], bool]] = {
    "anything": lambda request: True,
    "nothing": lambda request: False,
    "reads": lambda request: request.syscall == "fs.read",
    "sources": _in_sources,
    "sources or never": _in_sources,
}


@dataclass(frozen=True)
class Letter:
    """One rule of the alphabet."""

    source: str
    action: Action
    match: str
    excepts: str

    def rule(self) -> Rule:
        name = f"{self.source}-{self.action.value}-{self.match}-{self.excepts}"
        source = Source.BUILTIN if self.source == "builtin" else Source.YAML
        return Rule(name, MATCHES[self.match], self.action, EXCEPTS[self.excepts], source=source)

    def modelled(self, request: Request) -> ModelRule:
        return ModelRule(
            self.source, self.action.value, HOLDS[self.match](request), HOLDS[self.excepts](request)
        )


ALPHABET = tuple(
    Letter(source, action, match, excepts)
    for source in ("builtin", "yaml", "extension")
    for action in Action
    for match in MATCHES
    for excepts in EXCEPTS
)
PER_POLICY = len(REQUESTS) * len(TOKENS)
POLICIES = sum(
    1
    if size == 0
    else len(ALPHABET)
    * (len(ALPHABET) + 1) ** (size > 1)
    * (len(ALPHABET) + 2) ** (size > 2)
    // (1, 1, 2, 6)[size]
    for size in range(4)
)


def every_policy() -> Iterator[tuple[Letter, ...]]:
    """Multisets of up to three letters: order is the business of a law of its own."""
    for size in range(4):
        yield from combinations_with_replacement(ALPHABET, size)


def compiled(letters: tuple[Letter, ...], rules: dict[Letter, Rule]) -> Policy:
    return compile_policy(rules[letter] for letter in letters if letter.source != "extension")


def outcome(policy: Policy, request: Request, token: Standing | None, extension: list[Rule]) -> str:
    def ask(asked: Request, now: int) -> list[Vote]:
        said = ((rule.name, rule.vote(asked)) for rule in extension)
        return [Vote(name, action, "said", Phase.EXTENSION) for name, action in said if action is not None]

    check = None if token is None else TokenCheck(token, request, 1)
    return decide(request, policy, 1, check, extensions=(ask,) if extension else ()).outcome.value


def disagreements(letters: tuple[Letter, ...], rules: dict[Letter, Rule]) -> list[str]:
    policy = compiled(letters, rules)
    extension = [rules[letter] for letter in letters if letter.source == "extension"]
    wrong = []
    for request in REQUESTS:
        modelled = tuple(letter.modelled(request) for letter in letters)
        for token in TOKENS:
            expected = model(True, None if token is None else token.value, modelled)
            found = outcome(policy, request, token, extension)
            if found != expected:
                wrong.append(
                    f"{letters} {request.syscall} {request.path} token {token}: {found}, model {expected}"
                )
    return wrong


def test_the_alphabet_gives_over_a_million_combinations() -> None:
    assert (len(ALPHABET), POLICIES, POLICIES * PER_POLICY) == (108, 221_815, 2_661_780)


def test_engine_and_model_agree_on_a_seeded_share_of_every_small_policy() -> None:
    """All policies of up to one rule, and then random ones for a few seconds, at least 2,000 of them."""
    rules = {letter: letter.rule() for letter in ALPHABET}
    pick = random.Random(20260221)
    until = monotonic() + 4.0
    checked = 0
    for letters in [(), *((letter,) for letter in ALPHABET)]:
        assert disagreements(letters, rules) == []
    while checked < 2_000 or monotonic() < until:
        letters = tuple(pick.choices(ALPHABET, k=pick.choice((2, 3, 3, 3))))
        assert disagreements(letters, rules) == []
        checked += 1


def test_an_unknown_syscall_is_denied_whatever_any_rule_says() -> None:
    everything = compile_policy([Rule("all", Match(), Action.ALLOW)])
    for token in TOKENS:
        request = Request("fs.format", "model")
        assert outcome(everything, request, token, []) == model(False, None, ()) == "deny"


@pytest.mark.nightly
def test_engine_and_model_agree_on_every_small_policy() -> None:
    """2,661,780 combinations, none left out."""
    rules = {letter: letter.rule() for letter in ALPHABET}
    policies = 0
    for letters in every_policy():
        policies += 1
        assert disagreements(letters, rules) == []
    assert policies * PER_POLICY == 2_661_780
