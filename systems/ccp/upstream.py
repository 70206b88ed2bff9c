"""Connections to upstreams: opened, kept, handed out again, and the one place that writes a credential.

An `UpstreamConnection` belongs to one origin for life, and writes no head that was planned for another.
Nothing from the environment takes part unless asked for: no proxy variables, no .netrc ever, no redirect is
followed. A broker or a proxy carries bytes (CONNECT); TLS is made here, end to end, and no head goes to either.
"""

import asyncio
import hashlib
import socket
import ssl
from collections import deque
from typing import Any, Protocol, cast, final

from holdfast.clock import monotonic
from holdfast.systems.ccp.faults import CredentialLeakError
from holdfast.systems.ccp.lanes import Lane, PlannedHead
from holdfast.systems.ccp.origins import Origin

__all__ = ["BrokerRefusedError", "Pool", "UpstreamConnection", "UpstreamUser"]

_CONNECT_ANSWER_LIMIT = 4096
_IDLE_KEPT = 128
_JOINED_BYTES = 48 * 1024
"""Up to here a copy costs less than a write of two pieces."""
_IDLE_SECONDS = 30.0


class BrokerRefusedError(ConnectionError):
    """The broker outside the sandbox, or the proxy asked for, does not connect to this host."""


class UpstreamUser(Protocol):
    """Whoever holds a connection: is told what comes back."""

    def on_upstream_data(self, data: bytes) -> None:
        """Some bytes of the answer."""

    def on_upstream_lost(self) -> None:
        """The connection is gone; no more will come."""


@final
class UpstreamConnection(asyncio.Protocol):
    """One connection to one origin."""

    __slots__ = ("idle_since", "origin", "paused", "pool", "reused", "transport", "user")

    def __init__(self, pool: "Pool", origin: Origin) -> None:
        self.pool = pool
        self.origin = origin
        self.user: UpstreamUser | None = None
        self.transport: asyncio.Transport | None = None
        self.reused = False
        self.paused = False
        self.idle_since = 0.0

    def send(self, planned: PlannedHead, body: bytes) -> None:
        """Write one request; `CredentialLeakError` when its head was planned for another origin."""
        if planned.origin != self.origin:
            raise CredentialLeakError(f"a head for {planned.origin} was to be written to {self.origin}")
        assert self.transport is not None
        if len(body) > _JOINED_BYTES:
            self.transport.writelines((planned.raw, body))
        else:
            self.transport.write(planned.raw + body)

    @property
    def quiet(self) -> bool:
        """Nothing of the request is still waiting to be sent (an upstream may answer early)."""
        return self.transport is not None and self.transport.get_write_buffer_size() == 0

    def abort(self) -> None:
        """Close at once, telling nobody: the user has turned away."""
        self.user = None
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Read no more until `resume`: the client is slower than the upstream."""
        if self.transport is not None and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """The other half of `pause`."""
        if self.paused and self.transport is not None and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without inheriting from it.
        self.transport = cast("asyncio.Transport", transport)
        if self.origin.scheme != "http+unix":
            _keep_alive_and_quick(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.user is None:
            self.abort()  # nothing was asked: bytes on an idle connection are not an answer
        else:
            self.user.on_upstream_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.pool.forget(self)
        user, self.user = self.user, None
        if user is not None:
            user.on_upstream_lost()


def _keep_alive_and_quick(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


@final
class Pool:
    """One lane's connections; the one used last is handed out first."""

    def __init__(self, lane: Lane, via: str = "", pin: str = "") -> None:
        self.lane = lane
        self._via = via
        self._pin = pin
        self._idle: deque[UpstreamConnection] = deque()
        self._tls = ssl.create_default_context() if lane.base.origin.scheme == "https" else None
        self.opened = 0
        """Connections opened so far."""
        self.denied = 0
        """Connections that the broker refused."""

    def take(self) -> UpstreamConnection | None:
        """A kept connection that is not known to be gone, or None."""
        oldest = monotonic() - _IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                continue
            if connection.idle_since < oldest:
                connection.abort()
                continue
            connection.reused = True
            return connection
        return None

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer was whole and left nothing behind."""
        connection.user = None
        if len(self._idle) >= _IDLE_KEPT:
            connection.abort()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def sweep(self) -> None:
        """Close what has lain idle for too long."""
        oldest = monotonic() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().abort()

    def close(self) -> None:
        """Close what lies idle; connections in use are their users' to end."""
        while self._idle:
            self._idle.pop().abort()

    async def open(self, seconds: float) -> UpstreamConnection:
        """A new connection; raises `OSError` (`TimeoutError` past `seconds`, TLS failures included)."""
        try:
            async with asyncio.timeout(seconds):
                connection = await self._open()
        except BrokerRefusedError:
            self.denied += 1
            raise
        if self._pin and self._tls is not None and public_key_digest(connection) != self._pin:
            connection.abort()
            raise ssl.SSLError("the upstream's public key is not the one that is pinned")
        self.opened += 1
        return connection

    async def _open(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        origin = self.lane.base.origin
        name = origin.host if self._tls is not None else None

        def build() -> UpstreamConnection:
            return UpstreamConnection(self, origin)

        if origin.scheme == "http+unix":
            return (await loop.create_unix_connection(build, origin.host))[1]
        if not self._via:
            return (
                await loop.create_connection(
                    build, origin.host, origin.port, ssl=self._tls, server_hostname=name
                )
            )[1]
        sock = await _tunnel(loop, self._via, origin)
        create = loop.create_unix_connection if sock.family == socket.AF_UNIX else loop.create_connection
        try:
            return (await create(build, sock=sock, ssl=self._tls, server_hostname=name))[1]
        except BaseException:
            sock.close()
            raise


def public_key_digest(connection: UpstreamConnection) -> str:
    """`sha256:` and the digest of the peer's public key (its SubjectPublicKeyInfo), which outlives renewals."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    assert connection.transport is not None
    certificate = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    key = load_der_x509_certificate(certificate).public_key()
    return f"sha256:{hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"


async def _tunnel(loop: asyncio.AbstractEventLoop, via: str, origin: Origin) -> socket.socket:
    """A socket to the broker (a path) or proxy (`host:port`), with CONNECT to `origin` granted.

    Raises `OSError` when it is not.
    """
    family, address = await _where(loop, via)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        target = origin.hostport
        await loop.sock_sendall(sock, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        await _await_grant(loop, sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


async def _where(loop: asyncio.AbstractEventLoop, via: str) -> tuple[int, Any]:
    if via.startswith("/"):
        return socket.AF_UNIX, via
    host, _, port = via.rpartition(":")
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    return found[0][0], found[0][4]


async def _await_grant(loop: asyncio.AbstractEventLoop, sock: socket.socket, target: str) -> None:
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows the blank line belongs to the tunnel, not to us.
        piece = await loop.sock_recv(sock, 1)
        answer += piece
        if not piece or len(answer) > _CONNECT_ANSWER_LIMIT:
            raise ConnectionError("the broker gave no answer to CONNECT")
    if answer.split(b" ", 2)[1:2] != [b"200"]:
        raise BrokerRefusedError(f"the broker or proxy refuses {target}")
