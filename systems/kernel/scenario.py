"""A policy put to the test: rules, one request, a token and an extension as described, and what came out.

    capabilities: [...]                 the rules under test, or `policy: FILE` beside this one
    builtins: [...]                     built-in rules for all tests; none when left out
    tests:
      - name: plugins may read sources
        request: {syscall: fs.read, path: src/main.py, caller_tag: core_plugin, state: run}
        token: valid                    or expired, expires_now, exhausted, other_container, ...
        extension: crash                or timeout, garbage, flood, or a list of votes
        expect: {outcome: allow, phase: yaml, rules: [allow-src]}

A test may carry `capabilities` and `builtins` of its own. Everything is real: tokens are issued and checked
by a `TokenStore`, an extension is a process. Only what `expect` names is compared.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from holdfast.systems.kernel.engine import Ask, decide
from holdfast.systems.kernel.extension import Extension
from holdfast.systems.kernel.loader import PolicyFileError, load_rules
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import compile_policy
from holdfast.systems.kernel.request import SYSCALLS, Request, RequestError, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule, Source, Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck
from holdfast.systems.kernel.tokens import Claim, TokenStore

__all__ = ["TOKEN_STATES", "Observed", "Scenario", "ScenarioError", "run_scenario"]

WORKSPACE: Final = "/workspace"
SECOND: Final = 1_000_000_000
LIFE: Final = 30 * SECOND
NOW: Final = SECOND
OWN: Final = Peer("mnt:1", 100, 7)
FOREIGN: Final = Peer("mnt:2", 100, 7)
OTHER: Final = Peer("mnt:1", 101, 7)
STANDIN: Final = Path(__file__).with_name("standin.py")
ANYTHING: Final = compile_policy([Rule("issue", Match(), Action.ALLOW)])


class ScenarioError(ValueError):
    """The description cannot be set up; the message names the word."""


@final
@dataclass(frozen=True, slots=True)
class Scenario:
    """One request under one policy."""

    rules: tuple[Rule, ...]
    syscall: str
    path: str | None = None
    caller_tag: str | None = None
    state: str | None = None
    token: str | None = None
    extension: str | None = None
    """What the stand-in is told; None: there is no extension."""


@final
@dataclass(frozen=True, slots=True)
class Observed:
    """What came out, in words that `expect` can use."""

    outcome: str
    phase: str
    rules: tuple[str, ...]
    reasons: tuple[str, ...]
    standing: str | None
    """How the token stood."""
    extension_calls: int
    restarts: int
    uses_left: int | None
    one_snapshot: bool


@dataclass(frozen=True, slots=True)
class _Bearing:
    """How a token state is brought about: who bears it, when, and what happened to it before."""

    peer: Peer = OWN
    now: int = NOW
    prepare: Callable[[TokenStore, bytes, TokenCheck], object] = lambda *_: None
    spoil: Callable[[bytes], bytes] = lambda sealed: sealed
    claim: Callable[[Claim], Claim] = lambda claim: claim


TOKEN_STATES: Final[Mapping[str, _Bearing]] = {
    "valid": _Bearing(),
    "expired": _Bearing(now=LIFE + SECOND),
    "expires_now": _Bearing(now=LIFE),
    "expires_next": _Bearing(now=LIFE - 1),
    "exhausted": _Bearing(prepare=lambda store, _, check: store.use(check)),
    "revoked": _Bearing(prepare=lambda store, token_id, _: store.revoke(token_id)),
    "other_container": _Bearing(peer=FOREIGN),
    "other_peer": _Bearing(peer=OTHER),
    "bad_signature": _Bearing(spoil=lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1])),
    "empty_globs": _Bearing(claim=lambda claim: replace(claim, globs=())),
    "other_path": _Bearing(claim=lambda claim: replace(claim, globs=("/elsewhere/**",))),
}


def run_scenario(scenario: Scenario) -> Observed:
    """Set it up, decide once, take the token's use as the guard does; raises `ScenarioError`, `RequestError`."""
    policy = compile_policy(scenario.rules)
    request = _request(scenario)
    seen: list[int] = []
    with _extension(scenario.extension) as extension:
        asks: tuple[Ask, ...] = () if extension is None else (_noting(extension, seen),)
        store, check, now = _token(scenario, request)
        decision = decide(request, policy, now, check, extensions=asks)
        used = (
            decision.outcome.value == "allow" and store is not None and check is not None and store.use(check)
        )
        return Observed(
            outcome=decision.outcome.value,
            phase=decision.phase.value,
            rules=decision.rules,
            reasons=decision.reasons,
            standing=None if decision.token is None else decision.token.value,
            extension_calls=0 if extension is None else extension.calls,
            restarts=0 if extension is None else extension.restarts,
            uses_left=None if check is None else int(check.standing is Standing.VALID and not used),
            one_snapshot=all(instant == decision.now == now for instant in seen),
        )


def _request(scenario: Scenario) -> Request:
    path = None
    if scenario.path is not None:
        text = scenario.path if scenario.path.startswith("/") else f"{WORKSPACE}/{scenario.path}"
        path = ResolvedPath.judged(text, WORKSPACE)
    return Request(scenario.syscall, "tester", path, scenario.caller_tag, scenario.state)


def _token(scenario: Scenario, request: Request) -> tuple[TokenStore | None, TokenCheck | None, int]:
    if scenario.token is None:
        return None, None, NOW
    bearing = TOKEN_STATES.get(scenario.token)
    if bearing is None:
        raise ScenarioError(
            f"unknown token state `{scenario.token}`; expected one of {', '.join(TOKEN_STATES)}"
        )
    if scenario.syscall not in SYSCALLS:
        raise ScenarioError(f"no token can be issued for `{scenario.syscall}`")
    store = TokenStore(WORKSPACE)
    globs = None if request.path is None else (request.path.text,)
    issued = store.issue(OWN, bearing.claim(Claim(scenario.syscall, globs, life=LIFE)), ANYTHING, 0)
    bearing.prepare(store, issued.id, store.check(issued.sealed, request, OWN, NOW))
    return store, store.check(bearing.spoil(issued.sealed), request, bearing.peer, bearing.now), bearing.now


@contextmanager
def _extension(told: str | None) -> Iterator[Extension | None]:
    if told is None:
        yield None
        return
    extension = Extension([sys.executable, "-I", "-S", str(STANDIN), told], name="extension")
    try:
        if not extension.warm_up():
            raise ScenarioError("the stand-in extension did not start")
        yield extension
    finally:
        extension.close()


def _noting(extension: Extension, seen: list[int]) -> Ask:
    def ask(request: Request, now: int) -> Sequence[Vote]:
        seen.append(now)
        return extension(request, now)

    return ask


def builtin_from(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same rules as built-ins."""
    return tuple(replace(rule, source=Source.BUILTIN) for rule in rules)


def rules_from(listed: Any) -> tuple[Rule, ...]:
    """Rules given as plain JSON values; raises `ScenarioError`."""
    try:
        return load_rules(json.dumps({"capabilities": listed}, ensure_ascii=False), "rules").rules
    except PolicyFileError as error:
        raise ScenarioError(error.message) from None


def scenario_from(test: Mapping[str, Any], rules: tuple[Rule, ...]) -> Scenario:
    """One entry of `tests`; raises `ScenarioError`, `RequestError`."""
    if unknown := sorted(
        set(test) - {"name", "request", "token", "extension", "expect", "capabilities", "builtins"}
    ):
        raise ScenarioError(f"unknown key `{unknown[0]}` in a test")
    request = test.get("request")
    if not isinstance(request, Mapping) or not isinstance(request.get("syscall"), str):
        raise ScenarioError("a test needs `request` with `syscall`")
    if unknown := sorted(set(request) - {"syscall", "path", "caller_tag", "state"}):
        raise ScenarioError(f"unknown key `{unknown[0]}` in a request")
    if any(not isinstance(value, str) for value in request.values()):
        raise RequestError("the fields of a request are texts")
    own = rules_from(test["capabilities"]) if "capabilities" in test else rules
    builtins = builtin_from(rules_from(test["builtins"])) if "builtins" in test else ()
    told = test.get("extension")
    return Scenario(
        rules=builtins + own,
        **request,
        token=test.get("token"),
        extension=told if told is None or isinstance(told, str) else json.dumps(told),
    )
