"""The client under the tiers that report: a recorder, and an uplink beside it.

    start ── only with Minimized(grant) or Full(grant), so the licence was checked
    log   ── into the log, as under LocalOnly; under Full a background stream takes it from there
    end   ── into the log, then everything that the tier lets out is uploaded

The uplink reads the log; the recorder does not know that it is there. A CCC that is down costs a session
nothing but a longer queue.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, final

from holdfast.systems.agentos.errors import AdapterError
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.local import Session, session_event
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.privacy.tier import Full, Minimized, TierName
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.outbox import Outbox
from holdfast.systems.agentos.upload.retry import Policy
from holdfast.systems.agentos.upload.sender import Drained, drain

__all__ = ["CCCClient", "Streamer", "Uplink", "start_reported"]


@final
@dataclass(frozen=True, slots=True)
class Uplink:
    """The way from a data folder's log to a CCC."""

    folder: DataFolder
    outbox: Outbox
    channel: Channel

    def upload(self, policy: Policy | None = None, stop: threading.Event | None = None) -> Drained:
        """Take in the log, send what may be sent; what is left is queued, and `stopped` says why."""
        return drain(self.outbox, self.channel, self.folder.windows, policy=policy, stop=stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self.outbox.close()


@final
class CCCClient:
    """Starts sessions under a tier that reports."""

    def __init__(
        self, tier: Minimized | Full, recorder: Recorder, uplink: Uplink, policy: Policy | None = None
    ) -> None:
        self.tier = tier
        self.recorder = recorder
        self.uplink = uplink
        self.policy = policy

    def start(self, session: dict[str, Any]) -> Session:
        """Begin a session with these fields (repo_id, branch, commit, metadata, session_id)."""
        return start_reported(self.tier, self.recorder, session)

    def end(self, session: Session, notes: str = "") -> Drained:
        """End the session and upload."""
        session.end(notes)
        return self.uplink.upload(self.policy)


def start_reported(tier: Minimized | Full, recorder: Recorder, session: dict[str, Any]) -> Session:
    """Begin a session whose log may be reported under `tier`, whose grant was checked."""
    name = TierName.FULL if isinstance(tier, Full) else TierName.MINIMIZED
    event = session_event(session, tier=name.value, license_id=tier.grant.license_id)
    recorder.start(event)
    return Session(recorder, event["session_id"])


@final
class Streamer:
    """Uploads while a session runs. A context manager: leaving it uploads what is still there once more.

    Trouble never reaches the session: it stands in the queue's books, and the rows stay.
    """

    def __init__(self, uplink: Uplink, *, every: float = 1.0, policy: Policy | None = None) -> None:
        self._uplink = uplink
        self._every = every
        self._policy = policy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ccc-stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(AdapterError):
            self._uplink.upload(Policy(tries=1))

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            with suppress(AdapterError):
                self._uplink.upload(self._policy, self._stop)
