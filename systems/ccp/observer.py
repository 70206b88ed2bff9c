"""The observer: looks at a decoded copy of an answer and says what it was. It changes and delays nothing.

    payload -> (gunzip, sniffed) -> events -> the grammar's table -> Observation

It is no stricter than the API's own client: unknown events and deltas pass, a block may have no delta, and
a block that is never closed is the API's own habit when a tool call is cut short, and a stray end of a block is ignored. A stream that does not
fit is relayed all the same and flagged in the usage log.
Sources: the streaming page of the API's documentation; WHATWG HTML 9.2.6 for lines, comments and BOM.
"""

import zlib
from functools import lru_cache
from typing import Protocol, final

import msgspec

__all__ = ["GRAMMAR", "Observation", "Observer", "SseEvents"]

EVENT_LIMIT = 256 * 1024
"""Past this an event's data is skipped: no event that carries usage is anywhere near."""
JSON_LIMIT = 4 * 1024 * 1024
DECODED_LIMIT = 256 * 1024 * 1024

NEW, MESSAGE, BLOCK, ENDING, STOPPED, ERROR = "new", "message", "block", "ending", "stopped", "error"

GRAMMAR: dict[tuple[str, str], str] = {
    (NEW, "message_start"): MESSAGE,
    (NEW, "content_block_stop"): NEW,
    (MESSAGE, "content_block_stop"): MESSAGE,
    (MESSAGE, "content_block_start"): BLOCK,
    (BLOCK, "content_block_delta"): BLOCK,
    (BLOCK, "content_block_start"): BLOCK,
    (BLOCK, "content_block_stop"): MESSAGE,
    (MESSAGE, "message_delta"): ENDING,
    (BLOCK, "message_delta"): ENDING,
    (ENDING, "message_delta"): ENDING,
    (ENDING, "message_stop"): STOPPED,
    (MESSAGE, "message_stop"): STOPPED,
    (BLOCK, "message_stop"): STOPPED,
    (NEW, "error"): ERROR,
    (MESSAGE, "error"): ERROR,
    (BLOCK, "error"): ERROR,
    (ENDING, "error"): ERROR,
}
"""State and event -> next state. An event of the grammar with no entry breaks it; any other is ignored."""

_EVENTS = frozenset(event for _, event in GRAMMAR)
_TELLING = frozenset({"message_start", "message_delta"})


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Ending(msgspec.Struct):
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    """A whole message, `message_start.message`, or count_tokens' answer."""

    usage: _Usage | None = None
    stop_reason: str | None = None
    input_tokens: int | None = None


class _Event(msgspec.Struct):
    message: _Message | None = None
    delta: _Ending | None = None
    usage: _Usage | None = None


_EVENT_DECODER = msgspec.json.Decoder(_Event)
_MESSAGE_DECODER = msgspec.json.Decoder(_Message)


@final
class Observation(msgspec.Struct, frozen=True):
    """What an answer was."""

    grammar: str
    """`ok`, `error` (an error event), `truncated`, `broken: EVENT in STATE`, `none` (no event stream) or
    `unobserved: WHY`."""
    events: int = 0
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


@final
class SseEvents:
    """Bytes of an event stream -> (event name, data) pairs, however they were cut."""

    __slots__ = ("_begun", "_buffer", "_cr", "_skipping")

    def __init__(self) -> None:
        self._buffer = b""
        self._begun = False
        self._cr = False
        self._skipping = False

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events that `data` completes; one that grows past `EVENT_LIMIT` comes without its data."""
        data = self._plain_newlines(data)
        *whole, rest = (self._buffer + data).split(b"\n\n")
        if not self._begun and (whole or len(rest) > 3):
            self._begun = True
            first = whole[0] if whole else rest
            trimmed = first.removeprefix(b"\xef\xbb\xbf")
            if whole:
                whole[0] = trimmed
            else:
                rest = trimmed
        events: list[tuple[str, bytes]] = []
        if self._skipping and whole:
            self._skipping = False
            whole = whole[1:]
        for block in whole:
            events += _event_of(block)
        if self._skipping:
            rest = rest[-1:]
        elif len(rest) > EVENT_LIMIT:
            self._skipping = True
            name = rest[: rest.find(b"\n") + 1]
            events += [(kind, b"") for kind, _ in _event_of(name + b"data:")]
            rest = rest[-1:]
        self._buffer = rest
        return events

    def rest(self) -> list[tuple[str, bytes]]:
        """What stands at the end without its blank line, if its data is whole: the API's client takes it."""
        block, self._buffer = self._buffer.rstrip(b"\n"), b""
        if self._skipping:
            return []
        try:
            return [(name, data) for name, data in _event_of(block) if msgspec.json.decode(data) is not None]
        except (msgspec.DecodeError, RecursionError):
            return []

    def _plain_newlines(self, data: bytes) -> bytes:
        """CR LF and CR as LF, also when the two were cut apart."""
        if self._cr and data[:1] == b"\n":
            data = data[1:]
        if data:
            self._cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def _event_of(block: bytes) -> list[tuple[str, bytes]]:
    """One event, or none for a block of comments or without data."""
    name = ""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return [(name, b"\n".join(data))] if data else []


@final
class _Gunzip:
    """A bounded decoder of gzip, told by its first two bytes and not by a header that may be missing."""

    __slots__ = ("_decoder", "_left", "_sniffed")

    def __init__(self) -> None:
        self._sniffed = b""
        self._decoder: zlib._Decompress | None = None
        self._left = DECODED_LIMIT

    def feed(self, data: bytes) -> bytes:
        """Raises `zlib.error` for broken gzip, `ValueError` past `DECODED_LIMIT`."""
        if self._decoder is None:
            if len(self._sniffed) == 2:
                return data
            start = self._sniffed
            data = start + data
            self._sniffed = data[:2]
            if len(self._sniffed) < 2:
                return b""
            if self._sniffed != b"\x1f\x8b":
                return data
            self._decoder = zlib.decompressobj(31)
        out = self._decoder.decompress(data, self._left)
        self._left -= len(out)
        if self._decoder.unconsumed_tail or self._left <= 0:
            raise ValueError("more than is observed")
        return out


class _Reader(Protocol):
    """What is made of the decoded bytes."""

    def feed(self, data: bytes) -> None:
        """Some decoded bytes."""

    def observation(self) -> Observation:
        """What it was, now that it has ended."""


@final
class _StreamReader:
    """An event stream."""

    __slots__ = ("_broken", "_count", "_ending", "_events", "_usage", "state")

    def __init__(self) -> None:
        self._events = SseEvents()
        self._count = 0
        self._usage = _Usage()
        self._ending: str | None = None
        self._broken = ""
        self.state = NEW

    def feed(self, data: bytes) -> None:
        self._take(self._events.feed(data))

    def _take(self, events: list[tuple[str, bytes]]) -> None:
        for name, text in events:
            self._count += 1
            if name in _EVENTS:
                self._step(name)
            if name in _TELLING and text:
                self._learn(text)

    def _step(self, name: str) -> None:
        following = GRAMMAR.get((self.state, name))
        if following is not None:
            self.state = following
        elif not self._broken:
            self._broken = f"broken: {name} in {self.state}"

    def _learn(self, text: bytes) -> None:
        try:
            event = _EVENT_DECODER.decode(text)
        except (msgspec.DecodeError, RecursionError):
            self._broken = self._broken or "broken: an event's data is not JSON of its kind"
            return
        if event.message is not None:
            self._count_tokens(event.message.usage)
        if event.delta is not None and event.delta.stop_reason is not None:
            self._ending = event.delta.stop_reason
        self._count_tokens(event.usage)

    def _count_tokens(self, usage: _Usage | None) -> None:
        """Counts are running totals: a later one replaces an earlier one."""
        if usage is not None:
            for name in _Usage.__struct_fields__:
                if (count := getattr(usage, name)) is not None:
                    setattr(self._usage, name, count)

    def observation(self) -> Observation:
        self._take(self._events.rest())
        verdict = {STOPPED: "ok", ERROR: "error"}.get(self.state, "truncated")
        return _observation(self._broken or verdict, self._count, self._ending, self._usage)


@final
class _JsonReader:
    """One JSON answer."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > JSON_LIMIT:
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def observation(self) -> Observation:
        if self._size > JSON_LIMIT:
            return Observation("unobserved: more than is observed")
        try:
            message = _MESSAGE_DECODER.decode(b"".join(self._pieces))
        except (msgspec.DecodeError, RecursionError):
            return Observation("none")
        usage = message.usage or _Usage(input_tokens=message.input_tokens)
        return _observation("none", 0, message.stop_reason, usage)


def _observation(grammar: str, events: int, stop_reason: str | None, usage: _Usage) -> Observation:
    return Observation(
        grammar,
        events,
        stop_reason[:64] if stop_reason is not None else None,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_input_tokens,
        usage.cache_read_input_tokens,
    )


@lru_cache(maxsize=64)
def _kind_of(content_type: bytes, content_encoding: bytes) -> tuple[bytes, bool]:
    """The media type without parameters, and whether the coding is one that is decoded here."""
    coding = content_encoding.strip().lower()
    kind = content_type.partition(b";")[0].strip().lower()
    return kind, coding in {b"", b"identity", b"gzip", b"x-gzip"}


@final
class Observer:
    """One answer's observer. Whatever happens in it, `feed` returns and the relay goes on."""

    __slots__ = ("_failed", "_gunzip", "_reader", "_stream")

    def __init__(self, content_type: bytes, content_encoding: bytes) -> None:
        kind, decodable = _kind_of(content_type, content_encoding)
        self._failed = ""
        self._gunzip = _Gunzip()
        self._stream = _StreamReader() if kind == b"text/event-stream" else None
        self._reader: _Reader | None = self._stream or (
            _JsonReader() if kind == b"application/json" else None
        )
        if not decodable:
            self._fail("content coding that is not decoded here")

    @property
    def stopped(self) -> bool:
        """`message_stop` has gone by."""
        return self._stream is not None and self._stream.state == STOPPED

    def feed(self, payload: bytes) -> None:
        """Look at some payload; never raises."""
        if self._reader is None:
            return
        try:
            self._reader.feed(self._gunzip.feed(payload))
        except (zlib.error, ValueError) as error:
            self._fail(type(error).__name__ if isinstance(error, zlib.error) else str(error))

    def observation(self) -> Observation:
        """What the answer was; asked once it has ended, however it ended."""
        if self._failed:
            return Observation(f"unobserved: {self._failed}")
        return self._reader.observation() if self._reader is not None else Observation("none")

    def _fail(self, why: str) -> None:
        self._failed = why
        self._reader = None
