"""HTTP/1.1 heads and bodies: what is read, what is refused, and that no cut of the bytes changes either."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.framing import BrokenFramingError, ChunkedBody, LengthBody
from holdfast.systems.ccp.http1 import (
    BrokenResponseError,
    HeadMemory,
    Limits,
    Request,
    RequestHead,
    RequestReader,
    ResponseReader,
    parse_request_head,
)

LIMITS = Limits(body_bytes=1000, head_bytes=2000, target_bytes=100)
POST = b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Odd:  v \r\n\r\nhello"
CHUNKED = (
    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)


def read_all(pieces: list[bytes], limits: Limits = LIMITS) -> list[Request]:
    """Every request that the pieces hold."""
    reader = RequestReader(limits)
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next_request()) is not None:
            found.append(request)
    return found


def status_of(raw: bytes) -> int:
    """The status of the refusal; 0 when nothing is refused."""
    try:
        read_all([raw])
    except Refusal as refusal:
        # Nothing after a malformed request may be read.
        return refusal.status if refusal.close else -1
    return 0


@pytest.mark.parametrize("message", [POST, CHUNKED], ids=["length", "chunked"])
def test_a_request_reads_the_same_at_every_split_point(message: bytes) -> None:
    whole = read_all([message])
    assert [request.body for request in whole] == [b"hello"]
    for cut in range(1, len(message)):
        assert read_all([message[:cut], message[cut:]]) == whole


@pytest.mark.parametrize("message", [POST, CHUNKED], ids=["length", "chunked"])
def test_a_request_reads_the_same_byte_by_byte(message: bytes) -> None:
    assert read_all([bytes([byte]) for byte in message]) == read_all([message])


@given(st.lists(st.integers(0, len(POST + CHUNKED) * 2), max_size=12))
def test_pipelined_requests_read_the_same_however_they_are_cut(cuts: list[int]) -> None:
    stream = (POST + CHUNKED) * 2
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert [r.body for r in read_all([p for p in pieces if p])] == [b"hello"] * 4


def test_header_order_case_and_inner_blanks_survive() -> None:
    (request,) = read_all([POST])
    assert request.head.fields[2][1] == b"X-Odd"
    assert [name for name, _, _ in request.head.fields] == [b"host", b"content-length", b"x-odd"]
    assert (request.head.path, request.head.query) == ("/v1/messages", b"?beta=true")


H = b"Host: a\r\n"
REFUSED = {
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two-equal-hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
    "bad-host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host-with-path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "empty-host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "version-2": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    "version-1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    "version-lower": (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    "no-version": (b"GET /\r\n" + H + b"\r\n", 400),
    "http-0.9": (b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505),
    "two-blanks": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "bare-lf": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare-lf-in-field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare-cr-in-field": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
    "nul-in-field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0\r\n\r\n", 400),
    "folded": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
    "blank-before-colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "blank-line-start": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "no-colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    "empty-name": (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    "cl-and-te": (
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "te-and-cl": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        400,
    ),
    "te-twice": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "te-gzip-chunked": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "te-xchunked": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "te-identity": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "te-tab": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "te-on-1.0": (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "cl-twice": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    "cl-twice-equal": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    "cl-list": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5, 5\r\n\r\n", 400),
    "cl-plus": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\n", 400),
    "cl-minus": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -5\r\n\r\n", 400),
    "cl-hex": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x5\r\n\r\n", 400),
    "cl-underscore": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\n", 400),
    "cl-empty": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", 400),
    "cl-huge": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "body-too-large": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1001\r\n\r\n", 413),
    "fragment": (b"GET /#x HTTP/1.1\r\n" + H + b"\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", 400),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400),
    "absolute-other-host": (b"GET http://b/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "unknown-expectation": (b"POST / HTTP/1.1\r\n" + H + b"Expect: miracle\r\n\r\n", 417),
    "target-too-long": (b"GET /" + b"x" * 200 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
    "target-without-end": (b"GET /" + b"x" * 3000, 414),
    "head-too-large": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * 2000 + b"\r\n\r\n", 431),
    "head-without-end": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * 2000, 431),
    "h2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "chunk-size-plus": (CHUNKED.replace(b"\r\n2\r\n", b"\r\n+2\r\n"), 400),
    "chunk-size-0x": (CHUNKED.replace(b"\r\n2\r\n", b"\r\n0x2\r\n"), 400),
    "chunk-size-blank": (CHUNKED.replace(b"\r\n2\r\n", b"\r\n 2\r\n"), 400),
    "chunk-size-overflow": (CHUNKED.replace(b"\r\n2\r\n", b"\r\n" + b"f" * 17 + b"\r\n"), 400),
    "chunk-bare-lf": (CHUNKED.replace(b"\r\n2\r\n", b"\r\n2\n"), 400),
    "chunk-too-short": (CHUNKED.replace(b"he\r\n", b"hex\r\n"), 400),
    "chunk-extension-endless": (CHUNKED.replace(b";ext=1", b";" + b"x" * 5000), 400),
    "chunked-body-too-large": (CHUNKED.replace(b"3;ext=1\r\nllo", b"3e9\r\n" + b"x" * 1001), 413),
    "trailer-folded": (CHUNKED.replace(b"Trailer: x\r\n", b"Trailer: x\r\n y\r\n"), 400),
}


@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_strict_http_is_refused(raw: bytes, status: int) -> None:
    assert status_of(raw) == status


ACCEPTED = {
    "absolute-form": b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "leading-blank-line": b"\r\nGET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "http-1.0-without-host": b"GET /v1/models HTTP/1.0\r\n\r\n",
    "host-with-port": b"GET /v1/models HTTP/1.1\r\nHost: localhost:8082\r\n\r\n",
    "host-ipv6": b"GET /v1/models HTTP/1.1\r\nHost: [::1]:8082\r\n\r\n",
    "upgrade-offer": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "latin-1-value": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n",
    "empty-value": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n",
    "continue": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n",
}


@pytest.mark.parametrize("raw", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_unusual_but_right_is_read(raw: bytes) -> None:
    assert [request.head.path for request in read_all([raw])] == ["/v1/models"]


def test_a_client_that_waits_for_100_continue_is_told_once() -> None:
    reader = RequestReader(LIMITS)
    reader.feed(POST.partition(b"\r\n\r\n")[0] + b"\r\nExpect: 100-continue\r\n\r\n")
    assert reader.next_request() is None
    assert reader.wants_continue()
    assert not reader.wants_continue()


@given(st.binary(max_size=300))
def test_no_bytes_whatever_raise_anything_but_a_refusal(data: bytes) -> None:
    assert status_of(data) in {0, 400, 413, 414, 417, 431, 501, 505}


# -- responses ------------------------------------------------------------------------------------------

OK_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@pytest.mark.parametrize(
    "message", [OK_LENGTH, OK_CHUNKED, INTERIM + OK_CHUNKED], ids=["length", "chunked", "interim"]
)
def test_a_response_reads_the_same_at_every_split_point(message: bytes) -> None:
    for cut in range(len(message) + 1):
        reader = ResponseReader("POST", 1000)
        parts = [reader.feed(piece) for piece in (message[:cut], message[cut:]) if piece]
        assert b"".join(payload for _, payload in parts) == b"hello"
        assert message.endswith(b"".join(raw for raw, _ in parts))
        assert reader.done
        assert not reader.surplus


def test_bytes_after_a_response_are_not_part_of_it() -> None:
    reader = ResponseReader("POST", 1000)
    raw, payload = reader.feed(OK_LENGTH + b"HTTP/1.1 200 OK\r\n")
    assert (raw, payload, reader.surplus) == (b"hello", b"hello", True)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_a_body_have_none_whatever_their_length_says(status: bytes) -> None:
    reader = ResponseReader("GET", 1000)
    reader.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    assert reader.done


def test_an_answer_to_head_has_no_body() -> None:
    reader = ResponseReader("HEAD", 1000)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert reader.done


def test_a_response_without_length_ends_with_the_connection_and_only_then() -> None:
    reader = ResponseReader("GET", 1000)
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    assert not reader.done
    assert reader.finish()


@pytest.mark.parametrize("message", [OK_LENGTH, OK_CHUNKED], ids=["length", "chunked"])
def test_a_response_that_ends_early_is_not_whole(message: bytes) -> None:
    for cut in range(1, len(message)):
        reader = ResponseReader("POST", 1000)
        reader.feed(message[:cut])
        assert not reader.finish()


BROKEN = {
    "garbage": b"\x00\x01\x02\r\n\r\n",
    "http-0.9": b"hello\r\n\r\n",
    "version-2": b"HTTP/2 200 OK\r\n\r\n",
    "status-99": b"HTTP/1.1 099 X\r\n\r\n",
    "status-text": b"HTTP/1.1 OK\r\n\r\n",
    "switched": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "cl-and-te": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
    "endless-head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2000,
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_response_is_broken(raw: bytes) -> None:
    with pytest.raises(BrokenResponseError):
        ResponseReader("GET", 1000).feed(raw)


# -- framing --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.integers(1, 7))
def test_chunked_payload_is_what_was_chunked_in_pieces_of_any_size(chunks: list[bytes], step: int) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    body = ChunkedBody()
    payload = b""
    fed = 0
    for at in range(0, len(wire), step):
        piece, consumed = body.feed(wire[at : at + step])
        payload += piece
        fed += consumed
    assert (payload, fed, body.done) == (b"".join(chunks), len(wire), True)


def test_a_length_body_takes_no_byte_too_many() -> None:
    body = LengthBody(3)
    assert body.feed(b"abcd") == (b"abc", 3)
    assert body.done


def test_trailers_without_end_are_cut() -> None:
    body = ChunkedBody()
    body.feed(b"0\r\n")
    with pytest.raises(BrokenFramingError):
        body.feed(b"A: b\r\n" * 4000)


REPEATED = b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nContent-Length: 123\r\nX-Api-Key: k\r\n\r\n"


def remembered(first: bytes, second: bytes) -> RequestHead | None:
    memory = HeadMemory()
    memory.keep(first, parse_request_head(first, Limits()))
    return memory.recall(second)


@given(st.integers(0, 10**15 - 1))
def test_a_head_that_repeats_itself_but_for_its_length_reads_as_if_it_were_parsed(length: int) -> None:
    second = REPEATED.replace(b"123", b"%d" % length)
    recalled = remembered(REPEATED, second)
    assert recalled == parse_request_head(second, Limits())


CHANGES = (b"", b"4", b" ", b"\r", b"\n", b":", b"\x00", b"-", b"44", b", 4", b"+")


def changes_misread(recall: Callable[[bytes, bytes], RequestHead | None]) -> list[bytes]:
    """Every change of one byte after which `recall` answers something else than a parse would."""
    wrong = []
    for at, to in itertools.product(range(len(REPEATED)), CHANGES):
        second = REPEATED[:at] + to + REPEATED[at + 1 :]
        recalled = recall(REPEATED, second)
        if recalled is not None and recalled != parsed(second):
            wrong.append(second)
    return wrong


def parsed(raw: bytes) -> RequestHead | None:
    try:
        return parse_request_head(raw, Limits())
    except Refusal:
        return None


def test_no_other_difference_is_taken_for_a_repetition() -> None:
    assert changes_misread(remembered) == []
    assert remembered(REPEATED, REPEATED) is not None


@pytest.mark.planted
def test_planted_a_memory_that_looks_no_further_than_the_length_is_seen() -> None:
    """It would hand the key of the request before to the one that repeats only the beginning."""

    def careless(first: bytes, second: bytes) -> RequestHead | None:
        return parsed(first) if second.startswith(first[: first.index(b"\r\nX-Api-Key")]) else None

    assert any(b"X-Api-Key: 4" in raw for raw in changes_misread(careless))


def test_repeated_requests_on_one_connection_read_as_each_alone() -> None:
    messages = [
        REPEATED.replace(b"123", b"%d" % size).replace(b": k", key) + b"x" * size
        for size, key in [(5, b": k"), (17, b": k"), (17, b": k"), (3, b": other"), (0, b": other")]
    ]
    assert read_all([b"".join(messages)]) == [request for m in messages for request in read_all([m])]
