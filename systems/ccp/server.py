"""`ccp serve`: listeners, signals, the sweeper, policy reloads, and an orderly end."""

import asyncio
import contextlib
import errno
import gc
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, final

import uvloop

from holdfast.clock import monotonic, utc_now
from holdfast.systems.ccp.distribution import Loaded, PolicyStore, load_keys, tightening
from holdfast.systems.ccp.exchange import OnUpstreamFailure
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.listen import Listen, bind_unix
from holdfast.systems.ccp.relay import ClientConnection, Relay
from holdfast.systems.ccp.routes import Routes, build_routes
from holdfast.systems.ccp.settings import Settings, build_lanes, build_vias, read_settings
from holdfast.systems.ccp.surroundings import surroundings_of
from holdfast.systems.ccp.usage import Rotation, UsageLog

__all__ = ["Service", "load_service", "policy_store", "run_service"]

SWEEP_SECONDS = 0.25
DRAIN_SECONDS = 30.0
BACKLOG = 1024


@final
@dataclass(frozen=True, slots=True)
class Service:
    """Everything that serving needs, checked and loaded: what can be wrong has been said by now."""

    settings: Settings
    store: PolicyStore
    loaded: Loaded
    routes: Routes
    log_dir: Path
    rotation: Rotation


def policy_store(settings: Settings, log_dir: Path) -> PolicyStore:
    """Where the policy comes from; its cache and memory lie in the log folder's `policy`."""
    keys = load_keys(Path(settings.policy_keys)) if settings.policy_keys else ()
    return PolicyStore(settings.policy, log_dir / "policy", keys, tightening(settings.environ))


def load_service(environ: Mapping[str, str], log_dir: Path, rotation: Rotation) -> Service:
    """Raises `ConfigError` for whatever is wrong with the surroundings."""
    settings = read_settings(environ)
    store = policy_store(settings, log_dir)
    loaded = store.load(utc_now())
    return Service(settings, store, loaded, _routes(loaded, settings), log_dir, rotation)


def _routes(loaded: Loaded, settings: Settings) -> Routes:
    pack = loaded.pack
    lanes = build_lanes(pack.policy, settings)
    return build_routes(
        pack.policy, pack.digest, loaded.source, lanes, vias=build_vias(lanes, settings), pins=settings.pins
    )


def run_service(service: Service, listen: Listen) -> int:
    """Serve until a signal; 0."""
    log = UsageLog(service.log_dir, service.rotation)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(
            _serve(service, Relay(service.routes, log, surroundings_of(service.settings)), listen)
        )
    log.close()
    if listen.uds and listen.bound is None:
        Path(listen.uds).unlink(missing_ok=True)
    return status


async def _serve(service: Service, relay: Relay, listen: Listen) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_complain)
    stop, hurry, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_end() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_end)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    server, where = await _listen(loop, relay, listen)
    # What is there now lives until the end; collecting it again and again would cost every request.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    if not listen.quiet:
        sys.stdout.write(f"ccp: listening on {where}\n")
        sys.stdout.flush()
    chores = [loop.create_task(_sweep(relay)), loop.create_task(_keep_policy(service, relay, reload))]
    await stop.wait()
    server.close()
    await _drain(relay, hurry)
    for chore in chores:
        chore.cancel()
    relay.routes.close()
    return 0


def _complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A fault of ours in a callback: its kind and place, and none of its text, which could hold a client's."""
    error = context.get("exception")
    place = ""
    if error is not None and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        place = f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    sys.stderr.write(f"ccp: internal error ({type(error).__name__}{place}); please report it\n")


async def _listen(
    loop: asyncio.AbstractEventLoop, relay: Relay, listen: Listen
) -> tuple[asyncio.AbstractServer, str]:
    def build() -> ClientConnection:
        return ClientConnection(relay)

    try:
        if listen.uds:
            server = await loop.create_unix_server(
                build, sock=listen.bound or bind_unix(Path(listen.uds)), backlog=BACKLOG
            )
            return server, f"unix:{listen.uds}"
        server = await loop.create_server(
            build, listen.host, listen.port, backlog=BACKLOG, reuse_port=listen.shared_port or None
        )
    except OSError as error:
        where = listen.uds or f"{listen.host}:{listen.port}"
        taken = error.errno == errno.EADDRINUSE
        hint = "another program has it; stop that or give another --port" if taken else ""
        raise ConfigError(f"cannot listen on `{where}`: {hint or error.strerror or error}") from error
    host, port = server.sockets[0].getsockname()[:2]
    return server, f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _sweep(relay: Relay) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        relay.sweep()


async def _keep_policy(service: Service, relay: Relay, reload: asyncio.Event) -> None:
    """Reload on SIGHUP and when the pack's time is up; what cannot be taken leaves the one before in force."""
    loop = asyncio.get_running_loop()
    loaded = service.loaded
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reload.wait(), _seconds_to_reload(loaded, service, utc_now()))
        reload.clear()
        try:
            fresh = await loop.run_in_executor(None, service.store.load, utc_now())
            if fresh.pack.digest != relay.routes.digest or relay.complaint:
                relay.swap(_routes(fresh, service.settings))
            loaded = fresh
            relay.complaint = ""
        except ConfigError as error:
            relay.complaint = str(error)
            sys.stderr.write(f"ccp: policy not reloaded: {error}\n")
            if loaded.pack.expires is not None and loaded.pack.expires <= utc_now():
                relay.swap(_expired(relay.routes))


def _seconds_to_reload(loaded: Loaded, service: Service, now: datetime) -> float | None:
    """Until the cache is stale or the pack expires; None where only a signal can bring news."""
    if not service.settings.policy:
        return None
    seconds = float(loaded.pack.ttl_seconds)
    if loaded.pack.expires is not None:
        left = (loaded.pack.expires - now).total_seconds()
        seconds = min(seconds, left) if left > 0 else min(seconds, 30.0)
    return max(seconds, 0.05)


def _expired(routes: Routes) -> Routes:
    """The same policy with every lane denied: an expired pack routes nothing."""
    denied = dict.fromkeys(routes.policy.lanes, "the policy has expired and no newer one can be had")
    return replace(routes, policy=replace(routes.policy, denied=denied))


async def _drain(relay: Relay, hurry: asyncio.Event) -> None:
    """Let answers under way finish, for a while; a second signal cuts that short."""
    relay.draining = True
    for client in tuple(relay.clients):
        client.drain()
    deadline = monotonic() + DRAIN_SECONDS
    while relay.clients and monotonic() < deadline and not hurry.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), 0.02)
    for client in tuple(relay.clients):
        client.abort(OnUpstreamFailure.ABORT, reset=False)
    await asyncio.sleep(0)
    relay.flush()
