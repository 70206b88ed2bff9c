"""Rules as values, and the compiled form in which they are asked.

    Match (four fields, ANDed; values inside one field ORed)   Rule (match, action, excepts)   Vote (its say)

A rule whose match and any of whose excepts hold abstains: it votes `PASS`, which weighs nothing.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from holdfast.systems.kernel.decision import Phase
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.request import Request

__all__ = ["ANY", "Action", "Match", "Rule", "Source", "Vote"]

ANY: Final = "*"


@final
class Action(Enum):
    """What a rule can say."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"  # noqa: S105 - a vote, not a secret
    REVIEW = "require_review"


@final
class Source(Enum):
    """Where a rule comes from; the value is the phase that a decision names."""

    BUILTIN = Phase.BUILTIN
    YAML = Phase.YAML
    EXTENSION = Phase.EXTENSION


@final
@dataclass(frozen=True, slots=True)
class Match:
    """None in a field: any value. An empty set or list: no value."""

    syscalls: frozenset[str] | None = None
    """None stands for `*` too."""
    caller_tags: frozenset[str] | None = None
    paths: PathSet | None = None
    states: frozenset[str] | None = None

    def holds(self, request: Request) -> bool:
        """Whether every field that is given holds."""
        if self.syscalls is not None and request.syscall not in self.syscalls:
            return False
        if self.caller_tags is not None and request.caller_tag not in self.caller_tags:
            return False
        if self.states is not None and request.state not in self.states:
            return False
        if self.paths is None:
            return True
        path = request.path
        return path is not None and self.paths.holds(path.absolute, path.relative)


@final
@dataclass(frozen=True, slots=True)
class Vote:
    """What one rule says about one request."""

    rule: str
    action: Action
    reason: str
    phase: Phase
    limits: tuple[tuple[str, int], ...] = ()
    """Constraints that an allow comes with, in bytes and milliseconds."""


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, whatever its source."""

    name: str
    match: Match
    action: Action
    excepts: tuple[Match, ...] = ()
    reason: str = ""
    limits: tuple[tuple[str, int], ...] = ()
    """Constraints by name, sorted, in bytes and milliseconds."""
    source: Source = Source.YAML
    line: int = 0
    """Where it stands in its file, from 1; 0 when it comes from none."""

    def vote(self, request: Request) -> Action | None:
        """None when the rule does not apply at all."""
        if not self.match.holds(request):
            return None
        for item in self.excepts:
            if item.holds(request):
                return Action.PASS
        return self.action

    def ballot(self) -> Vote:
        """The vote that this rule casts when nothing excepts it; made once, at load."""
        reason = self.reason or f"rule `{self.name}` says {self.action.value}"
        limits = self.limits if self.action is Action.ALLOW else ()
        return Vote(self.name, self.action, reason, self.source.value, limits)
