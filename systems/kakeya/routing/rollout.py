"""A control's way out: 10, 50, 100 percent while its guards allow, and back to nothing when one says so.

Rollout --record(pair)--> guards --step--> Rollout     (a value; `rollout_store.py` keeps it on file)
"""

from dataclasses import dataclass, field, replace
from typing import final

from holdfast.systems.kakeya.routing.canary import STEPS
from holdfast.systems.kakeya.routing.guard import Guard, GuardPolicy, Verdict, observe, verdict

__all__ = ["CONTAINMENT", "LATENCY", "Arm", "Rollout", "record", "roll_back"]

CONTAINMENT = GuardPolicy(margin=0.005)
"""Half a point: the promise of the routing control."""
LATENCY = GuardPolicy(margin=0.02)
"""x = 1 above the control's p95. Two points over the 5 % that lie there anyway is a p95 that has moved."""


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """What one request showed: how long it took, and whether it let something through."""

    latency_ms: float
    missed: bool


@final
@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a control stands. `percent` is 0 after a rollback, and stays so until someone starts anew."""

    percent: float
    p95_ms: float
    """The control arm's p95 before the canary began; latencies are judged against it."""
    containment: Guard = field(default_factory=Guard)
    latency: Guard = field(default_factory=Guard)
    reason: str = ""
    """Why the last step was taken; empty before the first."""


def record(rollout: Rollout, canary: Arm, control: Arm) -> Rollout:
    """One pair, and the step that it leads to, if any. A control that is rolled back records nothing more."""
    if rollout.percent == 0:
        return rollout
    paired = replace(
        rollout,
        containment=observe(rollout.containment, canary_bad=canary.missed, control_bad=control.missed),
        latency=observe(
            rollout.latency,
            canary_bad=canary.latency_ms > rollout.p95_ms,
            control_bad=control.latency_ms > rollout.p95_ms,
        ),
    )
    return _step(paired)


def roll_back(rollout: Rollout, reason: str) -> Rollout:
    """To nothing, at once; what was counted so far is kept for whoever reads the reason."""
    return replace(rollout, percent=0, reason=reason)


def _step(rollout: Rollout) -> Rollout:
    verdicts = {
        "containment": verdict(rollout.containment, CONTAINMENT),
        "p95": verdict(rollout.latency, LATENCY),
    }
    for name, said in verdicts.items():
        if said is Verdict.ROLL_BACK:
            return roll_back(rollout, f"{name}_regression")
    if all(said is Verdict.PROMOTE for said in verdicts.values()) and rollout.percent < STEPS[-1]:
        following = next(step for step in STEPS if step > rollout.percent)
        return Rollout(following, rollout.p95_ms, reason=f"promoted_from_{rollout.percent}")
    return rollout
