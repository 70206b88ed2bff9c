"""Whose work a turn's value is: shares by model, and the sums that they must keep.

A turn's value is its `measurement.feature_delta` (0 without one). Its `attribution` splits that value by
model; without one it is all the turn's own model's. Shares add up to one only within 1e-9, so they are
divided by their sum: then the contributions add up to the value, whatever the rounding in the log.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Event", "model_value", "session_value", "turn_shares", "turn_value"]

Event = Mapping[str, Any]


def turn_value(turn: Event) -> float:
    """What the turn brought; negative when something was taken back."""
    measurement = turn.get("measurement")
    return float(measurement.get("feature_delta", 0)) if measurement else 0.0


def turn_shares(turn: Event) -> dict[str, float]:
    """The turn's value by model; the contributions add up to `turn_value`."""
    value = turn_value(turn)
    shares = turn.get("attribution")
    if not shares:
        return {turn["model"]: value}
    total = math.fsum(shares.values())
    return {model: value * (share / total) for model, share in shares.items()}


def session_value(turns: Iterable[Event]) -> float:
    """The value of all the turns, added without rounding on the way."""
    return math.fsum(turn_value(turn) for turn in turns)


def model_value(turns: Iterable[Event]) -> dict[str, float]:
    """The value by model over all the turns; its sum is `session_value` within 1e-9 of the sizes added."""
    parts: dict[str, list[float]] = {}
    for turn in turns:
        for model, contribution in turn_shares(turn).items():
            parts.setdefault(model, []).append(contribution)
    return {model: math.fsum(contributions) for model, contributions in sorted(parts.items())}
