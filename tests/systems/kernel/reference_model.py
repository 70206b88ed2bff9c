"""The policy semantics in thirty obvious lines, written from the specification and from nothing else.

No index, no sharing, no early exit: the engine must agree with this on everything.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelRule:
    source: str  # builtin, yaml, extension
    action: str  # allow, deny, pass, require_review
    applies: bool  # its match holds for the request
    excepted: bool  # one of its excepts holds for the request


def model(known: bool, token: str | None, rules: tuple[ModelRule, ...]) -> str:
    """The outcome; `token` is None, `valid` or any other word for how it stands."""
    if not known:
        return "deny"

    def says(source: str) -> list[str]:
        return [
            "pass" if rule.excepted else rule.action
            for rule in rules
            if rule.source == source and rule.applies
        ]

    def verdict(said: list[str], otherwise: str) -> str:
        for action in ("deny", "require_review", "allow"):
            if action in said:
                return action
        return otherwise

    if token == "valid":
        objections = [said for said in says("builtin") if said in ("deny", "require_review")]
        return verdict(objections, "allow")
    before = says("builtin") + says("yaml")
    if "deny" in before:
        return "deny"
    return verdict(before + says("extension"), "deny")
