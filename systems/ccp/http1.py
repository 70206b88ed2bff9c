"""HTTP/1.1 messages, sans-IO: feed bytes, take values.

llhttp (through httptools) parses the heads. It is lenient where a gateway may not be, so each head must
also match a strict grammar first: no bare CR or LF, no folding, no blank before a colon, versions 1.0 and
1.1 only. What two parsers read alike cannot be smuggled past either.
Sources: RFC 9112 sections 2.2, 3, 5, 6, 9; RFC 9110 sections 7.2, 10.1.1.
"""

import re
from collections.abc import Sequence
from typing import final

import httptools
import msgspec

from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.framing import (
    Body,
    BrokenFramingError,
    ChunkedBody,
    LengthBody,
    UntilCloseBody,
)

__all__ = [
    "BrokenResponseError",
    "Field",
    "HeadMemory",
    "Kin",
    "Limits",
    "Request",
    "RequestHead",
    "RequestReader",
    "ResponseHead",
    "ResponseReader",
    "connection_names",
    "field_values",
    "parse_request_head",
    "parse_response_head",
]

Field = tuple[bytes, bytes, bytes]
"""One header field: its name in lower case, its name as it came, its value."""

_TCHAR = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_FIELDS = rb"(?:" + _TCHAR + rb"++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+\r\n"
_REQUEST = re.compile(_TCHAR + rb"++ [\x21-\x7e]++ HTTP/1\.[01]\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + _FIELDS)
_ANY_VERSION = re.compile(rb"[^\r\n]* HTTP/[0-9](?:\.[0-9])?\r\n")
_SUPPORTED_VERSION = re.compile(rb"[^\r\n]* HTTP/1\.[01]\r\n")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_LENGTH_LINE = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_REMEMBERED_BYTES = 8 * 1024
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_NONE: frozenset[bytes] = frozenset()
_NO_BODY = frozenset({204, 304})


@final
class Limits(msgspec.Struct, frozen=True):
    """What one request may take of us."""

    body_bytes: int = 32 * 1024 * 1024
    head_bytes: int = 64 * 1024
    target_bytes: int = 8 * 1024
    head_seconds: float = 10.0
    """From the first byte of a head to its last; also the longest pause inside a request's body."""
    idle_seconds: float = 120.0
    """How long a kept connection may lie unused."""


@final
class Kin:
    """A token told apart by identity, that takes no part in whether two heads are equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kin)

    def __hash__(self) -> int:
        return 0


@final
class RequestHead(msgspec.Struct, frozen=True):
    """A request's line and fields, checked."""

    method: str
    path: str
    query: bytes
    """With its `?`, or empty; relayed, never logged."""
    block: bytes
    """The fields as they came: each as `LF name: value CR`, without the last line's LF."""
    keep_alive: bool
    chunks_understood: bool
    """False for an HTTP/1.0 client, which knows no chunked coding."""
    matters: tuple[tuple[bytes, bytes], ...]
    """Lower-case name and value of the fields that the proxy reads itself."""
    hop: frozenset[bytes]
    """Lower-case names that `Connection` lists."""
    kin: Kin = msgspec.field(default_factory=Kin)
    """The same object in heads of one connection that differ in the value of `Content-Length` only."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field, taken apart anew."""
        return split_block(self.block)


@final
class Request(msgspec.Struct, frozen=True):
    """A whole request; the body is the client's own bytes, without transfer coding."""

    head: RequestHead
    body: bytes


@final
class ResponseHead(msgspec.Struct, frozen=True):
    """An upstream's status line and fields."""

    status: int
    reason: bytes
    block: bytes
    """The fields as they came: each as `LF name: value CR`, without the last line's LF."""
    keep_alive: bool
    until_close: bool
    """The body ends with the connection: there is no other sign of its end."""
    matters: tuple[tuple[bytes, bytes], ...]
    """Lower-case name and value of the fields that the proxy reads itself."""
    hop: frozenset[bytes]
    """Lower-case names that `Connection` lists."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field, taken apart anew."""
        return split_block(self.block)


class BrokenResponseError(ValueError):
    """The upstream's bytes are no HTTP response."""


_MATTERS = re.compile(
    rb"\n(connection|content-length|transfer-encoding|host|expect|content-type|content-encoding|request-id"
    rb"|authorization|x-api-key|cookie|x-claude-code-session-id):[ \t]*([^\r]*)",
    re.IGNORECASE,
)
"""The fields that the proxy itself reads, picked out of a block by one pass; the rest is never taken apart."""


@final
class _Collector:
    """What llhttp's callbacks deliver of one head; fields are not asked for, since they are relayed as lines."""

    __slots__ = ("reason", "url")
    on_message_begin = on_header = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = None
    # Said outright, since the parser asks for each by name, and a name that is not there costs more.

    def __init__(self) -> None:
        self.url = b""
        self.reason = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason


def split_block(block: bytes) -> tuple[Field, ...]:
    """A block's fields, taken apart."""
    parts = [line.rstrip(b"\r").partition(b":") for line in block.split(b"\n")[1:]]
    return tuple((name.lower(), name, value.strip(b" \t")) for name, _, value in parts)


def _matters(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple([(name.lower(), value.rstrip(b" \t")) for name, value in _MATTERS.findall(block)])


def field_values(matters: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of `name` (lower case), in order."""
    return [value for lower, value in matters if lower == name]


def connection_names(matters: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The lower-case names that `Connection` lists; they concern one hop only."""
    for lower, _ in matters:
        if lower == b"connection":
            break
    else:
        return _NONE
    listed = field_values(matters, b"connection")
    return frozenset(name.strip().lower() for value in listed for name in value.split(b","))


def _framing(matters: Sequence[tuple[bytes, bytes]]) -> tuple[list[bytes], list[bytes]]:
    """The values of `Content-Length`, and of `Transfer-Encoding`."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for lower, value in matters:
        if lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            codings.append(value)
    return lengths, codings


def parse_request_head(raw: bytes, limits: Limits) -> RequestHead:
    """The head that ends with `raw`'s blank line; raises `Refusal` for anything but strict HTTP/1."""
    line_end = raw.find(b"\r\n")
    if line_end > limits.target_bytes + 32:
        raise Refusal(414, f"the request target is longer than {limits.target_bytes} bytes", close=True)
    if not _REQUEST.fullmatch(raw):
        if _ANY_VERSION.match(raw) and not _SUPPORTED_VERSION.match(raw):
            raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", close=True)
        raise Refusal(400, "the request's head is malformed", close=True)
    collected = _Collector()
    parser = httptools.HttpRequestParser(collected)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade may be ignored (RFC 9110, 7.8); the field is dropped with its hop
    except httptools.HttpParserError as error:
        raise Refusal(400, "the request's head is malformed", close=True) from error
    block = raw[line_end + 1 : -3]
    matters = _matters(block)
    modern = parser.get_http_version() == "1.1"
    host = _check_host(matters, modern=modern)
    path, query = _split_target(collected.url, host)
    hop = connection_names(matters)
    return RequestHead(
        method=parser.get_method().decode(),
        path=path,
        query=query,
        block=block,
        keep_alive=modern and b"close" not in hop,
        chunks_understood=modern,
        matters=matters,
        hop=hop,
    )


def _check_host(matters: Sequence[tuple[bytes, bytes]], *, modern: bool) -> bytes:
    hosts = field_values(matters, b"host")
    if len(hosts) > 1:
        raise Refusal(400, "the request has more than one Host field", close=True)
    if not hosts:
        if modern:
            raise Refusal(400, "the request has no Host field", close=True)
        return b""
    if not _HOST.fullmatch(hosts[0]):
        raise Refusal(400, "the request's Host field is not a host", close=True)
    return hosts[0]


def _split_target(target: bytes, host: bytes) -> tuple[str, bytes]:
    """Path and query of an origin-form or absolute-form target."""
    if target[:7].lower() == b"http://":
        authority, slash, rest = target[7:].partition(b"/")
        if authority.lower() != host.lower():
            raise Refusal(400, "the request's target and its Host field name different hosts", close=True)
        target = slash + rest
    if not target.startswith(b"/") or b"#" in target:
        raise Refusal(400, "the request's target is not a path", close=True)
    path, mark, query = target.partition(b"?")
    return path.decode("ascii"), mark + query


def request_body(head: RequestHead, limits: Limits) -> Body:
    """How the body that follows `head` is framed; raises `Refusal` for every ambiguous shape."""
    lengths, codings = _framing(head.matters)
    if codings:
        if lengths:
            raise Refusal(400, "Content-Length and Transfer-Encoding are both there", close=True)
        if not head.chunks_understood:
            raise Refusal(400, "Transfer-Encoding is not part of HTTP/1.0", close=True)
        if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise Refusal(501, "the only transfer coding known is `chunked`, once", close=True)
        return ChunkedBody()
    if not lengths:
        return LengthBody(0)
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Refusal(400, "Content-Length is not one number", close=True)
    return _sized_body(int(lengths[0]), limits)


def _sized_body(length: int, limits: Limits) -> LengthBody:
    if length > limits.body_bytes:
        raise _too_large(limits)
    return LengthBody(length)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the request's body is larger than {limits.body_bytes} bytes", close=True)


@final
class HeadMemory:
    """The last head of a kept connection, since clients repeat themselves but for `Content-Length`.

    A head that differs from one that was checked in those digits alone is checked as well: the grammar, and
    every question asked of a head but that for its length, read the other bytes.
    """

    __slots__ = ("_after", "_before", "_head", "_index", "digits")

    def __init__(self) -> None:
        self.digits = b""
        """The length of the head that was recalled last."""
        self._before = b""
        self._after = b""
        self._head: RequestHead | None = None
        self._index = 0

    def keep(self, raw: bytes, head: RequestHead) -> None:
        """Remember `head`, which `raw` was parsed to and which passed every check."""
        self._head = None
        names = [name for name, _ in head.matters]
        places = list(_LENGTH_LINE.finditer(raw)) if len(raw) <= _REMEMBERED_BYTES else []
        if len(places) == 1 and names.count(b"content-length") == 1:
            start, end = places[0].span(1)
            self._before, self._after = raw[:start], raw[end:]
            self._head, self._index = head, names.index(b"content-length")

    def recall(self, raw: bytes) -> RequestHead | None:
        """What parsing `raw` would give, or None when it is not the same head again."""
        head, before, after = self._head, self._before, self._after
        if head is None or not (raw.startswith(before) and raw.endswith(after)):
            return None
        digits = raw[len(before) : len(raw) - len(after)]
        if not _LENGTH.fullmatch(digits):
            return None
        self.digits = digits
        index = self._index
        if head.matters[index][1] == digits:
            return head
        line_end = raw.find(b"\r\n")
        return RequestHead(
            head.method,
            head.path,
            head.query,
            raw[line_end + 1 : -3],
            head.keep_alive,
            head.chunks_understood,
            (*head.matters[:index], (b"content-length", digits), *head.matters[index + 1 :]),
            head.hop,
            head.kin,
        )


@final
class RequestReader:
    """One client connection's bytes -> requests, one after the other."""

    __slots__ = ("_body", "_buffer", "_head", "_limits", "_memory", "_pieces", "_size", "_told_continue")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = b""
        self._memory = HeadMemory()
        self._reset()

    def _reset(self) -> None:
        self._head: RequestHead | None = None
        self._body: Body | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._told_continue = False

    @property
    def idle(self) -> bool:
        """No byte of a request is waiting for the rest of it."""
        return self._head is None and not self._buffer

    @property
    def pending(self) -> int:
        """Bytes fed and not yet taken; what a pipelining client makes us hold."""
        return len(self._buffer) + self._size

    @property
    def head(self) -> RequestHead | None:
        """The head of the request whose body is still arriving."""
        return self._head

    def feed(self, data: bytes) -> None:
        """Add what has arrived; nothing is parsed before it is asked for."""
        self._buffer = self._buffer + data if self._buffer else data

    def wants_continue(self) -> bool:
        """True once for a request whose client waits for `100 Continue` before it sends the body."""
        if self._head is None or self._told_continue or self._size or self._buffer:
            return False
        self._told_continue = True
        return any(v.strip().lower() == b"100-continue" for v in field_values(self._head.matters, b"expect"))

    def next_request(self) -> Request | None:
        """The next whole request, or None until more is fed; raises `Refusal`, after which it is spent."""
        if self._head is None and not (self._buffer and self._read_head()):
            return None
        return self._read_body()

    def _read_head(self) -> bool:
        limits = self._limits
        # A client may send an empty line between requests (RFC 9112, 2.2).
        while self._buffer[:2] == b"\r\n":
            self._buffer = self._buffer[2:]
        end = self._buffer.find(b"\r\n\r\n")
        size = len(self._buffer) if end < 0 else end + 4
        if size > limits.head_bytes:
            line_end = self._buffer.find(b"\r\n")
            if line_end < 0 or line_end > limits.target_bytes + 32:
                raise Refusal(
                    414, f"the request target is longer than {limits.target_bytes} bytes", close=True
                )
            raise Refusal(431, f"the request's head is larger than {limits.head_bytes} bytes", close=True)
        if end < 0:
            return False
        raw = self._buffer[:size]
        self._buffer = self._buffer[size:]
        head = self._memory.recall(raw)
        if head is not None:
            self._head = head
            self._body = _sized_body(int(self._memory.digits), limits)
            return True
        self._head = head = parse_request_head(raw, limits)
        self._body = request_body(head, limits)
        if any(v.strip().lower() != b"100-continue" for v in field_values(head.matters, b"expect")):
            raise Refusal(417, "the only expectation known is `100-continue`", close=True)
        self._memory.keep(raw, head)
        return True

    def _read_body(self) -> Request | None:
        assert self._head is not None
        assert self._body is not None
        if self._buffer:
            try:
                payload, consumed = self._body.feed(self._buffer)
            except BrokenFramingError as error:
                raise Refusal(400, str(error), close=True) from error
            self._buffer = self._buffer[consumed:] if consumed < len(self._buffer) else b""
            if payload:
                self._size += len(payload)
                self._pieces.append(payload)
                if self._size > self._limits.body_bytes:
                    raise _too_large(self._limits)
        if not self._body.done:
            return None
        pieces = self._pieces
        request = Request(self._head, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._reset()
        return request


@final
class ResponseReader:
    """One upstream exchange's bytes -> its head, then its body; interim responses are skipped.

    `feed` answers `(raw, payload)`: what to relay of the body, and the same without transfer coding.
    """

    __slots__ = ("_body", "_buffer", "_head_bytes", "_method", "head", "surplus")

    def __init__(self, method: str, head_bytes: int) -> None:
        self._method = method
        self._head_bytes = head_bytes
        self._buffer = b""
        self._body: Body | None = None
        self.head: ResponseHead | None = None
        self.surplus = False
        """The upstream sent more than its answer; the connection cannot be trusted with another."""

    @property
    def done(self) -> bool:
        """The whole response has been fed."""
        return self._body is not None and self._body.done

    @property
    def began(self) -> bool:
        """Anything at all has come back."""
        return self.head is not None or bool(self._buffer)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Raises `BrokenResponseError` or `BrokenFramingError` when the bytes are no response."""
        if self._body is None:
            self._buffer += data
            while self.head is None:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0 and len(self._buffer) <= self._head_bytes:
                    return b"", b""
                if end < 0 or end > self._head_bytes:
                    raise BrokenResponseError("the response's head is too large or has no end")
                self._take_head(self._buffer[: end + 4])
                self._buffer = self._buffer[end + 4 :]
            data, self._buffer = self._buffer, b""
        assert self._body is not None
        if self._body.done:
            self.surplus = self.surplus or bool(data)
            return b"", b""
        payload, consumed = self._body.feed(data)
        if consumed == len(data):
            return data, payload
        self.surplus = True
        return data[:consumed], payload

    def finish(self) -> bool:
        """The upstream closed; answers whether the response is whole."""
        if self.head is not None and self.head.until_close and self._body is not None:
            self._body.done = True
        return self.done

    def _take_head(self, raw: bytes) -> None:
        head = parse_response_head(raw)
        if head.status == 101:
            raise BrokenResponseError("the upstream switched protocols unasked")
        if head.status >= 200:
            body = response_body(head, self._method)
            self.head = (
                msgspec.structs.replace(head, until_close=True) if isinstance(body, UntilCloseBody) else head
            )
            self._body = body


def parse_response_head(raw: bytes) -> ResponseHead:
    """The head that ends with `raw`'s blank line; raises `BrokenResponseError`."""
    if not _RESPONSE.fullmatch(raw):
        raise BrokenResponseError("the response's head is malformed")
    collected = _Collector()
    parser = httptools.HttpResponseParser(collected)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BrokenResponseError("the response's head is malformed") from error
    block = raw[raw.index(b"\r\n") + 1 : -3]
    matters = _matters(block)
    hop = connection_names(matters)
    keep_alive = parser.get_http_version() == "1.1" and b"close" not in hop
    return ResponseHead(parser.get_status_code(), collected.reason, block, keep_alive, False, matters, hop)


def response_body(head: ResponseHead, method: str) -> Body:
    """How the response's body is framed (RFC 9112, 6.3); raises `BrokenResponseError` on ambiguity."""
    if method == "HEAD" or head.status in _NO_BODY:
        return LengthBody(0)
    lengths, codings = _framing(head.matters)
    if codings:
        if lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise BrokenResponseError("the response's framing is ambiguous")
        return ChunkedBody()
    if not lengths:
        return UntilCloseBody()
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BrokenResponseError("the response's Content-Length is not one number")
    return LengthBody(int(lengths[0]))
