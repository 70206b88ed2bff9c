"""Other logs' events into this one, each once.

They come in as local sessions, whatever tier they say: a file is no licence, and what was recorded
elsewhere is not this folder's to upload.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.recorder import Logged, Recorder, iter_events
from holdfast.systems.agentos.journal import Journal, iter_lines
from holdfast.systems.agentos.schemas import require_valid
from holdfast.systems.agentos.strict_json import dump_line, parse_line, parse_object

__all__ = ["Ingested", "add_snapshot", "ingest_events"]

SNAPSHOT_LIMIT = 1 << 20


@final
@dataclass(slots=True)
class Ingested:
    """What became of the lines."""

    recorded: int = 0
    already: int = 0
    refused: list[str] = field(default_factory=list)
    """The first few reasons, with their places."""
    refused_count: int = 0

    def refuse(self, why: str) -> None:
        """Count a line that was not taken."""
        self.refused_count += 1
        if len(self.refused) < 5:
            self.refused.append(why)

    def render(self) -> str:
        """For people."""
        told = "".join(f"\n  {why}" for why in self.refused)
        return f"{self.recorded} recorded, {self.already} already there, {self.refused_count} refused{told}"


def ingest_events(recorder: Recorder, log: Path, files: Sequence[Path]) -> Ingested:
    """Take in every event of `files` that `log` does not have."""
    seen = {_identity(event) for event in iter_events(log)}
    counts = Ingested()
    for path in files:
        if not path.is_file():
            raise BadInputError(f"there is no file `{path}` to ingest")
        for number, line in enumerate(iter_lines(path), 1):
            event = parse_line(line.content)
            if event is None:
                counts.refuse(f"{path}:{number}: not a JSON object")
            elif (identity := _identity(event)) in seen:
                counts.already += 1
            else:
                _take(recorder, event, counts, f"{path}:{number}")
                seen.add(identity)
    return counts


def add_snapshot(data: Path, raw: bytes) -> None:
    """Keep a usage snapshot, and bring the summary's model health up to date."""
    snapshot = parse_object(raw, what="the snapshot", limit=SNAPSHOT_LIMIT)
    require_valid("usage", snapshot)
    with Recorder(data) as recorder:
        journal = Journal(DataFolder(data).snapshots)
        try:
            journal.append(dump_line(snapshot))
        finally:
            journal.close()
        recorder.refresh_health()


def _take(recorder: Recorder, event: dict[str, Any], counts: Ingested, place: str) -> None:
    try:
        match event.get("type"):
            case "session":
                recorder.start({**event, "privacy_tier": "local_only", "license_id": None})
            case "session_end":
                recorder.end(event)
            case _:
                if recorder.log(event) is Logged.ALREADY:
                    counts.already += 1
                    return
        counts.recorded += 1
    except BadInputError as problem:
        counts.refuse(f"{place}: {problem}")


def _identity(event: dict[str, Any]) -> tuple[object, ...]:
    return tuple(str(event.get(name)) for name in ("type", "session_id", "turn_id"))
