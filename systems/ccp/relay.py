"""The data plane: two protocols and the exchange between them. The package's one module of sockets.

    ClientConnection --RequestReader--> Exchange --UpstreamConnection--> upstream
    ClientConnection <--verbatim bytes-- Exchange <--ResponseReader----- upstream

INVARIANTS, each with a test that breaks it:
* the client sees no status before the upstream's first byte, and no byte that the upstream did not send;
* what fails mid-stream is aborted, never ended politely (`OnUpstreamFailure.ABORT`);
* a request is sent again only when its socket was a kept one and nothing came back;
* when the client leaves, the upstream's connection is closed at once;
* the usage line is written before the answer's last byte.
"""

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast, final

import msgspec

from holdfast.clock import monotonic, utc_now
from holdfast.systems.ccp.faults import CredentialLeakError, Refusal, error_body
from holdfast.systems.ccp.framing import BrokenFramingError
from holdfast.systems.ccp.http1 import (
    BrokenResponseError,
    Request,
    RequestHead,
    RequestReader,
    ResponseReader,
)
from holdfast.systems.ccp.lanes import Lane, downstream_head, plan_upstream_head
from holdfast.systems.ccp.origins import Secret
from holdfast.systems.ccp.policy import Policy
from holdfast.systems.ccp.routing import KNOWN_PATHS, Local, Route, decide
from holdfast.systems.ccp.upstream import Pool, UpstreamConnection
from holdfast.systems.ccp.usage import UsageLine, UsageLog

__all__ = ["ClientConnection", "Exchange", "OnUpstreamFailure", "Relay"]

_LINGER_SECONDS = 2.0
_PIPELINE_BYTES = 64 * 1024
_MODEL_SHOWN = 128
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@final
class OnUpstreamFailure(Enum):
    """What happens to a client whose answer has begun and cannot be finished."""

    ABORT = "abort"
    """The connection breaks where the upstream broke. A polite end would look like success."""


class Answering(Protocol):
    """Whatever is busy with a client's request."""

    deadline: float | None

    def cancel(self) -> None:
        """The client has left."""

    def pause(self) -> None:
        """The client reads more slowly than it is written to."""

    def resume(self) -> None:
        """The client has caught up."""

    def expire(self) -> None:
        """The deadline has passed."""


@final
class Relay:
    """What all connections of one process share."""

    def __init__(self, policy: Policy, lanes: Mapping[str, Lane], log: UsageLog, *, via: str = "") -> None:
        self.policy = policy
        self.digest = ""
        self.lanes = lanes
        self.pools = {name: Pool(lane, via) for name, lane in lanes.items()}
        self.secrets: tuple[Secret, ...] = tuple(
            lane.secret for lane in lanes.values() if lane.secret is not None
        )
        self.log = log
        self.clients: set[ClientConnection] = set()
        self.draining = False
        self._stamp = os.urandom(6).hex()
        self._count = 0
        self._probed: tuple[float, dict[str, str]] = (float("-inf"), {})

    def next_request_id(self) -> str:
        """Unique among this and other processes."""
        self._count += 1
        return f"req_ccp_{self._stamp}{self._count:08x}"

    def sweep(self) -> None:
        """Called a few times a second: everything that is past its deadline hears of it."""
        now = monotonic()
        for client in tuple(self.clients):
            client.check_deadline(now)
        for pool in self.pools.values():
            pool.sweep()

    async def probe(self) -> dict[str, str]:
        """Lane -> `ok` or what is wrong with its upstream; asked anew at most every five seconds."""
        when, answer = self._probed
        if monotonic() - when < 5.0:
            return answer
        answer = dict(
            zip(self.pools, await asyncio.gather(*map(self._probe, self.pools.values())), strict=True)
        )
        self._probed = (monotonic(), answer)
        return answer

    async def _probe(self, pool: Pool) -> str:
        try:
            connection = await pool.open(self.policy.timeouts.connect_ms / 1000)
        except OSError as error:
            return f"unreachable ({type(error).__name__})"
        pool.give_back(connection)
        return "ok"


@final
class ClientConnection(asyncio.Protocol):
    """One client's connection: requests in order, one at a time."""

    __slots__ = ("_answering", "_deadline", "_lingering", "_paused", "_reader", "_relay", "transport")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._reader = RequestReader(relay.policy.limits)
        self._answering: Answering | None = None
        self._deadline: float | None = None
        self._paused = False
        self._lingering = False
        self.transport: asyncio.Transport | None = None

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without inheriting from it.
        self.transport = cast("asyncio.Transport", transport)
        self._relay.clients.add(self)
        self._deadline = monotonic() + self._relay.policy.limits.head_seconds
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        was_idle = self._reader.idle
        self._reader.feed(data)
        if self._answering is None:
            if was_idle or self._reader.head is not None:
                self._deadline = monotonic() + self._relay.policy.limits.head_seconds
            self._advance()
        elif self._reader.pending > _PIPELINE_BYTES and self.transport is not None and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A client that closes has left, as for nginx: what it asked for is cancelled."""
        if self._answering is not None:
            self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._relay.clients.discard(self)
        self._leave()

    def pause_writing(self) -> None:
        if self._answering is not None:
            self._answering.pause()

    def resume_writing(self) -> None:
        if self._answering is not None:
            self._answering.resume()

    # what exchanges use
    def write(self, data: bytes) -> None:
        """Hand bytes to the socket."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def answered(self, *, keep: bool) -> None:
        """The answer is written; go on with the next request, or close."""
        self._answering = None
        if not keep or self._relay.draining:
            self.close()
            return
        self._deadline = monotonic() + self._relay.policy.limits.idle_seconds
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        self._advance()

    def abort(self, how: OnUpstreamFailure, *, reset: bool) -> None:
        """Break the connection so that no client can take what it got for the whole."""
        assert how is OnUpstreamFailure.ABORT
        self._answering = None
        if self.transport is None:
            return
        if reset and (sock := self.transport.get_extra_info("socket")) is not None:
            # Without a length or chunks only a reset tells a broken end from a good one.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def close(self) -> None:
        """Close once everything written has left."""
        if self.transport is not None:
            self.transport.close()

    def respond(
        self, status: int, body: bytes, *, request_id: str, kind: str, head_only: bool, close: bool
    ) -> None:
        """Write an answer of our own."""
        raw = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nrequest-id: {request_id}\r\n"
            + ("Connection: close\r\n\r\n" if close else "\r\n")
        ).encode()
        self.write(raw if head_only else raw + body)

    def refuse(self, refusal: Refusal, head: RequestHead | None, request_id: str) -> None:
        """Answer a request with our own error."""
        close = refusal.close or self._relay.draining or head is None or not head.keep_alive
        self.respond(
            refusal.status,
            error_body(refusal, request_id),
            request_id=request_id,
            kind="application/json",
            head_only=head is not None and head.method == "HEAD",
            close=close,
        )
        if refusal.close:
            self._linger()
        else:
            self.answered(keep=not close)

    def check_deadline(self, now: float) -> None:
        """Called by the sweeper."""
        if self._answering is not None:
            if self._answering.deadline is not None and now > self._answering.deadline:
                self._answering.expire()
        elif self._deadline is not None and now > self._deadline:
            self._expire()

    def drain(self) -> None:
        """The process is to end: an idle connection closes now, a busy one after its answer."""
        if self._answering is None and self._reader.idle:
            self.close()

    # inside
    def _advance(self) -> None:
        while self._answering is None and not self._lingering:
            try:
                request = self._reader.next_request()
            except Refusal as refusal:
                self._refuse_unread(refusal)
                return
            if request is None:
                if self._reader.wants_continue():
                    self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._deadline = None
            self._begin(request)

    def _begin(self, request: Request) -> None:
        exchange = Exchange(self._relay, self, request)
        self._answering = exchange
        exchange.begin()

    def hand_over(self, answering: Answering) -> None:
        """Let another answer the request that is under way."""
        self._answering = answering

    def _refuse_unread(self, refusal: Refusal) -> None:
        """The request could not even be read; nothing after it on this connection can be trusted."""
        relay = self._relay
        request_id = relay.next_request_id()
        head = self._reader.head
        relay.log.write(_refused_line(relay, request_id, head, refusal, model=None, size=0, seconds=0.0))
        self.refuse(refusal, head, request_id)

    def _linger(self) -> None:
        """Let the answer arrive: close our half and read on for a while, since closing with unread bytes
        would reset the connection and take the answer with it."""
        self._lingering = True
        self._answering = None
        self._deadline = monotonic() + _LINGER_SECONDS
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def _expire(self) -> None:
        if self._lingering:
            self.abort(OnUpstreamFailure.ABORT, reset=False)
        elif self._reader.idle:
            self.close()
        else:
            self._refuse_unread(Refusal(408, "the request did not arrive in time", close=True))

    def _leave(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.cancel()


@final
class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_client", "_connecting", "_down", "_first_byte", "_head_sent", "_over", "_reader", "_relay", "_request",
        "_request_id", "_response_bytes", "_retried", "_route", "_started", "_ts", "_up", "_upstream", "deadline",
    )  # fmt: skip

    def __init__(self, relay: Relay, client: ClientConnection, request: Request) -> None:
        self._relay = relay
        self._client = client
        self._request = request
        self._request_id = relay.next_request_id()
        self._started = monotonic()
        self._ts = utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._route: Route | None = None
        self._reader = ResponseReader(request.head.method, relay.policy.limits.head_bytes)
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._first_byte: float | None = None
        self._head_sent = False
        self._response_bytes = 0
        self._retried = False
        self._over = False
        self._up = hashlib.sha256()
        self._down = hashlib.sha256()
        self.deadline: float | None = None

    def begin(self) -> None:
        """Decide, and set out."""
        try:
            route = decide(self._request, self._relay.policy)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if isinstance(route, Local):
            self._over = True
            answer = LocalAnswer(self._relay, self._client, self._request.head, self._request_id)
            self._client.hand_over(answer)
            answer.begin(route)
            return
        self._route = route
        kept = self._relay.pools[route.lane].take()
        if kept is not None:
            self._send(kept)
        else:
            self._connect()

    # Answering
    def cancel(self) -> None:
        if not self._over:
            self._end_upstream()
            self._log("client_left", self._status, "the client closed the connection")

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def expire(self) -> None:
        self.deadline = None
        if self._first_byte is None:
            self._fail(504, "the upstream sent no first byte in time")
        else:
            self._fail(502, "the upstream left its response open after `message_stop`")

    # UpstreamUser
    def on_upstream_data(self, data: bytes) -> None:
        if self._first_byte is None:
            self._first_byte = monotonic()
            self.deadline = None
        reader = self._reader
        try:
            raw, payload = reader.feed(data)
        except (BrokenResponseError, BrokenFramingError) as error:
            self._fail(502, f"the upstream's answer is broken: {error}")
            return
        head = reader.head
        if head is None:
            return
        modern = self._request.head.chunks_understood
        out = raw if modern else payload
        if payload:
            self._up.update(payload)
            self._down.update(payload)
            self._response_bytes += len(payload)
        if not self._head_sent:
            self._head_sent = True
            out = downstream_head(head, close=not self._keeps, chunks_understood=modern) + out
        if reader.done:
            self._finish(out)
        elif out:
            self._client.write(out)

    def on_upstream_lost(self) -> None:
        upstream, self._upstream = self._upstream, None
        if self._over:
            return
        reader = self._reader
        if not reader.began and upstream is not None and upstream.reused and not self._retried:
            # The peer closed a kept connection just as it was used again; it cannot have acted on it.
            self._retried = True
            self._connect()
        elif reader.finish():
            self._finish(b"")
        else:
            self._fail(502, "the upstream closed the connection before its answer was whole")

    # inside
    @property
    def _status(self) -> int | None:
        return self._reader.head.status if self._head_sent and self._reader.head is not None else None

    @property
    def _keeps(self) -> bool:
        """Whether the client's connection outlives this answer."""
        head = self._reader.head
        return (
            self._request.head.keep_alive
            and not self._relay.draining
            and (head is None or not head.until_close)
        )

    def _send(self, upstream: UpstreamConnection) -> None:
        assert self._route is not None
        relay = self._relay
        lane = relay.lanes[self._route.lane]
        try:
            planned = plan_upstream_head(lane, self._request.head, len(self._route.body), relay.secrets)
            self._upstream = upstream
            upstream.user = self
            upstream.send(planned, self._route.body)
        except Refusal as refusal:
            upstream.abort()
            self._refuse(refusal)
        except CredentialLeakError:
            upstream.abort()
            self._fail(502, "the proxy stopped a credential from leaving its lane; this is a fault of ccp")
        else:
            self.deadline = monotonic() + relay.policy.timeouts.first_byte_ms / 1000

    def _connect(self) -> None:
        assert self._route is not None
        relay = self._relay
        pool = relay.pools[self._route.lane]
        task = asyncio.get_running_loop().create_task(pool.open(relay.policy.timeouts.connect_ms / 1000))
        self._connecting = task
        task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[UpstreamConnection]") -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if self._over:
                task.result().abort()
            else:
                self._send(task.result())
        elif not self._over:
            slow = isinstance(error, TimeoutError)
            self._fail(504 if slow else 502, "the upstream cannot be reached" + (" in time" if slow else ""))

    def _finish(self, last: bytes) -> None:
        """The answer is whole: log it, then let its last bytes go."""
        assert self._route is not None
        head = self._reader.head
        assert head is not None
        keeps = self._keeps
        self._log("relayed", head.status, None)
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            if head.keep_alive and not self._reader.surplus and not head.until_close:
                upstream.resume()
                self._relay.pools[self._route.lane].give_back(upstream)
            else:
                upstream.abort()
        if last:
            self._client.write(last)
        self._client.answered(keep=keeps)

    def _fail(self, status: int, why: str) -> None:
        """The upstream let us down: our own error while nothing was sent, else a broken connection."""
        self._end_upstream()
        if self._head_sent:
            self._log("aborted", self._status, why)
            bare = not self._request.head.chunks_understood or (
                self._reader.head is not None and self._reader.head.until_close
            )
            self._client.abort(OnUpstreamFailure.ABORT, reset=bare)
            return
        self._log("upstream_failed", status, why)
        self._client.refuse(Refusal(status, why), self._request.head, self._request_id)

    def _refuse(self, refusal: Refusal) -> None:
        self._over = True
        relay = self._relay
        model = self._route.model if self._route is not None else None
        line = _refused_line(
            relay,
            self._request_id,
            self._request.head,
            refusal,
            model=model,
            size=len(self._request.body),
            seconds=monotonic() - self._started,
        )
        relay.log.write(line)
        self._client.refuse(refusal, self._request.head, self._request_id)

    def _end_upstream(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _log(self, outcome: str, status: int | None, error: str | None) -> None:
        self._over = True
        self.deadline = None
        route = self._route
        answered = self._reader.head is not None
        self._relay.log.write(
            UsageLine(
                ts=self._ts,
                request_id=self._request_id,
                method=self._request.head.method,
                path=self._request.head.path,
                model=_shown_model(route.model) if route is not None else None,
                lane=route.lane if route is not None else None,
                status=status,
                outcome=outcome,
                error=error,
                stream=route.stream if route is not None else False,
                request_bytes=len(self._request.body),
                response_bytes=self._response_bytes,
                sha256_upstream=self._up.hexdigest() if answered else None,
                sha256_downstream=self._down.hexdigest() if answered else None,
                first_byte_ms=_ms(self._first_byte - self._started) if self._first_byte is not None else None,
                duration_ms=_ms(monotonic() - self._started),
                retried=self._retried,
                policy=self._relay.digest,
            )
        )


@final
class LocalAnswer:
    """What the proxy says about itself; not in the usage log."""

    __slots__ = ("_client", "_head", "_relay", "_request_id", "_task", "deadline")

    def __init__(self, relay: Relay, client: ClientConnection, head: RequestHead, request_id: str) -> None:
        self._relay = relay
        self._client = client
        self._head = head
        self._request_id = request_id
        self._task: asyncio.Task[dict[str, str]] | None = None
        self.deadline: float | None = None

    def begin(self, local: Local) -> None:
        """Answer now, or once the upstreams have been probed."""
        match local:
            case Local.ROOT | Local.HEALTH:
                self._respond(200, {"status": "ok"})
            case Local.READY:
                self._task = asyncio.get_running_loop().create_task(self._relay.probe())
                self._task.add_done_callback(self._probed)
            case Local.METRICS | Local.USAGE:
                self._respond(404, {"status": "not kept"})

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """An answer of ours is one small write."""

    def resume(self) -> None:
        """See `pause`."""

    def expire(self) -> None:
        """There is no deadline."""

    def _probed(self, task: "asyncio.Task[dict[str, str]]") -> None:
        if task.cancelled():
            return
        relay = self._relay
        upstreams = task.result()
        ready = (
            all(answer == "ok" for answer in upstreams.values()) and not relay.log.lost and not relay.draining
        )
        self._respond(
            200 if ready else 503,
            {
                "status": "ready" if ready else "not ready",
                "upstreams": upstreams,
                "policy": {"version": relay.policy.version, "digest": relay.digest},
                "usage_log": {"lost": relay.log.lost},
                "draining": relay.draining,
            },
        )

    def _respond(self, status: int, body: object) -> None:
        keep = self._head.keep_alive
        self._client.respond(
            status,
            msgspec.json.encode(body),
            request_id=self._request_id,
            kind="application/json",
            head_only=self._head.method == "HEAD",
            close=not keep or self._relay.draining,
        )
        self._client.answered(keep=keep)


def _refused_line(
    relay: Relay, request_id: str, head: RequestHead | None, refusal: Refusal, *, model: str | None, size: int,
    seconds: float,
) -> UsageLine:  # fmt: skip
    return UsageLine(
        ts=utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        request_id=request_id,
        method=head.method if head is not None else "",
        path=head.path if head is not None and head.path in KNOWN_PATHS else "",
        model=_shown_model(model),
        lane=None,
        status=refusal.status,
        outcome="refused",
        error=refusal.message,
        stream=False,
        request_bytes=size,
        response_bytes=0,
        sha256_upstream=None,
        sha256_downstream=None,
        first_byte_ms=None,
        duration_ms=_ms(seconds),
        retried=False,
        policy=relay.digest,
    )


def _shown_model(model: str | None) -> str | None:
    """A model's name as the log keeps it: a name is short; anything else is content and stays out."""
    if model is None or (len(model) <= _MODEL_SHOWN and model.isprintable()):
        return model
    return "(not a name)"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
