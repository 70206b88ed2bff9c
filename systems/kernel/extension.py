"""Rules that live in another process: any command that speaks JSON lines, behind a deadline, failing closed.

    to it    {"id": 7, "now": ..., "request": {"syscall": ..., "caller": ..., "path": ..., ...}}
    from it  {"ready": true}                                 once, when it has warmed up
             {"id": 7, "votes": [{"rule": "r1", "action": "deny", "reason": "..."}]}

A crash, a late answer, a line that is too long or not the JSON expected: each denies that call and restarts
the process; the second within 30 s keeps it down, and every later call is denied. A process that is still
warming up denies without that counting against it, until its start-up time is over.
"""

import json
import os
import select
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol, final

from holdfast.clock import monotonic
from holdfast.systems.kernel.decision import Phase
from holdfast.systems.kernel.request import Request
from holdfast.systems.kernel.rules import Action, Vote

__all__ = ["EVALUATION_SECONDS", "Evaluator", "Extension", "Health", "Spawn", "spawn_plain"]

EVALUATION_SECONDS: Final = 0.1
START_SECONDS: Final = 10.0
RELAPSE_SECONDS: Final = 30.0
MAX_LINE: Final = 65_536
MAX_VOTES: Final = 64


class Evaluator(Protocol):
    """A started extension process, whoever started it."""

    @property
    def questions(self) -> int:
        """The descriptor that it reads."""

    @property
    def answers(self) -> int:
        """The descriptor that it writes."""

    def end(self) -> None:
        """Kill it, wait for it, close both descriptors; called once."""


Spawn = Callable[[Sequence[str]], Evaluator]
"""Starts the command with pipes on stdin and stdout; confinement is its business. Raises `OSError`."""


@final
class _Plain:
    """A child of ours, not confined."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = _popen(argv)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = (self._process.stdin, self._process.stdout)
        self.questions, self.answers = (pipe.fileno() for pipe in self._pipes)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            pipe.close()


def spawn_plain(argv: Sequence[str]) -> Evaluator:
    """No confinement: for extensions that are trusted as the kernel itself is. See `confined_extension`."""
    return _Plain(argv)


def _popen(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={"PATH": "/usr/bin:/bin"},
    )


@final
class Health(Enum):
    """What a failure leads to."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


class _FailureError(Exception):
    """This evaluation cannot be trusted; the message says why."""


@final
class Extension:
    """One long-lived evaluator process. Calls are answered one at a time, from any thread."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str = "extension",
        spawn: Spawn = spawn_plain,
        seconds: float = EVALUATION_SECONDS,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.name = name
        self.health = Health.DOWN
        self.calls = 0
        self.restarts = 0
        self._argv = tuple(argv)
        self._spawn = spawn
        self._seconds = seconds
        self._start_seconds = start_seconds
        self._lock = threading.Lock()
        self._process: Evaluator | None = None
        self._buffer = b""
        self._last_failure: float | None = None
        self._started = 0.0
        self._start()

    def warm_up(self) -> bool:
        """Wait until the process says that it is ready; False when it is not in time."""
        with self._lock:
            try:
                self._await_ready(self._started + self._start_seconds)
            except _FailureError:
                self._fail()
            return self.health is Health.READY

    def __call__(self, request: Request, now: int) -> Sequence[Vote]:
        """The extension's votes, or one denial that says what went wrong."""
        with self._lock:
            self.calls += 1
            if self.health is Health.DOWN:
                return (self._denial("is down after two failures within 30 s"),)
            try:
                return self._evaluate(request, now)
            except _FailureError as failure:
                if self.health is Health.STARTING and monotonic() < self._started + self._start_seconds:
                    return (self._denial(str(failure)),)
                self._fail()
                return (self._denial(str(failure)),)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()
            self.health = Health.DOWN

    def _evaluate(self, request: Request, now: int) -> Sequence[Vote]:
        deadline = monotonic() + self._seconds
        self._await_ready(deadline)
        if self._buffer or self._readable():
            raise _FailureError("spoke without being asked")
        asked = {"id": self.calls, "now": now, "request": _document(request)}
        self._send(json.dumps(asked).encode() + b"\n", deadline)
        return self._votes(self._line(deadline))

    def _await_ready(self, deadline: float) -> None:
        if self.health is Health.READY:
            return
        if self._line(deadline, starting=True) != {"ready": True}:
            self._started = float("-inf")
            raise _FailureError("did not begin with the ready line")
        self.health = Health.READY

    def _send(self, line: bytes, deadline: float) -> None:
        pipe = self._pipes()[0]
        while line:
            if not select.select([], [pipe], [], max(0.0, deadline - monotonic()))[1]:
                raise _FailureError("did not read its input in time")
            try:
                line = line[os.write(pipe, line[: select.PIPE_BUF]) :]
            except OSError:
                raise _FailureError("crashed") from None

    def _line(self, deadline: float, *, starting: bool = False) -> Any:
        pipe = self._pipes()[1]
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise _FailureError(f"sent a line of more than {MAX_LINE} bytes")
            if not select.select([pipe], [], [], max(0.0, deadline - monotonic()))[0]:
                raise _FailureError("is still starting" if starting else "did not answer in time")
            chunk = os.read(pipe, MAX_LINE)
            if not chunk:
                self._started = float("-inf")
                raise _FailureError("crashed")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(line[: MAX_LINE + 1])
        except (ValueError, RecursionError):
            raise _FailureError("sent a line that is not JSON") from None

    def _votes(self, answer: Any) -> Sequence[Vote]:
        if not isinstance(answer, Mapping) or answer.get("id") != self.calls:
            raise _FailureError("answered something else than was asked")
        votes = answer.get("votes")
        if not isinstance(votes, list) or len(votes) > MAX_VOTES:
            raise _FailureError(f"did not answer with at most {MAX_VOTES} votes")
        return [self._vote(vote) for vote in votes]

    def _vote(self, vote: Any) -> Vote:
        match vote:
            case {"rule": str(rule), "action": str(action), "reason": str(reason)}:
                if not any(action == known.value for known in Action):
                    raise _FailureError(f"voted `{action[:40]}`")
                return Vote(f"{self.name}/{rule[:200]}", Action(action), reason[:500], Phase.EXTENSION)
            case _:
                raise _FailureError("cast a vote without rule, action or reason")

    def _readable(self) -> bool:
        """Whether it said something unasked; what has ended is found out by asking it."""
        answers = self._pipes()[1]
        if not select.select([answers], [], [], 0)[0]:
            return False
        chunk = os.read(answers, MAX_LINE)
        self._buffer += chunk
        return bool(chunk)

    def _pipes(self) -> tuple[int, int]:
        process = self._process
        if process is None:
            raise _FailureError("is not running")
        return process.questions, process.answers

    def _denial(self, why: str) -> Vote:
        return Vote(self.name, Action.DENY, f"extension `{self.name}` {why}", Phase.EXTENSION)

    def _fail(self) -> None:
        """Restart once; down on the second failure within 30 s."""
        self._stop()
        now = monotonic()
        relapse = self._last_failure is not None and now - self._last_failure < RELAPSE_SECONDS
        self._last_failure = now
        if relapse:
            self.health = Health.DOWN
            return
        self.restarts += 1
        self._start()

    def _start(self) -> None:
        self._buffer = b""
        self._started = monotonic()
        try:
            self._process = self._spawn(self._argv)
        except OSError:
            self._process = None
            self.health = Health.DOWN
            return
        self.health = Health.STARTING

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.end()


def _document(request: Request) -> dict[str, str | None]:
    return {
        "syscall": request.syscall,
        "caller": request.caller,
        "caller_tag": request.caller_tag,
        "path": None if request.path is None else request.path.text,
        "state": request.state,
    }
