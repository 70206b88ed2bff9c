"""What may leave the machine, as types: see `tier`."""

from holdfast.systems.agentos.privacy.tier import (
    SAFE_FIELDS,
    Full,
    LocalOnly,
    Minimized,
    Tier,
    TierName,
    reduce_event,
    reduce_metrics,
)

__all__ = [
    "SAFE_FIELDS",
    "Full",
    "LocalOnly",
    "Minimized",
    "Tier",
    "TierName",
    "reduce_event",
    "reduce_metrics",
]
