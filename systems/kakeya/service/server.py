"""Bind, serve, stop: uvicorn on sockets that we make, so that each is only what was asked for."""

import asyncio
import fcntl
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvicorn

from holdfast.clock import utc_now
from holdfast.systems.kakeya.identity.peer import PeerAwareProtocol
from holdfast.systems.kakeya.policy import PolicyError
from holdfast.systems.kakeya.service.app import build_app
from holdfast.systems.kakeya.service.engine import Engine
from holdfast.systems.kakeya.service.policy_file import PolicyFile

__all__ = ["serve"]

_BACKLOG = 512
_CONNECTIONS = 256


def serve(
    policy_path: Path, data: Path, *, unix: Path | None, port: int | None, lifeline: Path | None
) -> None:
    """Serve until SIGTERM or SIGINT, or until whoever holds the other end of `lifeline` lets go.

    Raises `PolicyError` or `OSError` before anything is bound when it cannot start.
    """
    policy = PolicyFile(policy_path)
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_sole_owner(data))
        engine = Engine(policy, data, _now)
        stack.callback(engine.close)
        policy.on_error = _reporter(engine)
        sockets = [stack.enter_context(s) for s in _bind(unix, port)]
        app = build_app(policy, engine, now=_now)
        for name in map(_name_of, sockets):
            sys.stderr.write(f"kakeya: listening on {name}\n")
        sys.stderr.flush()
        asyncio.run(_run(app, sockets, lifeline))


@contextmanager
def _sole_owner(data: Path) -> Iterator[None]:
    """Two writers would break one chain of decisions; the kernel lets the lock go when a process dies."""
    with (data / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"`{data}` is in use by another kakeya; stop that one, or name another folder"
            ) from None
        yield


async def _run(app: Callable[..., object], sockets: list[socket.socket], lifeline: Path | None) -> None:
    config = uvicorn.Config(
        app,
        http=PeerAwareProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # they would let a client rewrite its own address
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    watcher = asyncio.create_task(_watch(lifeline, server)) if lifeline else None
    await server.serve(sockets)
    if watcher:
        watcher.cancel()


async def _watch(lifeline: Path, server: uvicorn.Server) -> None:
    """End-of-file is how a process learns that its parent is gone, however that came about."""
    with suppress(OSError):
        reader, _ = await asyncio.open_unix_connection(str(lifeline))
        await reader.read()
    server.should_exit = True


def _bind(unix: Path | None, port: int | None) -> Iterable[socket.socket]:
    """A Unix socket, a loopback port, or both. Other addresses are a gateway's business, not ours."""
    if unix is not None:
        unix.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(unix))
        unix.chmod(0o666)  # who may speak is decided by peer credentials, not by the file
        listener.listen(_BACKLOG)
        yield listener
    if port is not None:
        # The protocol is named, since asyncio sets TCP_NODELAY only where it is, and said again for any other
        # loop: without it an answer's second segment waits 40 ms for the client's delayed ACK of the first.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        yield listener


def _name_of(listener: socket.socket) -> str:
    address = listener.getsockname()
    return str(address) if isinstance(address, str) else f"http://{address[0]}:{address[1]}"


def _reporter(engine: Engine) -> Callable[[PolicyError], None]:
    def report(error: PolicyError) -> None:
        engine.metrics.count("kakeya_policy_errors_total")
        sys.stderr.write(f"kakeya: the new policy is refused, the one before stays in force: {error}\n")

    return report


def _now() -> float:
    return utc_now().timestamp()
