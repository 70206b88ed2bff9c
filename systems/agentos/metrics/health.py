"""Model health, from the usage snapshots that the CCC gives."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

__all__ = ["ModelHealth", "model_health", "render_health"]


@final
@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One model, as the newest snapshot that names it saw it."""

    warn_pct: float
    """Turns with a warning, in per cent of the samples; 0 without a sample."""
    gaps: int
    """Events that the CCC missed in the sessions' sequences."""
    samples: int


def model_health(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, ModelHealth]:
    """The health of each model. Snapshots are cumulative, so the newest one to name a model counts, in
    whatever order they come."""
    newest: dict[str, Mapping[str, Any]] = {}
    for snapshot in sorted(snapshots, key=lambda s: str(s["taken_at"])):
        newest.update(snapshot["models"])
    return {model: _health(seen) for model, seen in sorted(newest.items())}


def render_health(health: Mapping[str, ModelHealth]) -> dict[str, Any]:
    """`model_health` as the summary's JSON carries it."""
    return {model: asdict(seen) for model, seen in health.items()}


def _health(seen: Mapping[str, Any]) -> ModelHealth:
    samples = int(seen["samples"])
    warn_pct = 100.0 * int(seen["warnings"]) / samples if samples else 0.0
    return ModelHealth(warn_pct=round(warn_pct, 6), gaps=int(seen["gaps"]), samples=samples)
