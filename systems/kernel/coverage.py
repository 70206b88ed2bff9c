"""Whether the policy allows *everything* that a token would cover, at the moment it is issued.

This keeps the law that the token path never allows what the full path would have refused at issue time.
A literal path is simply decided. For a pattern no finite number of decisions would do, so the answer is
conservative: some allow rule must contain the whole pattern, and no rule that could deny, ask for review or
turn an allow into an abstention may touch any path of it. What cannot be shown is refused, with the reason.
"""

from collections.abc import Sequence
from typing import Final

from holdfast.systems.kernel.decision import Outcome
from holdfast.systems.kernel.engine import Ask, decide
from holdfast.systems.kernel.glob import Glob, PathSet
from holdfast.systems.kernel.policy import Policy
from holdfast.systems.kernel.request import SYSCALLS, Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule

__all__ = ["Coverage"]

ISSUER: Final = "token.issue"


class Coverage:
    """What a policy allows whole, as seen from one workspace, syscall, caller tag and state."""

    def __init__(
        self, policy: Policy, workspace: str, syscall: str, caller_tag: str | None, state: str | None
    ) -> None:
        self._policy = policy
        self._workspace = workspace
        self._syscall = syscall
        self._tag = caller_tag
        self._state = state

    def refusal(self, paths: PathSet | None, now: int, extensions: Sequence[Ask]) -> str | None:
        """Why not all of `paths` may be granted; None when all of it is allowed now."""
        count = SYSCALLS.get(self._syscall)
        if count is None:
            return f"`{self._syscall}` is not a known syscall"
        if (count > 0) is (paths is None):
            return f"a token for `{self._syscall}` {'needs globs' if count else 'takes no globs'}"
        if paths is None:
            return self._decided(None, now, extensions)
        for glob in paths.plain:
            if glob.literal:
                path = ResolvedPath.judged(self._place(glob), self._workspace)
                why = self._decided(path, now, extensions)
            elif extensions:
                why = f"`{glob.text}` is a pattern, and an extension cannot be asked about every path of it"
            else:
                why = self._uncovered(glob)
            if why is not None:
                return why
        return None

    def _decided(self, path: ResolvedPath | None, now: int, extensions: Sequence[Ask]) -> str | None:
        request = Request(self._syscall, ISSUER, path, self._tag, self._state)
        decision = decide(request, self._policy, now, extensions=extensions)
        if decision.outcome is Outcome.ALLOW:
            return None
        return f"the policy says {decision.outcome.value}: {'; '.join(decision.reasons)}"

    def _uncovered(self, glob: Glob) -> str | None:
        for rule in self._policy.rules:
            strict = rule.action in {Action.DENY, Action.REVIEW}
            if strict and self._may_touch(rule.match, glob):
                return f"rule `{rule.name}` may {rule.action.value} a path of `{glob.text}`"
        if any(self._contains(rule, glob) for rule in self._policy.rules if rule.action is Action.ALLOW):
            return None
        return f"no single allow rule contains every path of `{glob.text}`"

    def _contains(self, rule: Rule, glob: Glob) -> bool:
        """Whether `rule` surely allows every path of `glob`."""
        if not self._may_touch(rule.match, glob) or any(self._may_touch(m, glob) for m in rule.excepts):
            return False
        paths = rule.match.paths
        if paths is None:
            return True
        if any(self._overlap(hole, glob) for hole in paths.excluded):
            return False
        return any(self._within(glob, outer) for outer in paths.plain)

    def _may_touch(self, match: Match, glob: Glob) -> bool:
        """Whether `match` may hold for a path of `glob`; True when in doubt."""
        fields = (
            (match.syscalls, self._syscall),
            (match.caller_tags, self._tag),
            (match.states, self._state),
        )
        if any(wanted is not None and given not in wanted for wanted, given in fields):
            return False
        return match.paths is None or any(self._overlap(other, glob) for other in match.paths.plain)

    def _overlap(self, one: Glob, other: Glob) -> bool:
        """Globs whose fixed directories lie apart share no path; all others may."""
        a, b = self._place(one), self._place(other)
        return _below(a, b) or _below(b, a)

    def _within(self, inner: Glob, outer: Glob) -> bool:
        if inner.text == outer.text:
            return True
        return outer.subtree and _below(self._place(inner), self._place(outer))

    def _place(self, glob: Glob) -> str:
        """The fixed directory of a glob, absolute."""
        if glob.absolute:
            return glob.prefix
        return f"{self._workspace.rstrip('/')}/{glob.prefix}".rstrip("/") or "/"


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")
