"""Witnesses record exact bytes and stream in lockstep; the driver keeps every byte of the answer."""

import socket

import pytest

from holdfast.harness.driver import Exchange, exchange, new_marker
from holdfast.harness.witness import Ledger, Reply, Witness, reply_headers

STREAM = Reply(
    200, reply_headers({"content-type": "text/event-stream"}), (b"one\n\n", b"two\n\n", b"three\n\n")
)


def ask(witness: Witness, ledger: Ledger, **changes: object) -> Exchange:
    marker = new_marker()
    told: dict[str, object] = {
        "marker": marker,
        "method": "POST",
        "target": "/v1/messages",
        "headers": {"X-Api-Key": "k"},
        "body": b'{"m": "' + marker + b'"}',
        "model": "m",
        "expected_lane": "zai",
        "ledger": ledger,
    }
    return exchange(witness.port, **(told | changes))  # type: ignore[arg-type]


def test_a_stream_reaches_a_direct_client_in_lockstep() -> None:
    ledger = Ledger()
    with Witness("zai", lambda *_: STREAM, ledger) as witness:
        seen = ask(witness, ledger)
    (capture,) = witness.captures
    assert (seen.status, seen.body, seen.complete) == (200, b"one\n\ntwo\n\nthree\n\n", True)
    assert capture.stalled_after is None
    assert capture.sent == seen.body


def test_the_capture_has_the_exact_bytes_of_the_request() -> None:
    ledger = Ledger()
    with Witness("zai", lambda *_: STREAM, ledger) as witness:
        seen = ask(witness, ledger)
    (capture,) = witness.captures
    assert capture.raw.startswith(b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Api-Key: k\r\n" in capture.raw
    assert capture.raw.endswith(seen.sent_body)
    assert capture.header("x-api-key") == ("k",)
    assert capture.marker == seen.marker


def test_a_client_that_says_nothing_of_what_it_heard_is_a_stall() -> None:
    """The fault that a buffering proxy shows, without a proxy."""
    deaf, ledger = Ledger(), Ledger()
    with Witness("zai", lambda *_: STREAM, ledger) as witness:
        seen = ask(witness, deaf)
    assert seen.complete
    assert witness.captures[0].stalled_after == 0


def test_several_requests_on_one_connection_are_kept_apart() -> None:
    ledger = Ledger()
    quick = Reply(200, reply_headers({}), (b"ok",), lockstep=False)
    with (
        Witness("zai", lambda *_: quick, ledger) as witness,
        socket.create_connection(("127.0.0.1", witness.port)) as client,
    ):
        for number in range(3):
            client.sendall(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += client.recv(4096)
    assert [c.target for c in witness.captures] == ["/0", "/1", "/2"]
    assert all(c.raw.startswith(b"POST /") and c.raw.endswith(b"hi") for c in witness.captures)


@pytest.mark.parametrize(
    "nonsense",
    [b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 70_000 + b"\r\n"],
    ids=["binary", "no-host", "long"],
)
def test_what_is_not_http_is_noted_and_ends_that_connection_only(nonsense: bytes) -> None:
    ledger = Ledger()
    with Witness("zai", lambda *_: STREAM, ledger) as witness:
        with socket.create_connection(("127.0.0.1", witness.port)) as client:
            client.sendall(nonsense)
            while client.recv(4096):
                pass
        assert ask(witness, ledger).status == 200
        assert len(witness.problems) == 1


def test_a_port_where_nobody_listens_is_a_problem_and_never_an_exception() -> None:
    ledger = Ledger()
    with Witness("zai", lambda *_: STREAM, ledger) as witness:
        port = witness.port
    closed = ask(witness, ledger)
    assert (closed.status, closed.complete) == (0, False)
    assert "ConnectionRefusedError" in closed.problem, port
