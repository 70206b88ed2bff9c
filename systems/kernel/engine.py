"""The decision: a pure function of request, policy, time snapshot, token check and extensions' votes.

    default deny; deny is terminal; require_review beats allow; allow needs an allow and no deny

A valid token skips YAML and extension rules, never the built-ins. An extension is asked only when nothing
denied before. Votes are collected whole before anything is concluded, so that every reason is given; and
the conclusion is drawn from the set of votes, so that neither order nor duplicates can matter.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from holdfast.systems.kernel.decision import Decision, Outcome, Phase
from holdfast.systems.kernel.policy import Policy
from holdfast.systems.kernel.request import Request
from holdfast.systems.kernel.rules import Action, Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck

__all__ = ["Ask", "decide", "strictest"]

Ask = Callable[[Request, int], Sequence[Vote]]
"""An extension: asked at most once a decision, with the decision's own time snapshot."""


DECISIVE: Final = (
    (Action.DENY, Outcome.DENY),
    (Action.REVIEW, Outcome.REVIEW),
    (Action.ALLOW, Outcome.ALLOW),
)
"""First action present wins."""
STRICTNESS: Final = {Outcome.DENY: 0, Outcome.REVIEW: 1, Outcome.ALLOW: 2}


def decide(
    request: Request,
    policy: Policy,
    now: int,
    token: TokenCheck | None = None,
    *,
    extensions: Sequence[Ask] = (),
) -> Decision:
    """Decide one request. Pure when `extensions` are; raises only for a token check of another request."""
    standing = None
    if token is not None:
        token.refuse_misuse(request, now)
        standing = token.standing
    shelf = policy.builtin.get(request.syscall)
    if shelf is None:
        reason = f"`{request.syscall}` is not a known syscall"
        return Decision(Outcome.DENY, Phase.REQUEST, (), (reason,), policy.digest, now, standing)
    votes = shelf.votes(request)
    if standing is Standing.VALID:
        return _by_token(votes, policy, now)
    votes += policy.yaml[request.syscall].votes(request)
    for ask in extensions:
        if any(vote.action is Action.DENY for vote in votes):
            break
        votes += ask(request, now)
    return _conclude(votes, policy, now, standing)


def _by_token(votes: list[Vote], policy: Policy, now: int) -> Decision:
    """A token lifts the need for an explicit allow, and nothing that a built-in says."""
    objections = [vote for vote in votes if vote.action is Action.DENY or vote.action is Action.REVIEW]
    if objections:
        return _conclude(objections, policy, now, Standing.VALID)
    reason = "a valid capability token covers this call and no built-in rule objects"
    return Decision(Outcome.ALLOW, Phase.TOKEN, (), (reason,), policy.digest, now, Standing.VALID)


def _conclude(votes: list[Vote], policy: Policy, now: int, standing: Standing | None) -> Decision:
    for action, outcome in DECISIVE:
        deciding = [vote for vote in votes if vote.action is action]
        if deciding:
            phase, rules, reasons, limits = _gather(deciding)
            return Decision(outcome, phase, rules, reasons, policy.digest, now, standing, limits)
    reason = "no rule allows this call"
    return Decision(Outcome.DENY, Phase.DEFAULT, (), (reason,), policy.digest, now, standing)


Gathered = tuple[Phase, tuple[str, ...], tuple[str, ...], tuple[tuple[str, int], ...]]


def _gather(votes: list[Vote]) -> Gathered:
    """The phase is the earliest among the votes; rules and reasons are sorted sets."""
    if len(votes) == 1:
        (only,) = votes
        return only.phase, (only.rule,), (only.reason,), only.limits
    pairs = sorted({(vote.rule, vote.reason) for vote in votes})
    phase = next(phase for phase in Phase if any(vote.phase is phase for vote in votes))
    limits: dict[str, int] = {}
    for vote in votes:
        for name, limit in vote.limits:
            limits[name] = min(limit, limits.get(name, limit))
    rules = tuple(sorted({rule for rule, _ in pairs}))
    return phase, rules, tuple(reason for _, reason in pairs), tuple(sorted(limits.items()))


def strictest(decisions: Iterable[Decision]) -> Decision:
    """One decision for a call that names several paths (rename, link): the strictest one, whole.

    Raises `ValueError` for none at all: a call on no path is not an allowed one.
    """
    return min(decisions, key=lambda decision: STRICTNESS[decision.outcome])
