"""The adapter's health: read from the folder alone, rendered for people, scripts and Prometheus.

read_status(...) -> Status -> render_text | to_json | render_prometheus;   problems(...) -> what is wrong
"""

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.metrics.rollup import Rollup
from holdfast.systems.agentos.metrics.summary import fold_log
from holdfast.systems.agentos.privacy.tier import TierName
from holdfast.systems.agentos.upload.depth import Depth, read_depth

__all__ = ["Licence", "Status", "problems", "read_status", "render_prometheus", "render_text"]


@final
@dataclass(frozen=True, slots=True)
class Licence:
    """What a check of the licence says now."""

    license_id: str | None
    expires: str | None
    refused: str | None
    """Why it is no good; None when it is."""


@final
@dataclass(frozen=True, slots=True)
class Status:
    """One look at one data folder."""

    tier: TierName
    data: Path
    queue: Depth
    turns: int
    sessions: int
    open_sessions: int
    unreadable_lines: int
    licence: Licence | None
    """None under the tier that needs none."""

    def to_json(self) -> dict[str, Any]:
        """For scripts; fields are added, never renamed."""
        return {
            "schema": "ccc.status/1",
            "tier": self.tier.value,
            "data": str(self.data),
            "queue": asdict(self.queue),
            "log": {
                "turns": self.turns,
                "sessions": self.sessions,
                "open_sessions": self.open_sessions,
                "unreadable_lines": self.unreadable_lines,
            },
            "licence": asdict(self.licence) if self.licence else None,
        }


def read_status(data: Path, tier: TierName, *, now: datetime, licence: Licence | None) -> Status:
    """Look at `data`; makes nothing and changes nothing."""
    folder = DataFolder(data)
    rollup: Rollup = fold_log(folder.windows, folder.summary).rollup
    return Status(
        tier=tier,
        data=data,
        queue=read_depth(folder.outbox, now=now),
        turns=rollup.turns,
        sessions=rollup.sessions,
        open_sessions=len(rollup.open_sessions),
        unreadable_lines=rollup.unreadable_lines,
        licence=licence,
    )


def problems(status: Status, *, max_age: float) -> tuple[str, ...]:
    """What an operator should look at; empty means healthy."""
    found = []
    if status.queue.pending and status.queue.oldest_age > max_age:
        found.append(f"the oldest row has waited {status.queue.oldest_age:.0f} s (limit {max_age:g} s)")
    if status.queue.unaccounted:
        found.append(f"{status.queue.unaccounted} rows of the queue vanished")
    if status.queue.set_aside:
        found.append(f"{status.queue.set_aside} rows were rejected by the CCC and set aside")
    if status.queue.last_error:
        found.append(f"the last upload stopped: {status.queue.last_error}")
    if status.unreadable_lines:
        found.append(f"{status.unreadable_lines} lines of the log cannot be read")
    if status.licence and status.licence.refused:
        found.append(status.licence.refused)
    return tuple(found)


def render_text(status: Status, found: tuple[str, ...]) -> str:
    """For people."""
    queue = status.queue
    licence = "none needed"
    if status.licence:
        licence = status.licence.refused or f"{status.licence.license_id}, until {status.licence.expires}"
    lines = [
        f"tier      {status.tier.value}",
        f"data      {status.data}",
        f"licence   {licence}",
        f"log       {status.turns} turns in {status.sessions} sessions, {status.open_sessions} of them open",
        f"queue     {queue.pending} pending, oldest {queue.oldest_age:.0f} s",
        f"sent      {queue.sent}, of them {queue.duplicates} replays, {queue.set_aside} set aside",
        f"error     {queue.last_error or 'none'}",
        f"health    {'; '.join(found) or 'good'}",
    ]
    return "\n".join(lines)


def render_prometheus(status: Status) -> str:
    """The text format, for a node exporter's textfile collector."""
    queue = status.queue
    figures: list[tuple[str, str, str, float]] = [
        ("queue_pending", "gauge", "Rows waiting to be uploaded.", queue.pending),
        ("queue_oldest_age_seconds", "gauge", "How long the oldest row has waited.", queue.oldest_age),
        ("queue_unaccounted", "gauge", "Rows that vanished; anything but 0 is a fault.", queue.unaccounted),
        ("rows_enqueued_total", "counter", "Rows made from the log.", queue.enqueued),
        ("rows_sent_total", "counter", "Rows that the CCC has.", queue.sent),
        ("rows_duplicate_total", "counter", "Replays that the CCC counted once.", queue.duplicates),
        ("rows_set_aside_total", "counter", "Rows that the CCC rejected.", queue.set_aside),
        (
            "last_upload_failed",
            "gauge",
            "1 while the last upload stopped short.",
            float(queue.last_error is not None),
        ),
        ("turns_total", "counter", "Turns in the log.", status.turns),
        ("log_unreadable_lines", "gauge", "Lines of the log that cannot be read.", status.unreadable_lines),
    ]
    if status.licence:
        expires = status.licence.expires
        seconds = datetime.fromisoformat(expires).timestamp() if expires else 0.0
        figures.append(("licence_expires_timestamp_seconds", "gauge", "When the licence ends.", seconds))
        figures.append(
            (
                "licence_valid",
                "gauge",
                "1 while the licence grants the tier.",
                float(status.licence.refused is None),
            )
        )
    text = "".join(
        f"# HELP agentos_{name} {told}\n# TYPE agentos_{name} {kind}\nagentos_{name} {value:.17g}\n"
        for name, kind, told, value in figures
    )
    tier = re.sub(r"[^a-z_]", "", status.tier.value)
    info = '# HELP agentos_tier The tier that is set.\n# TYPE agentos_tier gauge\nagentos_tier{tier="%s"} 1\n'
    return text + info % tier
