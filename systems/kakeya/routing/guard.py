"""The A/B guard: a sequential test that may be looked at after every pair without losing its error rate.

Each pair sets one canary request against one control request and scores D = x_canary - x_control in
{-1, 0, 1}, where x = 1 for something bad (a miss; a latency above the control's p95). For a margin m:

    harm      H0: E[D] <= m      a large E_harm = prod(1 + lambda (D - m)) speaks against it: roll back
    safety    H0: E[D] >= m      a large E_safe = prod(1 + lambda (m - D)) speaks against it: promote

Under its H0 each is a non-negative supermartingale that starts at 1, so the chance that it *ever* exceeds
1/alpha is at most alpha (Ville, 1939; Waudby-Smith and Ramdas, 2023). A mixture over several bets lambda is
one too, and needs no guess of the size of the effect. A fixed-size test peeked at daily has no such bound.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import final

__all__ = ["Guard", "GuardPolicy", "Verdict", "observe", "verdict"]

BETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


@final
class Verdict(Enum):
    """What the evidence so far supports."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@final
@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """Error rates and the margin, of one guarded quantity."""

    margin: float
    """How much worse the canary may be, as a difference of rates: 0.005 is half a point of containment."""
    alpha: float = 0.025
    """The chance, over the whole run, to roll back a canary that is within the margin."""
    beta: float = 0.05
    """The chance, over the whole run, to promote a canary that is at the margin or beyond."""


@final
@dataclass(frozen=True, slots=True)
class Guard:
    """Pairs seen, by their score; everything else follows from these counts."""

    worse: int = 0
    same: int = 0
    better: int = 0


def observe(guard: Guard, *, canary_bad: bool, control_bad: bool) -> Guard:
    """One more pair."""
    if canary_bad == control_bad:
        return replace(guard, same=guard.same + 1)
    if canary_bad:
        return replace(guard, worse=guard.worse + 1)
    return replace(guard, better=guard.better + 1)


def verdict(guard: Guard, policy: GuardPolicy) -> Verdict:
    """Harm is looked at first: evidence for both is no reason to promote."""
    if log_evidence(guard, policy.margin, sign=1) >= -math.log(policy.alpha):
        return Verdict.ROLL_BACK
    if log_evidence(guard, policy.margin, sign=-1) >= -math.log(policy.beta):
        return Verdict.PROMOTE
    return Verdict.CONTINUE


def log_evidence(guard: Guard, margin: float, *, sign: int) -> float:
    """The logarithm of the mixture's value; `sign` 1 for harm, -1 for safety.

    lambda stays below 1 / (1 + m), so no factor reaches zero.
    """
    scores = ((guard.worse, 1 - margin), (guard.same, -margin), (guard.better, -1 - margin))
    logs = [sum(n * math.log1p(bet * sign * d) for n, d in scores) for bet in BETS]
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))
