"""The driver: a client that sends one request over a real connection and keeps every byte of the answer."""

import contextlib
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import h11

from holdfast import clock
from holdfast.harness.witness import Ledger

__all__ = ["Exchange", "exchange", "new_marker"]

READ_BYTES = 1 << 16
EXCHANGE_SECONDS = 20.0


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it was sent and its answer as it came."""

    marker: bytes
    method: str
    target: str
    model: str
    expected_lane: str
    sent_body: bytes = field(repr=False)
    status: int
    """0 when no answer came."""
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """The answer's, and its trailers behind them."""
    body: bytes = field(repr=False)
    """Without its chunk framing."""
    complete: bool
    """The answer's end was announced, not cut off."""
    ttfb_ms: float | None
    """From the request's last byte to the answer's first."""
    problem: str = ""
    total_ms: float | None = None
    """From the request's last byte to the answer's end."""


def new_marker() -> bytes:
    """A marker for one exchange; the body must hold it."""
    return b"holdfast-exchange-" + secrets.token_hex(8).encode()


def exchange(
    port: int,
    *,
    marker: bytes,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    model: str,
    expected_lane: str,
    ledger: Ledger,
    host: str = "127.0.0.1",
    kept: socket.socket | None = None,
) -> Exchange:
    """Send one request, tell the ledger of each byte that is heard, return the whole exchange; never raises
    for what the proxy does. A `kept` connection is used and left open; else there is one of its own."""
    status, got, complete, first, problem = 0, bytearray(), False, None, ""
    ended = 0.0
    got_headers: tuple[tuple[bytes, bytes], ...] = ()
    conversation = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    deadline = clock.monotonic() + EXCHANGE_SECONDS
    try:
        with (
            contextlib.nullcontext(kept) if kept else socket.create_connection((host, port), EXCHANGE_SECONDS)
        ) as connection:
            connection.settimeout(EXCHANGE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = [("Host", f"{host}:{port}"), *headers.items(), ("Content-Length", str(len(body)))]
            head = conversation.send(h11.Request(method=method, target=target, headers=sent)) or b""
            connection.sendall(head + body)
            conversation.send(h11.Data(data=body))
            conversation.send(h11.EndOfMessage())
            start = clock.monotonic()
            while not complete:
                event = conversation.next_event()
                if event is h11.NEED_DATA:
                    connection.settimeout(max(0.001, deadline - clock.monotonic()))
                    data = connection.recv(READ_BYTES)
                    first = first or clock.monotonic() - start
                    conversation.receive_data(data)
                elif isinstance(event, h11.Response):
                    status, got_headers = event.status_code, tuple(event.headers.raw_items())
                elif isinstance(event, h11.Data):
                    got += event.data
                    ledger.hear(marker, len(got))
                elif isinstance(event, h11.EndOfMessage):
                    complete, ended = True, clock.monotonic() - start
                    got_headers = (*got_headers, *event.headers.raw_items())
                elif isinstance(event, h11.ConnectionClosed):
                    break
    except (OSError, h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Exchange(
        marker,
        method,
        target,
        model,
        expected_lane,
        body,
        status,
        got_headers,
        bytes(got),
        complete,
        None if first is None else first * 1e3,
        problem,
        ended * 1e3 if complete else None,
    )
