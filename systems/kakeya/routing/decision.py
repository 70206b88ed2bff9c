"""Which way a request takes: the fast path skips the ensemble, and only sane, low, narrow numbers get it.

    (policy, estimate) -> Decision(path, reason)

Comparisons are strict, so that equality goes the standard way; and no comparison is made before the numbers
are known to be numbers, since every comparison with NaN is false and half of them then open the fast path.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import final

__all__ = ["Decision", "Estimate", "Path", "Reason", "RiskPolicy", "decide", "estimate_from"]


@final
class Path(Enum):
    """The two ways."""

    FAST = "fast"
    STANDARD = "standard"


@final
class Reason(Enum):
    """Why; exactly one of them leads to the fast path."""

    RISK_ROUTING_DISABLED = "risk_routing_disabled"
    INVALID_INTERVAL = "invalid_interval"
    HIGH_RISK = "high_risk"
    WIDE_CONFIDENCE_INTERVAL = "wide_confidence_interval"
    LOW_RISK_NARROW_CI = "low_risk_narrow_ci"


@final
@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """The keys `riskRouting.*` in snake case, with their defaults; off until someone turns it on."""

    enabled: bool = False
    skip_ensemble_below: float = 0.10
    require_narrow_ci: bool = True
    max_ci_width: float = 0.05


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """A risk and its confidence interval, as they came: not known to be sane."""

    risk: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """The way taken, and why."""

    path: Path
    reason: Reason


def decide(policy: RiskPolicy, estimate: Estimate | None) -> Decision:
    """Pure and total; no estimate at all counts as an invalid one."""
    if not policy.enabled:
        return Decision(Path.STANDARD, Reason.RISK_ROUTING_DISABLED)
    if estimate is None or not is_sane(estimate):
        return Decision(Path.STANDARD, Reason.INVALID_INTERVAL)
    if not estimate.risk < policy.skip_ensemble_below:
        return Decision(Path.STANDARD, Reason.HIGH_RISK)
    if policy.require_narrow_ci and not estimate.high - estimate.low < policy.max_ci_width:
        return Decision(Path.STANDARD, Reason.WIDE_CONFIDENCE_INTERVAL)
    return Decision(Path.FAST, Reason.LOW_RISK_NARROW_CI)


def is_sane(estimate: Estimate) -> bool:
    """Finite, and 0 <= low <= risk <= high <= 1."""
    numbers = (estimate.risk, estimate.low, estimate.high)
    return all(map(math.isfinite, numbers)) and 0 <= estimate.low <= estimate.risk <= estimate.high <= 1


def estimate_from(value: object) -> Estimate | None:
    """An estimate out of parsed JSON: `{"risk", "low", "high"}`, all numbers; None for anything else.

    Text, booleans and integers beyond any float are not numbers here; the standard way is open to all.
    """
    if not isinstance(value, dict) or value.keys() != {"risk", "low", "high"}:
        return None
    numbers = [value[name] for name in ("risk", "low", "high")]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return None
    try:
        return Estimate(*map(float, numbers))
    except OverflowError:
        return None
