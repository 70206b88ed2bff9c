"""`metrics_summary.json`: what people read, and the checkpoint that saves reading the log again.

The checkpoint names its place in the log and a digest of the bytes before it. When those bytes are not
there (a log that was cut, replaced, restored from a copy) it is not believed, and the log is folded from
its beginning: the file is derived, and may be deleted at any time.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from holdfast.systems.agentos.errors import StoreError
from holdfast.systems.agentos.files import read_bounded, write_json
from holdfast.systems.agentos.journal import iter_lines
from holdfast.systems.agentos.metrics.health import ModelHealth, model_health, render_health
from holdfast.systems.agentos.metrics.rollup import Rollup
from holdfast.systems.agentos.schemas import SchemaViolationError, require_valid
from holdfast.systems.agentos.strict_json import parse_line

__all__ = ["Folded", "fold_log", "load_health", "read_checkpoint", "render_summary", "write_summary"]

SCHEMA = "ccc.metrics-summary/1"
TAIL = 4096
SUMMARY_LIMIT = 16 << 20


@final
@dataclass(slots=True)
class Folded:
    """A rollup and how far into the log it has come."""

    rollup: Rollup = field(default_factory=Rollup)
    bytes_read: int = 0
    resumed: bool = False
    """Whether a checkpoint was believed."""


def fold_log(log: Path, summary: Path | None) -> Folded:
    """Fold what the log holds beyond the checkpoint in `summary`; everything when that is None."""
    folded = (read_checkpoint(log, summary) if summary else None) or Folded()
    for line in iter_lines(log, folded.bytes_read):
        folded.rollup.add_line(line.content, line.start)
        folded.bytes_read = line.end
    return folded


def read_checkpoint(log: Path, summary: Path) -> Folded | None:
    """The checkpoint in `summary` if it is about this log; None asks for a full fold."""
    try:
        stored = json.loads(read_bounded(summary, what="the summary", limit=SUMMARY_LIMIT))
        place = stored["checkpoint"]
        size = int(place["bytes"])
        if stored["schema"] != SCHEMA or place["tail_sha256"] != tail_digest(log, size):
            return None
        return Folded(Rollup.from_json(place["state"]), size, resumed=True)
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        return None


def tail_digest(log: Path, size: int) -> str | None:
    """The digest of the last bytes before `size`; None where the log is shorter."""
    if size == 0:
        return hashlib.sha256().hexdigest()
    try:
        with log.open("rb") as file:
            file.seek(max(0, size - TAIL))
            tail = file.read(min(size, TAIL))
    except OSError:
        return None
    return hashlib.sha256(tail).hexdigest() if len(tail) == min(size, TAIL) else None


def render_summary(rollup: Rollup, health: dict[str, ModelHealth]) -> dict[str, Any]:
    """What the log and the snapshots add up to, for people and dashboards."""
    churn = rollup.churn_sum / rollup.churn_samples if rollup.churn_samples else 0.0
    decided = max(rollup.turns, 1)
    return {
        "schema": SCHEMA,
        "sessions": {"started": rollup.sessions, "ended": rollup.sessions_ended},
        "turns": rollup.turns,
        "tokens": {"in": rollup.tokens_in, "out": rollup.tokens_out},
        "features_shipped": rollup.features_shipped,
        "features": dict(rollup.features_status),
        "errors": rollup.errors,
        "churn": {"mean": churn, "samples": rollup.churn_samples, "trend": list(rollup.churn_trend)},
        "cost": {"estimated_usd": rollup.cost_usd},
        "reroutes": {"turns": rollup.reroutes, "ratio": rollup.reroutes / decided},
        "glm": {"turns": rollup.glm_turns},
        "value": {model: totals.value for model, totals in sorted(rollup.models.items())},
        "models": {model: totals.to_json() for model, totals in sorted(rollup.models.items())},
        "licences": dict(rollup.licences),
        "unreadable_lines": rollup.unreadable_lines,
        "model_health": render_health(health),
    }


def write_summary(path: Path, log: Path, folded: Folded, health: dict[str, ModelHealth]) -> None:
    """Replace the summary, checkpoint included."""
    size = folded.bytes_read
    place = {"bytes": size, "tail_sha256": tail_digest(log, size), "state": folded.rollup.to_json()}
    write_json(path, {**render_summary(folded.rollup, health), "checkpoint": place})


def load_health(snapshots: Path) -> dict[str, ModelHealth]:
    """Model health from the stored snapshots; a line that is none is passed over."""
    read = (parse_line(line.content) for line in iter_lines(snapshots))
    return model_health(snapshot for snapshot in read if snapshot is not None and _is_snapshot(snapshot))


def _is_snapshot(value: dict[str, Any]) -> bool:
    try:
        require_valid("usage", value)
    except SchemaViolationError:
        return False
    return True
