"""The client under LocalOnly, which is also the part of every client that touches no network."""

import uuid
from dataclasses import dataclass
from typing import Any, final

from holdfast.clock import utc_now
from holdfast.systems.agentos.integrations.recorder import Logged, Recorder
from holdfast.systems.agentos.privacy.tier import LocalOnly

__all__ = ["LocalClient", "Session", "session_event", "turn_event"]


@final
@dataclass(frozen=True, slots=True)
class Session:
    """One open session: turns go in until it is ended."""

    recorder: Recorder
    session_id: str

    def log(self, turn: dict[str, Any]) -> Logged:
        """Log a turn; what every turn has and the caller left out is filled in."""
        return self.recorder.log(turn_event(self.session_id, turn))

    def end(self, notes: str = "") -> None:
        """End it; no turn can be logged any more."""
        ended = {"type": "session_end", "v": 1, "session_id": self.session_id, "ended_at": _stamp()}
        self.recorder.end({**ended, "notes": notes} if notes else ended)


@final
@dataclass(frozen=True, slots=True)
class LocalClient:
    """Starts sessions that stay on this machine."""

    tier: LocalOnly
    recorder: Recorder

    def start(self, session: dict[str, Any]) -> Session:
        """Begin a session with these fields (repo_id, branch, commit, metadata, session_id)."""
        event = session_event(session, tier="local_only", license_id=None)
        self.recorder.start(event)
        return Session(self.recorder, event["session_id"])


def session_event(fields: dict[str, Any], *, tier: str, license_id: str | None) -> dict[str, Any]:
    """A `session` event: the caller's fields over what is made up, under what the tier decides."""
    made_up = {
        "session_id": str(uuid.uuid4()),
        "repo_id": "unknown",
        "branch": "unknown",
        "commit": "unknown",
    }
    decided = {"type": "session", "v": 1, "license_id": license_id, "privacy_tier": tier}
    return {**made_up, **fields, **decided, "created_at": _stamp()}


def turn_event(session_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A `turn` event: the caller's fields over the defaults."""
    turn = {"type": "turn", "v": 1, "session_id": session_id, "input_kind": "text", "latency_ms": 0, **fields}
    if "turn_id" not in turn:
        turn["turn_id"] = str(uuid.uuid4())
    return turn


def _stamp() -> str:
    return utc_now().isoformat(timespec="microseconds")
