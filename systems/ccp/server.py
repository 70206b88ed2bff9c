"""`ccp serve`: listeners, signals, the sweeper, and an orderly end."""

import asyncio
import contextlib
import errno
import signal
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import uvloop

from holdfast.clock import monotonic
from holdfast.systems.ccp.exchange import OnUpstreamFailure
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.origins import is_loopback
from holdfast.systems.ccp.policy import DEFAULT_POLICY
from holdfast.systems.ccp.relay import ClientConnection, Relay
from holdfast.systems.ccp.routes import build_routes
from holdfast.systems.ccp.settings import Isolation, build_lanes, read_settings
from holdfast.systems.ccp.usage import UsageLog

__all__ = ["Listen", "serve"]

_SWEEP_SECONDS = 0.25
_DRAIN_SECONDS = 30.0


@final
@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients come in: a TCP address, or a Unix socket when `uds` is given."""

    host: str = "127.0.0.1"
    port: int = 8082
    uds: str = ""
    allow_remote: bool = False

    def check(self) -> None:
        """Raises `ConfigError` for an address that others could reach, unless that was asked for."""
        if not self.uds and not self.allow_remote and not is_loopback(self.host):
            raise ConfigError(
                f"`--host {self.host}` lets other machines in, and whoever gets in spends your keys; "
                "give --allow-remote if that is meant"
            )


def serve(listen: Listen, log_dir: Path, environ: Mapping[str, str]) -> int:
    """Run until a signal; raises `ConfigError` before anything is served."""
    listen.check()
    settings = read_settings(environ)
    if settings.isolation is not Isolation.NONE:
        raise ConfigError(
            f"`CCP_SANDBOX={settings.isolation.value}` cannot be honoured by this build; "
            "unset it and start ccp with `holdfast run --isolation ...`"
        )
    lanes = build_lanes(DEFAULT_POLICY, settings)
    relay = Relay(build_routes(DEFAULT_POLICY, "", "embedded", lanes, settings.via), UsageLog(log_dir))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_serve(relay, listen))
    if listen.uds:
        Path(listen.uds).unlink(missing_ok=True)
    return status


async def _serve(relay: Relay, listen: Listen) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server, where = await _listen(loop, relay, listen)
    sys.stdout.write(f"ccp: listening on {where}\n")
    sys.stdout.flush()
    sweeper = loop.create_task(_sweep(relay))
    await stop.wait()
    server.close()
    await _drain(relay, hurry)
    sweeper.cancel()
    relay.routes.close()
    relay.log.close()
    return 0


async def _listen(
    loop: asyncio.AbstractEventLoop, relay: Relay, listen: Listen
) -> tuple[asyncio.AbstractServer, str]:
    def build() -> ClientConnection:
        return ClientConnection(relay)

    try:
        if listen.uds:
            server = await loop.create_unix_server(build, sock=_bind_unix(Path(listen.uds)), backlog=1024)
            return server, f"unix:{listen.uds}"
        server = await loop.create_server(build, listen.host, listen.port, backlog=1024)
    except OSError as error:
        where = listen.uds or f"{listen.host}:{listen.port}"
        hint = (
            "another program has it; stop that or give another --port"
            if error.errno == errno.EADDRINUSE
            else ""
        )
        raise ConfigError(f"cannot listen on `{where}`: {hint or error.strerror or error}") from error
    host, port = server.sockets[0].getsockname()[:2]
    return server, f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _bind_unix(path: Path) -> socket.socket:
    """A socket left by an earlier run is in the way; anything else with that name is not ours to remove."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"`{path}` is there and is no socket; give another --uds")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock


async def _sweep(relay: Relay) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        relay.sweep()


async def _drain(relay: Relay, hurry: asyncio.Event) -> None:
    """Let answers under way finish, for a while; a second signal cuts that short."""
    relay.draining = True
    for client in tuple(relay.clients):
        client.drain()
    deadline = monotonic() + _DRAIN_SECONDS
    while relay.clients and monotonic() < deadline and not hurry.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), 0.02)
    for client in tuple(relay.clients):
        client.abort(OnUpstreamFailure.ABORT, reset=False)
