"""The client's side of the data plane, and what the connections of one process share.

ClientConnection --RequestReader--> Exchange --UpstreamConnection--> upstream
ClientConnection <--verbatim bytes-- Exchange <--ResponseReader----- upstream
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import cast, final

import msgspec

from holdfast.clock import monotonic, utc_now
from holdfast.systems.ccp.exchange import Answering, Exchange, OnUpstreamFailure, refused_line
from holdfast.systems.ccp.faults import Refusal, error_body
from holdfast.systems.ccp.http1 import Request, RequestHead, RequestReader
from holdfast.systems.ccp.lanes import HeadPlan, plan_head
from holdfast.systems.ccp.routes import Routes
from holdfast.systems.ccp.routing import Local, Route, decide
from holdfast.systems.ccp.status import ready_page, usage_page
from holdfast.systems.ccp.surroundings import UNCONFINED, Surroundings, read_counts
from holdfast.systems.ccp.tally import Gauges, Tally, render_metrics
from holdfast.systems.ccp.upstream import Pool
from holdfast.systems.ccp.usage import UsageLine, UsageLog

__all__ = ["ClientConnection", "Relay"]

_LINGER_SECONDS = 2.0
_PIPELINE_BYTES = 64 * 1024
_PROBE_SECONDS = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@final
class Relay:
    """What all connections of one process share."""

    def __init__(self, routes: Routes, log: UsageLog, surroundings: Surroundings = UNCONFINED) -> None:
        self.routes = routes
        self.sandbox = surroundings.sandbox
        self._broker_counts = surroundings.broker_counts
        self.log = log
        self.tally = Tally()
        self.clients: set[ClientConnection] = set()
        self.draining = False
        self.complaint = ""
        """Why the last reload was not taken; the policy before it stands."""
        self._stamp = os.urandom(6).hex()
        self._count = 0
        self._ended: list[tuple[UsageLine, Callable[[], None]]] = []
        self._probed: tuple[float, dict[str, str]] = (float("-inf"), {})

    def swap(self, routes: Routes) -> None:
        """Put another policy in force; exchanges under way end under the one they began with."""
        old, self.routes = self.routes, routes
        self._probed = (float("-inf"), {})
        old.close()

    def record(self, line: UsageLine, then: Callable[[], None]) -> None:
        """Log and count one request, then call `then`; never raises.

        What ends within one turn of the loop is written by one `write`, and only then do the last bytes of
        those answers leave: under load the log's system calls are shared, and the promise is kept.
        """
        self.tally.add(line)
        self._ended.append((line, then))
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what has ended, and let its last bytes go."""
        ended, self._ended = self._ended, []
        if ended:
            self.log.write(*[line for line, _ in ended])
        for _, then in ended:
            then()

    def gauges(self) -> Gauges:
        """What is true now."""
        return Gauges(
            in_flight=sum(client.busy for client in self.clients),
            connections=len(self.clients),
            lines_lost=self.log.lost,
            log_failing=self.log.failing,
            policy_version=self.routes.policy.version,
            denied_hosts=sum(pool.denied for pool in self.routes.pools.values()),
            decisions=read_counts(self._broker_counts),
        )

    def next_request_id(self) -> str:
        """Unique among this and other processes."""
        self._count += 1
        return f"req_ccp_{self._stamp}{self._count:08x}"

    def sweep(self) -> None:
        """Called a few times a second: everything that is past its deadline hears of it."""
        now = monotonic()
        for client in tuple(self.clients):
            client.check_deadline(now)
        for pool in self.routes.pools.values():
            pool.sweep()

    async def probe(self) -> dict[str, str]:
        """Lane -> `ok` or what is wrong with its upstream; asked anew at most every five seconds."""
        when, answer = self._probed
        if monotonic() - when < _PROBE_SECONDS:
            return answer
        pools = self.routes.pools
        answers = await asyncio.gather(*map(self._probe, pools.values()))
        answer = dict(zip(pools, answers, strict=True))
        self._probed = (monotonic(), answer)
        return answer

    async def _probe(self, pool: Pool) -> str:
        try:
            connection = await pool.open(self.routes.policy.timeouts.connect_ms / 1000)
        except OSError as error:
            return f"unreachable ({type(error).__name__})"
        pool.give_back(connection)
        return "ok"


@final
class ClientConnection(asyncio.Protocol):
    """One client's connection: requests in order, one at a time."""

    __slots__ = (
        "_advancing",
        "_answering",
        "_deadline",
        "_lingering",
        "_paused",
        "_plan",
        "_reader",
        "_relay",
        "transport",
    )

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._reader = RequestReader(relay.routes.policy.limits)
        self._answering: Answering | None = None
        self._plan: HeadPlan | None = None
        self._deadline: float | None = None
        self._paused = False
        self._lingering = False
        self._advancing = False
        self.transport: asyncio.Transport | None = None

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without inheriting from it.
        self.transport = cast("asyncio.Transport", transport)
        self._relay.clients.add(self)
        self._deadline = monotonic() + self._relay.routes.policy.limits.head_seconds
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
                self._deadline = monotonic() + self._relay.routes.policy.limits.head_seconds
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

    @property
    def busy(self) -> bool:
        """A request is being answered."""
        return self._answering is not None

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
        self._deadline = monotonic() + self._relay.routes.policy.limits.idle_seconds
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
        # What did come goes out first; a client that does not read it is not waited for.
        self._lingering = True
        self._deadline = monotonic() + _LINGER_SECONDS
        self.transport.close()

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
        """Begin requests while nothing is being answered. A loop, not a recursion: what is answered at once
        comes back here through `answered`, and a pipelining client must not choose our stack's depth."""
        if self._advancing:
            return
        self._advancing = True
        while self._answering is None and not self._lingering and not self._closing:
            try:
                request = self._reader.next_request()
            except Refusal as refusal:
                self._refuse(refusal, self._reader.head, size=0)
                break
            if request is None:
                if self._reader.wants_continue():
                    self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            self._deadline = None
            self._begin(request)
        self._advancing = False

    @property
    def _closing(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def _begin(self, request: Request) -> None:
        relay = self._relay
        routes = relay.routes
        try:
            route = decide(request, routes.policy)
            if isinstance(route, Local):
                local = LocalAnswer(relay, self, request.head, relay.next_request_id())
                self._answering = local
                local.begin(route)
                return
            planned = self._plan_head(routes, route, request.head).fill(len(route.body))
        except Refusal as refusal:
            self._refuse(refusal, request.head, size=len(request.body))
            return
        exchange = Exchange(relay, self, routes, request, route, planned, relay.next_request_id())
        self._answering = exchange
        exchange.begin()

    def _plan_head(self, routes: Routes, route: Route, head: RequestHead) -> HeadPlan:
        """The head for the request's lane; the last one again when this client repeats itself."""
        lane = routes.lanes[route.lane]
        plan = self._plan
        if plan is None or not plan.holds_for(lane, head, routes.secrets):
            self._plan = plan = plan_head(lane, head, routes.secrets)
        return plan

    def _refuse(self, refusal: Refusal, head: RequestHead | None, *, size: int) -> None:
        """Answer a request that never left, and log it."""
        relay = self._relay
        request_id = relay.next_request_id()
        digest = relay.routes.digest
        self._answering = _Refusing()
        relay.record(
            refused_line(refusal, head, request_id=request_id, model=None, size=size, policy=digest),
            partial(self.refuse, refusal, head, request_id),
        )

    def _linger(self) -> None:
        """Let the answer arrive: close our half and read on for a while, since closing with unread bytes
        would reset the connection and take the answer with it."""
        self._lingering = True
        self._answering = None
        self._deadline = monotonic() + _LINGER_SECONDS
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def _expire(self) -> None:
        if self._lingering and self.transport is not None:
            self.transport.abort()
        elif self._reader.idle:
            self.close()
        else:
            late = Refusal(408, "the request did not arrive in time", close=True)
            self._refuse(late, self._reader.head, size=0)

    def _leave(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.cancel()


@final
class _Refusing:
    """A refusal is on its way; there is nothing to cancel."""

    __slots__ = ()
    deadline: float | None = None

    def cancel(self) -> None:
        """Nothing was begun."""

    def pause(self) -> None:
        """A refusal is one small write."""

    def resume(self) -> None:
        """See `pause`."""

    def expire(self) -> None:
        """There is no deadline."""


@final
class LocalAnswer:
    """What the proxy answers by itself; not in the usage log."""

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
        relay = self._relay
        match local:
            case Local.ROOT | Local.HEALTH:
                self._respond_json(200, {"status": "ok"})
            case Local.READY:
                self._task = asyncio.get_running_loop().create_task(relay.probe())
                self._task.add_done_callback(self._probed)
            case Local.METRICS:
                text = render_metrics(relay.tally, relay.gauges())
                self._respond(200, text, "text/plain; version=0.0.4; charset=utf-8")
            case Local.USAGE:
                self._respond_json(200, usage_page(relay.tally, relay.log, utc_now()))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """An answer of ours is one small write."""

    def resume(self) -> None:
        """See `pause`."""

    def expire(self) -> None:
        """There is no deadline: the probe has its own."""

    def _probed(self, task: "asyncio.Task[dict[str, str]]") -> None:
        if not task.cancelled():
            relay = self._relay
            page = ready_page(
                relay.routes,
                relay.log,
                task.result(),
                complaint=relay.complaint,
                draining=relay.draining,
                sandbox=relay.sandbox,
            )
            self._respond_json(*page)

    def _respond_json(self, status: int, body: object) -> None:
        self._respond(status, msgspec.json.encode(body), "application/json")

    def _respond(self, status: int, body: bytes, kind: str) -> None:
        keep = self._head.keep_alive
        self._client.respond(
            status,
            body,
            request_id=self._request_id,
            kind=kind,
            head_only=self._head.method == "HEAD",
            close=not keep or self._relay.draining,
        )
        self._client.answered(keep=keep)
