"""Witnesses: real HTTP servers that stand in for the upstreams, record exact bytes, and stream in lockstep.

    driver ──request with a marker──> proxy ──> witness
       └───────────── Ledger: "I have heard n bytes of <marker>" ─────────────┘

A witness that streams in lockstep sends an event only after the client has heard the one before, so a proxy
that buffers is caught by order, never by timing alone. Captures stay in memory.
"""

import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self, final

import h11

from holdfast import clock

__all__ = ["MARKER", "Capture", "Ending", "Ledger", "Reply", "Witness"]

MARKER = re.compile(rb"holdfast-exchange-[0-9a-f]{16}")
"""What a driver writes into each request's body, so that both ends speak of the same exchange."""

MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20
IDLE_SECONDS = 30.0
LOCKSTEP_SECONDS = 3.0
IMPATIENT_SECONDS = 0.1
"""How long an event may take to be heard; less once a proxy has been caught holding one back."""
READ_BYTES = 1 << 16


@final
class Ledger:
    """How much of each exchange the client has heard; written by the driver, waited on by witnesses."""

    def __init__(self) -> None:
        self._heard: dict[bytes, int] = {}
        self._changed = threading.Condition()

    def hear(self, marker: bytes, total: int) -> None:
        """The client has `total` bytes of the body."""
        with self._changed:
            self._heard[marker] = total
            self._changed.notify_all()

    def wait_heard(self, marker: bytes, total: int, seconds: float) -> bool:
        """Wait until the client has at least `total` bytes; False when it has not within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._heard.get(marker, 0) >= total, timeout=seconds)


@final
class Ending(Enum):
    """How an answer ends."""

    WHOLE = "whole"
    """With the end that its framing announces."""
    CUT = "cut"
    """The connection closes where the events end, without one."""


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """A scripted answer."""

    status: int
    """0: none at all; the connection closes once the request is there."""
    headers: tuple[tuple[str, str], ...]
    events: tuple[bytes, ...]
    """The body in pieces, each sent as one chunk."""
    lockstep: bool = True
    ending: Ending = Ending.WHOLE


@final
@dataclass(frozen=True, slots=True)
class Capture:
    """One request as it arrived, and what was answered; exact bytes."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """As they stood on the wire, names in their own case."""
    body: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    """Everything that the connection carried up to the end of this request, framing included."""
    marker: bytes | None
    status: int
    sent: bytes = field(repr=False)
    """The body that was answered, without its chunk framing."""
    stalled_after: int | None
    """The event that the client did not hear before the next was due; None when it heard each in time."""
    arrived: float
    """Monotonic seconds."""
    whole: bool = True
    """Whether the answer was ended as its framing announces."""

    def header(self, name: str) -> tuple[str, ...]:
        """Every value of a header, whatever its case."""
        wanted = name.lower().encode()
        return tuple(value.decode("latin-1") for key, value in self.headers if key.lower() == wanted)


@final
class Witness:
    """One upstream on loopback; a thread a connection, all ended by `close`."""

    def __init__(self, name: str, script: Callable[[str, str, bytes], Reply], ledger: Ledger) -> None:
        self.name = name
        self._script, self._ledger = script, ledger
        self._patience = LOCKSTEP_SECONDS
        self._captures: list[Capture] = []
        self._problems: list[str] = []
        self._fragments: list[bytes] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name=f"witness-{name}", daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        """The base URL that a proxy is pointed at."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def captures(self) -> tuple[Capture, ...]:
        """All requests so far, in the order of their completion."""
        with self._lock:
            return tuple(self._captures)

    @property
    def fragments(self) -> tuple[bytes, ...]:
        """What arrived and was no whole request: a line that is not HTTP, a request that was never finished."""
        with self._lock:
            return tuple(self._fragments)

    @property
    def problems(self) -> tuple[str, ...]:
        """Requests that were not HTTP, or broke off."""
        with self._lock:
            return tuple(self._problems)

    def close(self) -> None:
        """Stop listening and hang up."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        with self._lock:
            connections = tuple(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._accepting.join(timeout=IDLE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        """Serve requests on one connection until it closes; what is not HTTP is noted."""
        connection.settimeout(IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(connection)
        try:
            while (request := conversation.next_request()) is not None:
                self._answer(conversation, *request)
                if not conversation.start_over():
                    return
        except (OSError, h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            with self._lock:
                self._problems.append(f"{type(error).__name__}: {error}")
        finally:
            left = conversation.take_raw()
            with self._lock:
                self._connections.discard(connection)
                if left:
                    self._fragments.append(left)
            connection.close()

    def _answer(self, conversation: "_Conversation", request: h11.Request, body: bytes) -> None:
        method, target = request.method.decode(), request.target.decode("latin-1")
        found = MARKER.search(body)
        marker = found.group() if found else None
        reply = self._script(method, target, body)
        arrived = clock.monotonic()
        raw, stalled, whole = conversation.take_raw(), None, False
        try:
            stalled = self._send(conversation, reply, marker)
            whole = reply.ending is Ending.WHOLE
        finally:
            # Stands in the list before the last byte leaves, so that whoever has the answer can look it up;
            # and also when the peer hangs up before the answer: a request that arrived has arrived.
            capture = Capture(
                method,
                target,
                tuple(request.headers.raw_items()),
                body,
                raw,
                marker,
                reply.status,
                b"".join(reply.events),
                stalled,
                arrived,
                whole,
            )
            with self._lock:
                self._captures.append(capture)
        match reply.ending:
            case Ending.WHOLE:
                conversation.finish()
            case Ending.CUT:
                conversation.cut = True

    def _send(self, conversation: "_Conversation", reply: Reply, marker: bytes | None) -> int | None:
        """Head, then event by event; returns the first event that was not heard in time."""
        if not reply.status:
            return None
        conversation.send(h11.Response(status_code=reply.status, headers=list(reply.headers)))
        stalled, total = None, 0
        for index, event in enumerate(reply.events):
            conversation.send(h11.Data(data=event))
            total += len(event)
            waits = reply.lockstep and marker is not None and stalled is None
            if waits and not self._ledger.wait_heard(marker or b"", total, self._patience):
                stalled, self._patience = index, IMPATIENT_SECONDS
        return stalled


class _Conversation:
    """h11 over one socket, keeping every byte that arrived."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._raw = bytearray()
        self.cut = False
        """Nothing more is to be said on this connection."""

    def next_request(self) -> tuple[h11.Request, bytes] | None:
        """The next request with its whole body; None when the peer has closed in between."""
        request, body = None, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._feed()
            elif isinstance(event, h11.Request):
                request = event
                if self._h11.they_are_waiting_for_100_continue:
                    self.send(h11.InformationalResponse(status_code=100, headers=[]))
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise h11.RemoteProtocolError("the body is larger than a witness takes")
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, bytes(body)
            elif isinstance(event, h11.ConnectionClosed):
                return None

    def send(self, event: "h11.Event") -> None:
        if data := self._h11.send(event):
            self._connection.sendall(data)

    def finish(self) -> None:
        self.send(h11.EndOfMessage())

    def take_raw(self) -> bytes:
        raw, self._raw = bytes(self._raw), bytearray()
        return raw

    def start_over(self) -> bool:
        """Ready for another request; False when the connection must close."""
        if self.cut or self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is h11.MUST_CLOSE:
            return False
        self._h11.start_next_cycle()
        return True

    def _feed(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except ConnectionResetError:
            data = b""
        self._raw += data
        self._h11.receive_data(data)


def reply_headers(extra: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers of a scripted answer that streams."""
    return (("transfer-encoding", "chunked"), *extra.items())
