"""One sandbox instance with an agent inside: what probes and services are run through.

    bring_up(...) -> Instance     spawner -> stage -> sandbox -> agent; the agent is the service's parent

What crosses the wall is one socket pair, made here, and the terminal.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from holdfast import clock
from holdfast.sandbox.channel import OpenChannel, open_channel
from holdfast.sandbox.host import Host
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.launchers import channel_of, launcher_for
from holdfast.sandbox.plan import Command, Execute, Plan, plan_for
from holdfast.sandbox.refusal import CannotConfineError
from holdfast.sandbox.spawn import Confined, Launch, Planted, Spawner, Stage
from holdfast.sandbox.terminal import Terminal

__all__ = ["AGENT", "AgentLostError", "Instance", "Policy", "Service", "agent_command", "bring_up"]

AGENT = Path(__file__).with_name("agent.py")
MAX_NOISE = 4096
MAX_MESSAGE = 1 << 16
HELLO_SECONDS = 10.0
ANSWER_SLACK_SECONDS = 5.0


class AgentLostError(Exception):
    """The agent ended, or never spoke; carries its last words from the terminal."""


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """What an isolation applies: a filter's bytes with the profile's name, and whether the network is shared."""

    filter_code: bytes | None
    profile: str | None
    shares_network: bool


@final
@dataclass(frozen=True, slots=True)
class Service:
    """A command to be run beside the probes, as the agent's child."""

    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    inherits: bool = True
    """Whether it also gets the agent's own environment; the canary in it is always withheld."""


def agent_command(host: Host, *, agent: Path = AGENT) -> tuple[str, ...]:
    """How the agent is started, less its channel; the interpreter is the running one."""
    del host
    return (sys.executable, "-I", "-S", str(agent))


def bring_up(
    spawner: Spawner,
    isolation: AnyIsolation,
    policy: Policy,
    command: Command,
    host: Host,
    *,
    stage: Stage,
    alter: Callable[[Plan], Plan] | None = None,
    also: Mapping[int, int] | None = None,
) -> "Instance":
    """Start a sandbox with an agent and hear its first words.

    `alter` changes the compiled plan: an ablation, or a fault planted on purpose. `also` are descriptors to
    leak into it on purpose: a control shows by them that a leak would be found. Raises `CannotConfineError`
    when the launcher cannot start, `AgentLostError` when the agent does not come to speak.
    """
    with ExitStack() as undo, open_channel(channel_of(isolation)) as channel:
        compiled = plan_for(
            isolation,
            _across(command, channel),
            host,
            filter_code=policy.filter_code,
            profile=policy.profile,
            shares_network=policy.shares_network,
        )
        if alter is not None:
            compiled = alter(compiled)
        try:
            terminal = undo.enter_context(Terminal())
        except OSError as error:
            raise CannotConfineError(f"no pty can be opened: {error.strerror}", hint="mount devpts") from None
        handed = {0: terminal.slave, 1: terminal.slave, 2: terminal.slave, **channel.descriptors}
        handed |= also or {}
        confined = undo.enter_context(spawner.launch(_staged(isolation, compiled, handed, stage)))
        ours = channel.answer(confined.has_ended)
        if ours is None:
            raise AgentLostError(f"the agent never came: {_words(terminal)}")
        undo.callback(ours.close)
        instance = Instance(isolation, compiled, confined, ours, terminal, noisy=channel.noisy)
        instance.greet()
        undo.pop_all()
        return instance


def _across(command: Command, channel: OpenChannel) -> Command:
    """The command with its end of the conversation."""
    return replace(
        command, argv=(*command.argv, channel.word), writable=(*command.writable, *channel.folders)
    )


def _words(terminal: Terminal) -> str:
    """What was said on the terminal last, in one line."""
    return " ".join(terminal.drain().split())[-300:] or "it said nothing"


def _staged(isolation: AnyIsolation, plan: Plan, handed: Mapping[int, int], stage: Stage) -> Launch:
    """Take the terminal before the sandbox is applied, on the stage that both arms share."""
    launch = launcher_for(isolation).lower(plan, handed)
    return replace(launch, stage=stage, steps=(("session",), ("terminal", 0), *launch.steps))


@final
class Instance:
    """A running sandbox and the conversation with its agent."""

    def __init__(
        self,
        isolation: AnyIsolation,
        plan: Plan,
        confined: Confined,
        control: socket.socket,
        terminal: Terminal,
        *,
        noisy: bool = False,
    ) -> None:
        self.isolation, self.plan, self.terminal = isolation, plan, terminal
        self.agent_pid = 0
        """As the host numbers it, by the kernel's own word (SCM_CREDENTIALS)."""
        self.inside: Mapping[str, Any] = {}
        """What the agent read of itself at its start."""
        self.service_ended: int | None = None
        self._confined, self._control, self._noisy = confined, control, noisy
        self._noise = ""

    @property
    def planted(self) -> Planted:
        """What the stage could plant, and the credentials before the sandbox."""
        if self._confined.planted is None:
            raise AgentLostError("the stage said nothing")
        return self._confined.planted

    @property
    def skipped(self) -> tuple[str, ...]:
        """Steps that this user may not take."""
        return self._confined.skipped

    @property
    def argv(self) -> tuple[str, ...]:
        """The agent's command line inside."""
        return next(op.argv for op in self.plan.ops if isinstance(op, Execute))

    def greet(self) -> None:
        """Hear the agent's first words, and learn from the kernel who speaks."""
        told = self._hear(clock.monotonic() + HELLO_SECONDS)
        if "hello" not in told:
            raise AgentLostError(f"the agent's first words were not a greeting: {str(told)[:80]}")
        self.inside = told["hello"]

    def probe(self, probe_id: str, field: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """One attempt inside; raises `AgentLostError` when no answer comes."""
        return self._ask({"do": "probe", "id": probe_id, "field": dict(field), "seconds": seconds}, seconds)

    def alive(self, family: str, seconds: float) -> Mapping[str, Any]:
        """The family's liveness sibling, inside."""
        return self._ask({"do": "alive", "family": family, "seconds": seconds}, seconds)

    def serve(self, service: Service, *, withheld: Sequence[str], stdout: int, stderr: int) -> None:
        """Start the service as the agent's child; raises `AgentLostError` when it cannot be executed."""
        wish = {
            "do": "serve",
            "argv": list(service.argv),
            "cwd": service.cwd,
            "environment": dict(service.environment),
            "inherits": service.inherits,
            "withheld": list(withheld),
        }
        told = self._ask(wish, HELLO_SECONDS, [stdout, stderr])
        if "service" not in told:
            raise AgentLostError(f"the service could not be started: {told.get('refused', told)}")

    def poll_service(self) -> int | None:
        """Whether the service has ended of its own accord, without waiting; its status then."""
        while select.select([self._control], [], [], 0)[0]:
            self._note(self._hear(clock.monotonic() + ANSWER_SLACK_SECONDS))
        return self.service_ended

    def stop_service(self, seconds: float) -> int | None:
        """Ask the service to end (SIGTERM) and wait for it; its exit status, negative for a signal."""
        if self.service_ended is None:
            self._ask({"do": "signal", "signal": int(signal.SIGTERM)}, seconds)
            deadline = clock.monotonic() + seconds
            while self.service_ended is None:
                self._note(self._hear(deadline))
        return self.service_ended

    def close(self) -> None:
        """End everything inside."""
        self._control.close()
        self._confined.close()
        self.terminal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self, wish: Mapping[str, Any], seconds: float, descriptors: Sequence[int] = ()
    ) -> Mapping[str, Any]:
        deadline = clock.monotonic() + seconds + ANSWER_SLACK_SECONDS
        try:
            socket.send_fds(self._control, [json.dumps(wish).encode()], list(descriptors))
        except OSError as error:
            raise AgentLostError(self._last_words(str(error))) from None
        while True:
            told = self._hear(deadline)
            if not self._note(told):
                return told

    def _note(self, told: Mapping[str, Any]) -> bool:
        """Keep what comes unasked; True when that is all it was."""
        if "service_ended" not in told:
            return False
        self.service_ended = told["service_ended"]
        return True

    def _hear(self, deadline: float) -> Mapping[str, Any]:
        """One message, a JSON object; a launcher's own words before it are kept for the agent's last ones."""
        while True:
            message = self._hear_message(deadline)
            with contextlib.suppress(ValueError):
                if isinstance(told := json.loads(message), dict):
                    return told
            if not self._noisy:
                raise AgentLostError("the agent does not speak in JSON objects")
            self._noise = (self._noise + message.decode(errors="replace"))[-MAX_NOISE:]

    def _hear_message(self, deadline: float) -> bytes:
        self._control.settimeout(max(0.001, deadline - clock.monotonic()))
        try:
            message, ancillary, _, _ = self._control.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(CREDENTIALS.size))
        except OSError as error:
            raise AgentLostError(self._last_words(str(error))) from None
        if not message:
            raise AgentLostError(self._last_words("it ended"))
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self.agent_pid = CREDENTIALS.unpack(data)[0]
        return message

    def _last_words(self, reason: str) -> str:
        said = " ".join((self._noise + " " + self.terminal.drain()).split())[-300:]
        return f"the agent is lost ({reason})" + (f"; it said: {said}" if said else "")


CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid; the kernel fills it in and translates the pid for the reader."""


def scratch_command(
    host: Host,
    folder: Path,
    *,
    agent: Path = AGENT,
    environment: Mapping[str, str],
    readable: Sequence[str] = (),
) -> Command:
    """The agent as a command, with one writable scratch folder and the caller's environment to inherit."""
    return Command(
        argv=agent_command(host, agent=agent),
        cwd=str(folder),
        inherited=environment,
        readable=(os.fspath(agent.parent), *readable),
        writable=(os.fspath(folder),),
    )
