"""Where a body ends: bytes in, payload out, and how many bytes belonged to it.

`feed(data)` takes what has arrived and answers `(payload, consumed)`: `data[:consumed]` is the body as it
stood on the wire (relayed verbatim), `payload` the same without transfer coding, and anything past
`consumed` belongs to the next message. llhttp tells neither boundary nor raw bytes, hence this module.
RFC 9112, sections 6 and 7; stricter than its "should be lenient": bare LF and odd chunk sizes are errors.
"""

import re
from typing import Protocol, final

__all__ = ["Body", "BrokenFramingError", "ChunkedBody", "LengthBody", "UntilCloseBody"]

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_LINE_LIMIT = 4096
_TRAILERS_LIMIT = 16384


class BrokenFramingError(ValueError):
    """The bytes are no body of the kind announced; the connection cannot be used any further."""


class Body(Protocol):
    """One message's body."""

    done: bool
    """True once the last byte of the body has been fed."""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Payload in `data`, and how many of its bytes belong to this body."""


@final
class LengthBody:
    """Exactly `length` bytes (zero for a message without a body)."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        size = len(data)
        if size < self._left:
            self._left -= size
            return data, size
        size = self._left
        self._left = 0
        self.done = True
        return (data if size == len(data) else data[:size]), size


@final
class UntilCloseBody:
    """Everything until the peer closes; only a response may be like this."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, int]:
        return data, len(data)


@final
class ChunkedBody:
    """Chunked transfer coding, trailers included."""

    __slots__ = ("_left", "_line", "_step", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._step: Step = self._size
        self._line = b""
        self._left = 0
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        payload: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and not self.done:
            if self._left:
                step = min(self._left, end - at)
                payload.append(data[at : at + step])
                self._left -= step
                at += step
                continue
            newline = data.find(b"\n", at)
            self._line += data[at : end if newline < 0 else newline + 1]
            if len(self._line) > _LINE_LIMIT:
                raise BrokenFramingError("a chunk's line is longer than 4096 bytes")
            if newline < 0:
                at = end
                break
            at = newline + 1
            line, self._line = self._line, b""
            self._step = self._step(line)
        return (payload[0] if len(payload) == 1 else b"".join(payload)), at

    # Each step takes one whole line and answers the step that follows it.
    def _size(self, line: bytes) -> "Step":
        if not (match := _SIZE.fullmatch(line)):
            raise BrokenFramingError("a chunk's size is malformed")
        self._left = int(match[1], 16)
        return self._chunk_end if self._left else self._trailer

    def _chunk_end(self, line: bytes) -> "Step":
        if line != b"\r\n":
            raise BrokenFramingError("a chunk does not end where its size says")
        return self._size

    def _trailer(self, line: bytes) -> "Step":
        if line == b"\r\n":
            self.done = True
            return self._trailer
        self._trailers += len(line)
        if not _TRAILER.fullmatch(line) or self._trailers > _TRAILERS_LIMIT:
            raise BrokenFramingError("a trailer is malformed or the trailers are too long")
        return self._trailer


class Step(Protocol):
    """A step of the chunked grammar."""

    def __call__(self, line: bytes, /) -> "Step":
        """Take one line, answer what comes next."""
