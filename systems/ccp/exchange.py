"""One request and its answer: the state between a client's connection and an upstream's.

INVARIANTS, each with a test that breaks it:
* the client sees no status before the upstream's first byte, and no byte that the upstream did not send;
* what fails mid-stream is aborted, never ended politely (`OnUpstreamFailure.ABORT`);
* a request is sent again only when its socket was a kept one and nothing came back;
* when the client leaves, the upstream's connection is closed at once;
* the usage line is written before the answer's last byte.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Protocol, final

from holdfast.clock import monotonic, utc_now
from holdfast.systems.ccp.faults import CredentialLeakError, Refusal
from holdfast.systems.ccp.framing import BrokenFramingError
from holdfast.systems.ccp.http1 import (
    BrokenResponseError,
    Request,
    RequestHead,
    ResponseHead,
    ResponseReader,
)
from holdfast.systems.ccp.lanes import PlannedHead, downstream_head
from holdfast.systems.ccp.observer import Observation, Observer
from holdfast.systems.ccp.routes import Routes
from holdfast.systems.ccp.routing import KNOWN_PATHS, Route
from holdfast.systems.ccp.upstream import BrokerRefusedError, UpstreamConnection
from holdfast.systems.ccp.usage import UsageLine

__all__ = ["Answering", "Client", "Exchange", "OnUpstreamFailure", "Recorder", "refused_line"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_NOTHING = Observation("none")


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


class Client(Protocol):
    """The client's side of an exchange."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket."""

    def answered(self, *, keep: bool) -> None:
        """The answer is written; go on with the next request, or close."""

    def abort(self, how: OnUpstreamFailure, *, reset: bool) -> None:
        """Break the connection."""

    def refuse(self, refusal: Refusal, head: RequestHead | None, request_id: str) -> None:
        """Answer with our own error."""


class Recorder(Protocol):
    """Where a finished exchange is written down."""

    draining: bool

    def record(self, line: UsageLine, then: Callable[[], None]) -> None:
        """Log and count one line, then call `then`: within this turn of the loop, and never before the line
        is written. Never raises."""


@final
class Exchange:
    """One request on its lane, and its answer."""

    __slots__ = (
        "_client", "_connecting", "_down", "_first_byte", "_head_sent", "_observer", "_over", "_planned",
        "_reader", "_recorder", "_request", "_request_id", "_response_bytes", "_retried", "_route", "_routes",
        "_started", "_ts", "_up", "_upstream", "deadline",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        client: Client,
        routes: Routes,
        request: Request,
        route: Route,
        planned: PlannedHead,
        request_id: str,
    ) -> None:
        self._recorder = recorder
        self._client = client
        self._routes = routes
        self._request = request
        self._request_id = request_id
        self._route = route
        self._planned = planned
        self._started = monotonic()
        self._ts = utc_now()
        self._reader = ResponseReader(request.head.method, routes.policy.limits.head_bytes)
        self._observer: Observer | None = None
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
        """Set out on a kept connection, or open one."""
        kept = self._routes.pools[self._route.lane].take()
        if kept is not None:
            self._send(kept)
        else:
            self._connect()

    # Answering
    def cancel(self) -> None:
        if not self._over:
            self._log("client_left", self._status, "the client closed the connection", _nothing)
            self._end_upstream()

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
        try:
            raw, payload = self._reader.feed(data)
        except (BrokenResponseError, BrokenFramingError) as error:
            self._fail(502, f"the upstream's answer is broken: {error}")
            return
        head = self._reader.head
        if head is None:
            return
        out = raw if self._request.head.chunks_understood else payload
        if not self._head_sent:
            out = self._begin_answer(head) + out
        if payload:
            self._up.update(payload)
            self._response_bytes += len(payload)
        if self._reader.done:
            self._finish(out, payload)
        elif out:
            self._deliver(out, payload)
            self._observe(payload)

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
            self._finish(b"", b"")
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
            and not self._recorder.draining
            and (head is None or not head.until_close)
        )

    def _begin_answer(self, head: ResponseHead) -> bytes:
        """The upstream's head has come: from here on there is no clock on the answer."""
        self._first_byte = monotonic()
        self.deadline = None
        self._head_sent = True
        self._observer = Observer(
            _first(head.matters, b"content-type"), _first(head.matters, b"content-encoding")
        )
        return downstream_head(
            head, close=not self._keeps, chunks_understood=self._request.head.chunks_understood
        )

    def _deliver(self, out: bytes, payload: bytes) -> None:
        self._client.write(out)
        self._down.update(payload)

    def _observe(self, payload: bytes) -> None:
        observer = self._observer
        if observer is None or not payload:
            return
        observer.feed(payload)
        if self.deadline is None and observer.stopped:
            # All has been said; an upstream that leaves the line open must not hold the client for ever.
            self.deadline = monotonic() + self._routes.policy.timeouts.after_stop_ms / 1000

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        upstream.user = self
        try:
            upstream.send(self._planned, self._route.body)
        except CredentialLeakError:
            self._fail(502, "the proxy stopped a credential from leaving its lane; this is a fault of ccp")
        else:
            self.deadline = monotonic() + self._routes.policy.timeouts.first_byte_ms / 1000

    def _connect(self) -> None:
        pool = self._routes.pools[self._route.lane]
        opening = pool.open(self._routes.policy.timeouts.connect_ms / 1000)
        self._connecting = asyncio.get_running_loop().create_task(opening)
        self._connecting.add_done_callback(self._connected)

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
            self._fail(*_why_not_connected(error))

    def _finish(self, last: bytes, payload: bytes) -> None:
        """The answer is whole: log it, then let its last bytes go."""
        head = self._reader.head
        assert head is not None
        keeps = self._keeps
        self._observe(payload)
        self._down.update(payload)
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            if head.keep_alive and not self._reader.surplus and not head.until_close and upstream.quiet:
                upstream.resume()
                self._routes.pools[self._route.lane].give_back(upstream)
            else:
                upstream.abort()

        def deliver() -> None:
            if last:
                self._client.write(last)
            self._client.answered(keep=keeps)

        self._log("relayed", head.status, None, deliver)

    def _fail(self, status: int, why: str) -> None:
        """The upstream let us down: our own error while nothing was sent, else a broken connection."""
        self._end_upstream()
        client, head = self._client, self._reader.head
        if self._head_sent:
            bare = not self._request.head.chunks_understood or (head is not None and head.until_close)
            self._log("aborted", self._status, why, lambda: client.abort(OnUpstreamFailure.ABORT, reset=bare))
        else:
            refusal = Refusal(status, why)
            answer = partial(client.refuse, refusal, self._request.head, self._request_id)
            self._log("upstream_failed", status, why, answer)

    def _end_upstream(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _log(self, outcome: str, status: int | None, error: str | None, then: Callable[[], None]) -> None:
        self._over = True
        self.deadline = None
        head, route, request, first_byte = self._reader.head, self._route, self._request, self._first_byte
        now = monotonic()
        seen = self._observer.observation() if self._observer is not None else _NOTHING
        self._recorder.record(
            UsageLine(
                ts=self._ts,
                request_id=self._request_id,
                upstream_request_id=_shown(head.matters, b"request-id") if head is not None else None,
                session_id=_shown(request.head.matters, b"x-claude-code-session-id"),
                method=request.head.method,
                path=request.head.path,
                model=shown_model(route.model),
                lane=route.lane,
                status=status,
                outcome=outcome,
                error=error,
                stream=route.stream,
                request_bytes=len(request.body),
                response_bytes=self._response_bytes,
                sha256_upstream=self._up.hexdigest() if head is not None else None,
                sha256_downstream=self._down.hexdigest() if head is not None else None,
                first_byte_ms=_ms(first_byte - self._started) if first_byte is not None else None,
                duration_ms=_ms(now - self._started),
                retried=self._retried,
                grammar=seen.grammar if head is not None else None,
                events=seen.events,
                stop_reason=_name(seen.stop_reason) if seen.stop_reason is not None else None,
                input_tokens=seen.input_tokens,
                output_tokens=seen.output_tokens,
                cache_creation_input_tokens=seen.cache_creation_input_tokens,
                cache_read_input_tokens=seen.cache_read_input_tokens,
                policy=self._routes.digest,
            ),
            then,
        )


def _nothing() -> None:
    """What is left to do for a client that has gone."""


def refused_line(
    refusal: Refusal, head: RequestHead | None, *, request_id: str, model: str | None, size: int, policy: str
) -> UsageLine:
    """The usage line of a request that never left."""
    known = head is not None and head.path in KNOWN_PATHS
    return UsageLine(
        ts=utc_now(),
        request_id=request_id,
        method=head.method if head is not None else "",
        path=head.path if head is not None and known else "",
        model=shown_model(model),
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
        duration_ms=0.0,
        retried=False,
        grammar=None,
        events=0,
        stop_reason=None,
        input_tokens=None,
        output_tokens=None,
        cache_creation_input_tokens=None,
        cache_read_input_tokens=None,
        policy=policy,
    )


def shown_model(model: str | None) -> str | None:
    """A model's name as the log keeps it: a name is short and plain; anything else is content, and stays out."""
    return model if model is None or _NAME.fullmatch(model) else "(not a name)"


def _why_not_connected(error: BaseException) -> tuple[int, str]:
    if isinstance(error, BrokerRefusedError):
        return 502, "the broker or proxy refuses the upstream's host"
    if isinstance(error, TimeoutError):
        return 504, "the upstream cannot be reached in time"
    if isinstance(error, ssl.SSLError):
        return 502, "the upstream's certificate or TLS is not accepted"
    return 502, "the upstream cannot be reached"


def _first(matters: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    for lower, value in matters:
        if lower == name:
            return value
    return b""


def _shown(matters: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    value = _first(matters, name)
    return _name(value.decode("latin-1")) if value else None


def _name(text: str) -> str | None:
    return text if _NAME.fullmatch(text) else None


def _ms(seconds: float) -> float:
    """Milliseconds to the microsecond; a truncated one, since `round` costs four times as much."""
    return int(seconds * 1e6) / 1e3
