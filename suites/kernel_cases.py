"""The 26 normative cases of a policy engine, as a table: what is set up, what is asked, what must come out.

Each case is plain JSON, in the words of `agent-kernel policy test`, so any kernel can be held against it.
`expect` names everything that the case is about: outcome, the phase that settled it, all determining rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

__all__ = ["CASES", "SECTIONS", "Case"]

ALLOW, DENY, REVIEW, ABSTAIN = "allow", "deny", "require_review", "pass"
READ: Final = {"syscall": "fs.read", "path": "src/main.py", "caller_tag": "core_plugin", "state": "run"}
WRITE: Final = {**READ, "syscall": "fs.write"}


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One case."""

    number: int
    section: str
    sentence: str
    test: Mapping[str, Any]
    expect: Mapping[str, Any]
    warning: str | None = field(default=None)
    """A text that the load must warn of."""


def rule(name: str, action: str, *excepts: Mapping[str, Any], **match: Any) -> dict[str, Any]:
    """A rule for `fs.read` and `fs.write` unless `match` says otherwise; its reason is `why NAME`."""
    described: dict[str, Any] = {
        "name": name,
        "match": {"syscall": ["fs.read", "fs.write"], **match},
        "action": action,
        "reason": f"why {name}",
    }
    return {**described, "except": list(excepts)} if excepts else described


def vote(name: str, action: str) -> dict[str, str]:
    """What an extension says."""
    return {"rule": name, "action": action, "reason": f"why {name}"}


def given(
    *yaml: Mapping[str, Any],
    request: Mapping[str, str] = READ,
    builtins: tuple[Mapping[str, Any], ...] = (),
    extension: Any = None,
    bearer: str | None = None,
) -> dict[str, Any]:
    """What is set up for a case."""
    test: dict[str, Any] = {"request": request, "capabilities": list(yaml), "builtins": list(builtins)}
    if extension is not None:
        test["extension"] = extension
    if bearer is not None:
        test["token"] = bearer
    return test


def so(outcome: str, phase: str, *rules: str, **more: Any) -> dict[str, Any]:
    """What must come out; reasons follow from the rules."""
    return {"outcome": outcome, "phase": phase, "rules": list(rules), **more}


def because(*rules: str) -> list[str]:
    """All reasons, in the order of the rules."""
    return [f"why {name}" for name in rules]


BASIC, TOKEN, EXCEPT = "basic semantics", "token path", "except mechanism"
AGGREGATION, DEFENSIVE = "aggregation", "defensive boundaries"
SECTIONS: Final = (BASIC, TOKEN, EXCEPT, AGGREGATION, DEFENSIVE)

OPEN = rule("open", ALLOW)
CLOSED = rule("closed", DENY)
ASKED = rule("asked", REVIEW)
IN_RUN, IN_HOLD, FROZEN = {"state": "run"}, {"state": "hold"}, {"state": "frozen"}
GUARDED = rule("guarded", DENY, path_glob=["src/**"])

CASES: Final = (
    Case(1, BASIC, "nothing matches: deny",
         given(rule("elsewhere", ALLOW, path_glob=["doc/**"])), so(DENY, "default")),
    Case(2, BASIC, "only pass: deny",
         given(rule("abstains", ABSTAIN)), so(DENY, "default")),
    Case(3, BASIC, "allow and deny on one call: deny",
         given(OPEN, CLOSED), so(DENY, "yaml", "closed", reasons=because("closed"))),
    Case(4, BASIC, "allow and review: review",
         given(OPEN, ASKED), so(REVIEW, "yaml", "asked")),
    Case(5, BASIC, "built-in allow, extension deny: deny, an allow never short-circuits",
         given(builtins=(OPEN,), extension=[vote("no", DENY)]),
         so(DENY, "extension", "extension/no", extension_calls=1)),
    Case(6, BASIC, "a review rule whose except matches contributes pass: deny if nothing else allows",
         given(rule("asked", REVIEW, IN_RUN)), so(DENY, "default")),
    Case(7, TOKEN, "valid token, built-in denies: deny",
         given(OPEN, builtins=(GUARDED,), bearer="valid"),
         so(DENY, "builtin", "guarded", standing="valid", uses_left=1)),
    Case(8, TOKEN, "valid token, no built-in objects: allow, and neither YAML nor extension is consulted",
         given(CLOSED, builtins=(rule("far", DENY, path_glob=["/boot/**"]),), bearer="valid",
               extension=[vote("no", DENY)]),
         so(ALLOW, "token", standing="valid", extension_calls=0, uses_left=0)),
    Case(9, TOKEN, "expired token: full evaluation",
         given(ASKED, bearer="expired"), so(REVIEW, "yaml", "asked", standing="expired")),
    Case(10, AGGREGATION, "several review rules: review with all reasons",
         given(rule("b", REVIEW), rule("a", REVIEW), rule("c", REVIEW), OPEN),
         so(REVIEW, "yaml", "a", "b", "c", reasons=because("a", "b", "c"))),
    Case(11, AGGREGATION, "YAML deny with extension allow: deny, and the extension is never called",
         given(CLOSED, rule("also", DENY), extension=[vote("yes", ALLOW)]),
         so(DENY, "yaml", "also", "closed", reasons=because("also", "closed"), extension_calls=0)),
    Case(12, AGGREGATION, "syscall matches, path does not: rule not applied",
         given(rule("keys", DENY, path_glob=["**/*.pem"]), OPEN), so(ALLOW, "yaml", "open")),
    Case(13, EXCEPT, "except does not match: review",
         given(rule("asked", REVIEW, FROZEN)), so(REVIEW, "yaml", "asked")),
    Case(14, EXCEPT, "several excepts, one matches: pass",
         given(rule("asked", REVIEW, FROZEN, {"syscall": "*", "state": "run"}, IN_HOLD), OPEN),
         so(ALLOW, "yaml", "open")),
    Case(15, EXCEPT, "several excepts, none matches: review",
         given(rule("asked", REVIEW, FROZEN, IN_HOLD, {"syscall": "fs.write"}), OPEN),
         so(REVIEW, "yaml", "asked")),
    Case(16, AGGREGATION, "several allows: allow",
         given(OPEN, rule("too", ALLOW)), so(ALLOW, "yaml", "open", "too", reasons=because("open", "too"))),
    Case(17, AGGREGATION, "YAML allow and extension allow: allow",
         given(OPEN, extension=[vote("yes", ALLOW)]),
         so(ALLOW, "yaml", "extension/yes", "open", extension_calls=1)),
    Case(18, DEFENSIVE, "built-in list empty: still works",
         given(OPEN, builtins=()), so(ALLOW, "yaml", "open")),
    Case(19, DEFENSIVE, "empty YAML: default deny, built-ins active",
         given(builtins=(GUARDED,), request=WRITE), so(DENY, "builtin", "guarded")),
    Case(20, DEFENSIVE, "extension crashes: deny, restart attempted",
         given(OPEN, extension="crash"),
         so(DENY, "extension", "extension", extension_calls=1, restarts=1)),
    Case(21, TOKEN, "uses exhausted: invalid, full evaluation",
         given(ASKED, bearer="exhausted"), so(REVIEW, "yaml", "asked", standing="exhausted")),
    Case(22, TOKEN, "expiry boundary: one time snapshot throughout, and expires_at == now is expired",
         given(OPEN, bearer="expires_now", extension=[vote("yes", ALLOW)]),
         so(ALLOW, "yaml", "extension/yes", "open", standing="expired", one_snapshot=True, extension_calls=1)),
    Case(23, TOKEN, "container mismatch: invalid, full evaluation",
         given(CLOSED, bearer="other_container"), so(DENY, "yaml", "closed", standing="other_container")),
    Case(24, DEFENSIVE, "unknown syscall: deny",
         given(rule("all", ALLOW, syscall="*"), request={"syscall": "fs.format"}), so(DENY, "request")),
    Case(25, DEFENSIVE, "path_glob: [] matches nothing; warning at load",
         given(rule("nowhere", ALLOW, path_glob=[])), so(DENY, "default"), warning="matches nothing"),
    Case(26, EXCEPT, "match equals an except: the rule can never fire; warning at load",
         given(rule("never", DENY, {"syscall": ["fs.read", "fs.write"]}), OPEN),
         so(ALLOW, "yaml", "open"), warning="can never fire"),
)  # fmt: skip
"""Case 19's YAML is the empty list; the empty file has a test of its own beside this table."""
