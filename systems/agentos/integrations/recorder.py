"""Sessions and turns into the log: validate, append, add up.

This module and all that it imports know no tier, no licence and no network: it is the whole of what runs
under LocalOnly, and a contract in the tests holds its imports to that.

    log(turn):  schema -> one write to windows.jsonl -> [acknowledged] -> glm_counts.jsonl, summary in memory

What comes after the acknowledgement is derived. When it fails the event still stands, so the call succeeds,
`problem` says what is behind, and the next opening makes it good.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from holdfast.clock import monotonic
from holdfast.systems.agentos.errors import BadInputError, StoreError
from holdfast.systems.agentos.files import make_folder, write_atomically
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.journal import LINE_LIMIT, Journal, Repair, Sync, iter_lines
from holdfast.systems.agentos.metrics.rollup import is_glm
from holdfast.systems.agentos.metrics.summary import fold_log, load_health, write_summary
from holdfast.systems.agentos.schemas import SchemaViolationError, require_event
from holdfast.systems.agentos.strict_json import dump_line, parse_line

__all__ = ["Logged", "Recorder", "glm_line", "iter_events"]

SUMMARY_EVERY = 1.0
"""Seconds between two replacements of the summary's file while turns are logged."""


@final
class Logged(Enum):
    """What became of an event that was handed in."""

    RECORDED = "recorded"
    ALREADY = "already"
    """The same turn of the same session is in the log: a caller's retry, counted once."""


@final
@dataclass(slots=True)
class _Open:
    """A session that has begun and not ended."""

    turn_ids: set[str] = field(default_factory=set)


@final
class Recorder:
    """The one writer of a data folder. Use as a context manager; `close` leaves the summary up to date."""

    __slots__ = (
        "_folded",
        "_folder",
        "_glm",
        "_health",
        "_journal",
        "_sessions",
        "_written_at",
        "problem",
        "repairs",
    )

    def __init__(self, root: Path, *, sync: Sync = Sync.NEVER, patience: float = 10.0) -> None:
        """Open `root`, mend torn ends, catch up with the log.

        Raises `StoreError` when the folder cannot be written or another process records in it.
        """
        make_folder(root)
        self._folder = DataFolder(root)
        self._journal = Journal(self._folder.windows, sync=sync, patience=patience)
        self._glm = Journal(self._folder.glm_counts, patience=patience)
        self.repairs: tuple[Repair, ...] = tuple(r for r in (self._journal.repair, self._glm.repair) if r)
        self.problem: StoreError | None = None
        self._sessions: dict[str, _Open] = {}
        self._folded = fold_log(self._folder.windows, self._folder.summary)
        self._health = load_health(self._folder.snapshots)
        self._written_at = monotonic()
        self._catch_up_glm()

    @property
    def last_created_at(self) -> str | None:
        """When the newest session in the log began, as it says itself."""
        return self._folded.rollup.last_created_at

    @property
    def turns(self) -> int:
        """How many turns the log holds."""
        return self._folded.rollup.turns

    def start(self, session: dict[str, Any]) -> None:
        """Log a `session` event; its id must be new among the open sessions."""
        require_event(session)
        session_id = session["session_id"]
        if session_id in self._folded.rollup.open_sessions:
            raise BadInputError(
                f"the session `{session_id}` is open already; end it, or let the id be made up"
            )
        self._append(session)
        self._sessions[session_id] = _Open()
        self._derive(self.write_summary)

    def log(self, turn: dict[str, Any]) -> Logged:
        """Log a `turn` of an open session. On return it is in the log and survives this process's death."""
        require_event(turn)
        turn_ids = self._open(turn["session_id"]).turn_ids
        turn_id = turn["turn_id"]
        if turn_id in turn_ids:
            return Logged.ALREADY
        self._append(turn)
        turn_ids.add(turn_id)
        if is_glm(turn["model"]):
            self._derive(self._glm.append, glm_line(turn))
        if monotonic() - self._written_at > SUMMARY_EVERY:
            self._derive(self.write_summary)
        return Logged.RECORDED

    def end(self, session_end: dict[str, Any]) -> None:
        """Log a `session_end` of an open session, and bring the summary's file up to date."""
        require_event(session_end)
        self._open(session_end["session_id"])
        self._append(session_end)
        del self._sessions[session_end["session_id"]]
        self._derive(self.write_summary)

    def refresh_health(self) -> None:
        """Read the usage snapshots again, after some were added."""
        self._health = load_health(self._folder.snapshots)
        self.write_summary()

    def write_summary(self) -> None:
        """Replace `metrics_summary.json`."""
        write_summary(self._folder.summary, self._folder.windows, self._folded, self._health)
        self._written_at = monotonic()

    def close(self) -> None:
        """Bring the summary's file up to date and give the locks back; see `problem` for whether it could."""
        self._derive(self.write_summary)
        self._journal.close()
        self._glm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, event: dict[str, Any]) -> None:
        try:
            line = dump_line(event)
        except (ValueError, TypeError, RecursionError) as problem:
            raise SchemaViolationError(event["type"], "$", "json", f"not a JSON value: {problem}") from None
        if len(line) > LINE_LIMIT:
            raise BadInputError(f"the event is {len(line)} bytes long; a line holds at most {LINE_LIMIT}")
        offset = self._journal.size
        self._folded.bytes_read = self._journal.append(line)
        self._folded.rollup.add(event, offset)

    def _derive(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except StoreError as problem:
            self.problem = problem

    def _open(self, session_id: str) -> _Open:
        """The open session, read back from the log when an earlier process began it."""
        if (session := self._sessions.get(session_id)) is not None:
            return session
        begin = self._folded.rollup.open_sessions.get(session_id)
        if begin is None:
            raise BadInputError(f"there is no open session `{session_id}`; start one first")
        session = _Open()
        for event in iter_events(self._folder.windows, begin):
            if event.get("session_id") == session_id and event.get("type") == "turn":
                session.turn_ids.add(event["turn_id"])
        self._sessions[session_id] = session
        return session

    def _catch_up_glm(self) -> None:
        lines = sum(1 for _ in iter_lines(self._folder.glm_counts))
        if lines == self._folded.rollup.glm_turns:
            return
        # A kill came between the log and its counts; they are derived, so make them anew.
        rows = [
            glm_line(event)
            for event in iter_events(self._folder.windows)
            if event.get("type") == "turn" and is_glm(event["model"])
        ]
        self._glm.close()
        write_atomically(self._folder.glm_counts, b"".join(rows))
        self._glm = Journal(self._folder.glm_counts)


def iter_events(log: Path, start: int = 0) -> Any:
    """The readable events of a log, from the line that begins at byte `start`."""
    return filter(None, (parse_line(line.content) for line in iter_lines(log, start)))


def glm_line(turn: dict[str, Any]) -> bytes:
    """The line that `glm_counts.jsonl` holds for a turn of a glm model."""
    names = ("session_id", "turn_id", "model", "tokens_in", "tokens_out")
    return dump_line({name: turn[name] for name in names})
