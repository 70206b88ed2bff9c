"""`CCP_SANDBOX=seccomp|bwrap`: ccp starts itself again inside, without a network, and is its own broker.

The profile denies inet sockets under either isolation; under bwrap the network namespace is empty besides.
What cannot be honoured refuses to start: a sandbox that is not there must not look like one that is.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import uvloop

from holdfast.clock import wait_until
from holdfast.sandbox import (
    Command,
    Confined,
    Further,
    Isolation,
    Profile,
    SandboxError,
    Spawner,
    confine,
    load_profile,
    parse_further,
)
from holdfast.systems.ccp.broker import Broker
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.listen import Listen, bind_unix
from holdfast.systems.ccp.origins import Origin
from holdfast.systems.ccp.server import BACKLOG, DRAIN_SECONDS, Service
from holdfast.systems.ccp.usage import UsageLog

__all__ = ["run_confined"]

START_SECONDS = 20.0
PASSED = ("ZAI_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Besides `CCP_*`: all that the inside needs of the environment."""


@final
@dataclass(frozen=True, slots=True)
class Walls:
    """What the confined copy is confined by, besides the isolation."""

    profile: Profile
    further: Further


def run_confined(service: Service, listen: Listen, inner_args: Sequence[str], *, allow_weaker: bool) -> int:
    """Serve through a confined copy of this program; raises `ConfigError` for what cannot be honoured."""
    walls = Walls(_profile(service.settings.environ), _further(service, allow_weaker=allow_weaker))
    _check(service)
    with ExitStack() as stack:
        # The log proves its folder before anything starts, and cuts off what an earlier kill has torn.
        UsageLog(service.log_dir, service.rotation).close()
        folder = Path(tempfile.mkdtemp(prefix="ccp-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        spawner = stack.enter_context(Spawner())
        broker = Broker(folder, _destinations(service), service.log_dir / "broker.jsonl")
        broker.note_weaker(walls.further.weaker)
        for option in walls.further.weaker:
            sys.stderr.write(f"ccp: the sandbox is weaker by `{option}`, as --allow-weaker asks\n")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(service, listen, spawner, broker, walls, inner_args))


def _profile(environ: Mapping[str, str]) -> Profile:
    given = environ.get("CCP_SECCOMP_PROFILE") or "standard"
    try:
        profile = load_profile(given)
    except SandboxError as error:
        raise ConfigError(f"`CCP_SECCOMP_PROFILE`: {error}") from error
    if profile.allows_inet:
        raise ConfigError(
            f"`CCP_SECCOMP_PROFILE={given}` allows inet sockets, and a confined ccp needs none; give `standard.json`"
        )
    return profile


def _further(service: Service, *, allow_weaker: bool) -> Further:
    text = service.settings.environ.get("CCP_BWRAP_ARGS", "")
    try:
        return parse_further(text, source="CCP_BWRAP_ARGS", allow_weaker=allow_weaker)
    except SandboxError as error:
        raise ConfigError(str(error)) from error


def _check(service: Service) -> None:
    settings = service.settings
    if settings.via:
        raise ConfigError(
            "`CCP_UPSTREAM_VIA` and `CCP_SANDBOX` exclude each other: a confined ccp has its own broker"
        )
    if "://" in settings.policy:
        raise ConfigError(
            "under `CCP_SANDBOX` the policy must be a file: inside there is no network to fetch it by"
        )
    if unix := [
        lane.name for lane in service.routes.lanes.values() if lane.base.origin.scheme == "http+unix"
    ]:
        raise ConfigError(f"lane `{unix[0]}` is on a Unix socket, which `CCP_SANDBOX` does not carry")


def _destinations(service: Service) -> dict[str, Origin]:
    """Exactly the hosts that the policy routes to."""
    origins = [lane.base.origin for lane in service.routes.lanes.values()]
    return {origin.hostport: origin for origin in origins}


def _command(service: Service, broker: Broker, walls: Walls, inner_args: Sequence[str]) -> Command:
    environ = service.settings.environ
    log_dir = service.log_dir.resolve()
    kept = {k: v for k, v in environ.items() if v and (k in PASSED or k.startswith("CCP_"))}
    for name in ("CCP_SANDBOX", "CCP_SECCOMP_PROFILE", "CCP_BWRAP_ARGS"):
        kept.pop(name, None)
    files = (service.settings.policy, service.settings.policy_keys, environ.get("SSL_CERT_FILE", ""))
    for name, file in zip(("CCP_POLICY_URL", "CCP_POLICY_KEYS", "SSL_CERT_FILE"), files, strict=True):
        if file:
            kept[name] = str(Path(file.removeprefix("file://")).resolve())
    readable = tuple(str(Path(file.removeprefix("file://")).resolve().parent) for file in files if file)
    argv = (sys.executable, "-m", "holdfast.systems.ccp.cli", "serve", "--uds", str(broker.inner))
    return Command(
        (*argv, "--log-dir", str(log_dir), *inner_args),
        cwd=str(log_dir),
        environment={
            **kept,
            "CCP_UPSTREAM_VIA": str(broker.outer),
            "CCP_CONFINED": service.settings.isolation.value,
            "CCP_WEAKER": "\n".join(walls.further.weaker),
        },
        readable=readable,
        writable=(str(broker.inner.parent), str(log_dir)),
    )


def _start(spawner: Spawner, service: Service, command: Command, broker: Broker, walls: Walls) -> Confined:
    isolation = Isolation(service.settings.isolation.value)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        confined = confine(
            spawner,
            isolation,
            command,
            profile=walls.profile,
            descriptors={0: null, 1: null, 2: 2},
            further=walls.further,
        )
        wait_until(lambda: _accepts(broker.inner), what="the confined proxy's socket", seconds=START_SECONDS)
    except SandboxError as error:
        raise ConfigError(f"`CCP_SANDBOX={isolation.value}` cannot be honoured here: {error}") from error
    except TimeoutError as error:
        raise ConfigError("the confined proxy did not start; what it said stands above") from error
    finally:
        os.close(null)
    return confined


def _accepts(path: Path) -> bool:
    """Whether a connection is taken: the socket's name is there before anybody listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


async def _serve(
    service: Service,
    listen: Listen,
    spawner: Spawner,
    broker: Broker,
    walls: Walls,
    inner_args: Sequence[str],
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    outward = await broker.start_outward()
    command = _command(service, broker, walls, inner_args)
    confined = await loop.run_in_executor(None, _start, spawner, service, command, broker, walls)
    try:
        server, where = await _listen(broker, listen)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, confined.signal, signal.SIGHUP)
        sys.stdout.write(
            f"ccp: listening on {where} ({service.settings.isolation.value}, no network inside)\n"
        )
        sys.stdout.flush()
        ended = loop.run_in_executor(None, confined.wait, None)
        ending = loop.create_task(stop.wait())
        first: set[asyncio.Future[Any]] = {ended, ending}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        server.close()
        if ending.done():
            confined.signal(signal.SIGTERM)
            async with asyncio.timeout(DRAIN_SECONDS + 5):
                return await ended
        sys.stderr.write("ccp: the confined proxy has ended by itself\n")
        return 70
    finally:
        outward.close()
        confined.close()
        await broker.close()


async def _listen(broker: Broker, listen: Listen) -> tuple[asyncio.AbstractServer, str]:
    try:
        if listen.uds:
            server = await asyncio.start_unix_server(broker.inward, sock=bind_unix(Path(listen.uds)))
            return server, f"unix:{listen.uds}"
        server = await asyncio.start_server(broker.inward, listen.host, listen.port, backlog=BACKLOG)
    except OSError as error:
        where = listen.uds or f"{listen.host}:{listen.port}"
        raise ConfigError(f"cannot listen on `{where}`: {error.strerror or error}") from error
    host, port = server.sockets[0].getsockname()[:2]
    return server, f"http://{f'[{host}]' if ':' in host else host}:{port}"
