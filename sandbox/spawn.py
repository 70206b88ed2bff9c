"""Ask the spawner for a sandbox, and hold on to it: `Launch` -> `Confined`.

A `Confined` is the harness's end of a socket. Closing it, or dying, ends everything inside.
"""

import base64
import fcntl
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from holdfast import clock
from holdfast.sandbox.refusal import BadInputError, CannotConfineError

__all__ = ["Confined", "Launch", "Neighbour", "Planted", "Spawner", "Stage"]

SPAWNER = Path(__file__).with_name("spawner.py")
MAX_MESSAGE = 1 << 16
FIRST_OWN_DESCRIPTOR = 3
CLOSE_SECONDS = 10.0
"""How long the end of a whole tree may take before it is reported as our own fault."""

Step = tuple[Any, ...]


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """What both arms of a comparison are given before the sandbox is applied."""

    namespaces: str
    """`private` (root) or `user` (anybody else): throw-away mounts, IPC and UTS for the controls' effects."""
    key_description: str
    key_secret: str
    neighbour_name: str
    neighbour_secret: str

    def wire(self) -> dict[str, Any]:
        """As the spawner reads it."""
        return {
            "namespaces": self.namespaces,
            "key": {"description": self.key_description, "payload": self.key_secret},
            "neighbour": {"secret": self.neighbour_secret, "abstract": self.neighbour_name},
        }


@final
@dataclass(frozen=True, slots=True)
class Launch:
    """One command, the steps before its exec, and the descriptors that it gets; nothing else is passed on."""

    steps: tuple[Step, ...]
    """(name, arguments...); the names are `spawner.STEPS`, the last is `execute`."""
    descriptors: Mapping[int, int] = field(default_factory=dict)
    """The command's descriptor number -> ours."""
    contents: Mapping[int, bytes] = field(default_factory=dict)
    """The command's descriptor number -> what it reads there: an anonymous file of the launch's own."""
    stage: Stage | None = None
    status_target: int | None = None
    """The number at which a launcher like bwrap writes what it knows of its child, as JSON lines."""
    clean_up: tuple[tuple[str, ...], ...] = ()
    """Command lines that the supervisor runs once the command has ended, however that came about: what a
    launcher leaves behind outside of its own process tree (a container of an engine, a folder)."""

    def wire(self) -> bytes:
        """The request's text; the descriptors travel in the order of `targets`."""
        request = {
            "steps": [[_plain(word) for word in step] for step in self.steps],
            "descriptors": {str(target): i for i, target in enumerate(self.targets)},
            "stage": self.stage.wire() if self.stage else None,
            "status_target": self.status_target,
            "clean_up": self.clean_up,
        }
        return json.dumps(request).encode()

    @property
    def targets(self) -> tuple[int, ...]:
        """The numbers that the command will have."""
        return (*self.descriptors, *self.contents)


@final
@dataclass(frozen=True, slots=True)
class Neighbour:
    """A process of the same credentials outside the sandbox that keeps a secret."""

    pid: int
    address: int
    length: int
    path: str | None
    abstract: str | None
    port: int | None = None
    """On the host's loopback."""


@final
@dataclass(frozen=True, slots=True)
class Planted:
    """What the stage could plant, and the credentials right before the sandbox."""

    credentials: Mapping[str, str]
    key: int
    neighbour: Neighbour | None
    problems: Mapping[str, str]


@final
class Confined:
    """A running command and everything below it."""

    def __init__(self, events: socket.socket) -> None:
        self._events = events
        self.pid = 0
        """Of the process that was exec'd, as the host numbers it; under bwrap that of bwrap itself."""
        self.credentials: Mapping[str, str] = {}
        """Right before the sandbox was applied."""
        self.planted: Planted | None = None
        self.skipped: tuple[str, ...] = ()
        """Steps that this user may not take, each with the kernel's reason."""
        self._ended: tuple[int, str] | None = None

    def await_start(self, seconds: float) -> None:
        """Read events until the command runs; raises `CannotConfineError` naming the step that failed."""
        deadline = clock.monotonic() + seconds
        while True:
            event = self._next(deadline)
            match event:
                case {"event": "stage"}:
                    self.planted = _planted(event)
                case {"event": "skipped", "step": step, "message": message}:
                    self.skipped += (f"{step}: {message}",)
                case {"event": "started", "pid": pid, "credentials": credentials}:
                    self.pid, self.credentials = pid, credentials
                    return
                case {"event": "failed"}:
                    raise _refused(event)
                case _:
                    raise CannotConfineError("the supervisor ended before the command started")

    def wait(self, seconds: float | None = None) -> int:
        """The command's exit status, 128 + n for signal n; raises `TimeoutError` past `seconds`."""
        deadline = None if seconds is None else clock.monotonic() + seconds
        while self._ended is None:
            match event := self._next(deadline):
                case {"event": "exited", "status": status, "launcher": text}:
                    self._ended = (status, text)
                case _:
                    raise CannotConfineError(f"the supervisor is gone ({event.get('event', 'end of file')})")
        return _exit_status(self._ended[0])

    def has_ended(self) -> bool:
        """Whether the command has ended, without waiting."""
        try:
            self.wait(0.001)
        except TimeoutError:
            return False
        return True

    @property
    def launcher_status(self) -> str:
        """What the launcher wrote of its child by the end; empty before."""
        return self._ended[1] if self._ended else ""

    def signal(self, number: int) -> None:
        """Forward a signal to the command; one that has ended needs none."""
        try:
            self._events.send(json.dumps({"signal": number}).encode())
        except OSError:
            return

    def close(self) -> None:
        """End everything inside and wait until it has ended."""
        if self._ended is not None:  # told only after nothing was left
            self._events.close()
            return
        try:
            self._events.shutdown(socket.SHUT_WR)
            self._events.settimeout(CLOSE_SECONDS)
            while self._events.recv(MAX_MESSAGE):
                pass
        except OSError:
            pass  # the supervisor was gone already
        finally:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self, deadline: float | None) -> dict[str, Any]:
        self._events.settimeout(None if deadline is None else max(0.001, deadline - clock.monotonic()))
        try:
            message = self._events.recv(MAX_MESSAGE)
        except TimeoutError:
            raise
        except OSError:
            message = b""
        return json.loads(message) if message else {}


@final
class Spawner:
    """The harness's side of the spawner process; safe to use from any thread, which may end afterwards."""

    def __init__(self, *, native: bool = True) -> None:
        """`native=False` forks for every start, as machines without the native program do."""
        ours, theirs = _socket_pair()
        self._lock = threading.Lock()
        self._control = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SPAWNER), str(theirs.fileno()), *_words(native)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """Of the spawner process."""
        return self._process.pid

    def launch(self, launch: Launch, *, seconds: float = 10.0) -> Confined:
        """Start a sandbox; returns once the command is exec'd. Raises `CannotConfineError`, `BadInputError`."""
        ours, theirs = _socket_pair()
        confined = Confined(ours)
        with ExitStack() as stack:
            stack.enter_context(theirs)
            request = _anonymous_file(stack, launch.wire())
            contents = [_anonymous_file(stack, content) for content in launch.contents.values()]
            passed = [request, theirs.fileno(), *launch.descriptors.values(), *contents]
            with self._lock:
                try:
                    socket.send_fds(self._control, [b"launch"], passed)
                except OSError as error:
                    ours.close()  # nobody has the other end but us
                    raise CannotConfineError(f"the spawner is gone: {error}") from None
        try:
            confined.await_start(seconds)
        except BaseException:
            confined.close()
            raise
        return confined

    def close(self) -> None:
        """End the spawner; sandboxes that still run belong to their own handles."""
        self._control.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair whose numbers no command can be handed by mistake.

    Where a caller's standard stream is closed, the next descriptor takes its number, and a command that is
    handed "our stdin" would be handed the way to the spawner, which runs whatever it is asked to.
    """
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return _above_streams(first), _above_streams(second)


def _above_streams(sock: socket.socket) -> socket.socket:
    if sock.fileno() >= FIRST_OWN_DESCRIPTOR:
        return sock
    moved = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_DESCRIPTOR)
    sock.close()
    return socket.socket(fileno=moved)


def _anonymous_file(stack: ExitStack, content: bytes) -> int:
    """A file in memory, rewound, closed with the stack."""
    descriptor = os.memfd_create("holdfast", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _words(native: bool) -> list[str]:
    """How to start, and where the extra python-prctl lies, since the spawner runs without site-packages."""
    found = importlib.util.find_spec("prctl")
    return [
        "native" if native else "fork",
        *([str(Path(found.origin).parent)] if found and found.origin else []),
    ]


def _plain(word: Any) -> Any:
    return base64.b64encode(word).decode() if isinstance(word, bytes) else word


def _planted(event: dict[str, Any]) -> Planted:
    told = event.get("neighbour")
    return Planted(
        credentials=event["credentials"],
        key=event.get("key", 0),
        neighbour=Neighbour(
            told["pid"],
            told["address"],
            told["length"],
            told.get("path"),
            told.get("abstract"),
            told.get("port"),
        )
        if told and "address" in told
        else None,
        problems=event["problems"],
    )


def _refused(event: dict[str, Any]) -> Exception:
    """Whose fault a failed step is: a command that is not there is the caller's, the rest is the host's."""
    step, message = event["step"], event["message"]
    if step == "execute":
        return BadInputError(f"the command could not be executed: {message}", hint="check its path")
    if step == "directory":
        return BadInputError(f"the working directory cannot be entered: {message}")
    hint = "this kernel may lack seccomp (CONFIG_SECCOMP_FILTER)" if step == "filter" else ""
    return CannotConfineError(f"the step `{step}` failed: {message}", hint=hint)


def _exit_status(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
