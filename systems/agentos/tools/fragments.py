"""JSON objects out of a log that things have happened to, in constant memory.

    piece (a line, or 1 MiB of one) -- feed --> Found(value) | Unreadable(offset, length)

In the usual case a line is an object and is decoded at once. Otherwise: several objects in one line are
taken apart; an object split over lines is joined; a truncated one is given up when the next line makes sense
by itself; a record that begins in the middle of a torn one is found. BOM, CRLF and blanks are no loss; all
else that cannot be read is counted, NUL bytes too.

Every byte is looked at a bounded number of times, so that no input makes this slow by the square.

INVARIANT: the bytes of all values, of blanks and of all that is `Unreadable` add up to the input.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, final

__all__ = ["PIECE", "Blocks", "Found", "Many", "Reader", "Unreadable", "iter_found"]

T = TypeVar("T")

PIECE = 1 << 20
"""The longest object that is joined from pieces."""
BLOCK = 1 << 18
"""What is read at once."""
TRIES = 32
"""How many places in a line with torn parts are tried for the beginning of a whole record."""
WINDOW = 1 << 16
"""How long such a record may be."""
SEAM = 1 << 12
"""How far the end of an object is looked for by its seam, before braces are counted. These three bound the work
on a hostile line to a multiple of its length."""
_OUTSIDE = re.compile(rb'["{}]')
_INSIDE = re.compile(rb'\\.|["]', re.DOTALL)
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


@final
@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """One object; `mended` when it did not stand alone in its line."""

    value: T
    mended: bool = False


@final
@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    """Objects that each stood alone in their line: the usual case, without a wrapper for each."""

    values: list[T]


@final
@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that are no part of any object."""

    offset: int
    length: int


class Blocks(Protocol):
    """What can be read from: a file, or an archive being unpacked."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@final
@dataclass(slots=True)
class _Scan:
    """Where a scan for an object's end stands: the depth of braces, and whether inside a string."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def find_end(self, raw: bytes, place: int = 0) -> int:
        """Go on over `raw` from `place`; the place behind the brace that closes the object, or -1."""
        if self.escaped and place < len(raw):
            place, self.escaped = place + 1, False
        while match := (_INSIDE if self.quoted else _OUTSIDE).search(raw, place):
            place = match.end()
            match match.group():
                case b'"':
                    self.quoted = not self.quoted
                case b"{":
                    self.depth += 1
                case b"}":
                    self.depth -= 1
                    if self.depth <= 0:
                        return place
                case _:
                    pass
        if self.quoted:
            self.escaped = raw.endswith(b"\\") and place < len(raw)
        return -1


@final
@dataclass(slots=True)
class Reader(Generic[T]):
    """The state between two pieces: an object that has begun and not ended."""

    decode: Callable[[bytes], T]
    """Bytes of a whole object to a value; ValueError or RecursionError for what is none."""
    plausible: Callable[[T], bool] = lambda _: True
    """Whether a value found in the middle of a torn line is a record, and not a part of one."""
    _parts: list[bytes] = field(default_factory=list)
    _begun: int = 0
    _held: int = 0
    _span: int = 0
    _scan: _Scan = field(default_factory=_Scan)

    @property
    def pending(self) -> bool:
        """Whether an object has begun and not ended."""
        return bool(self._parts)

    def feed(self, piece: bytes, offset: int, *, tail: int = 0) -> Iterator[Found[T] | Unreadable]:
        """Read a line without its newline, or a part of one. `tail` is the length of what was cut off behind
        it (the newline), so that places stay those of the file."""
        if not self._parts:
            try:
                yield Found(self.decode(piece))
            except (ValueError, RecursionError):
                yield from self._take_apart(piece, offset, tail)
        else:
            yield from self._join(piece, offset, tail)

    def end(self) -> Iterator[Found[T] | Unreadable]:
        """The input is over: what has begun will not end."""
        if self._parts:
            yield self._give_up()

    def _take_apart(self, raw: bytes, offset: int, tail: int) -> Iterator[Found[T] | Unreadable]:
        place, end, tries = 0, len(raw), TRIES
        while place < end:
            start = self._next_brace(raw, place)
            yield from _unless_blank(raw[place:start], offset + place)
            if start == end:
                return
            close, value = self._first_object(raw, start)
            if value is not None:
                yield Found(value.value, mended=True)
                place = close
                continue
            found, tries = self._inside(raw, start, tries)
            if found is not None:
                begin, after, value = found
                yield Unreadable(offset + start, begin - start)
                yield Found(value.value, mended=True)
                place = after
                continue
            if close < 0:
                self._hold(raw[start:], offset + start, tail)
                return
            yield Unreadable(offset + start, close - start)
            place = close

    def _first_object(self, raw: bytes, start: int) -> tuple[int, Found[T] | None]:
        """The end of the object that begins at `start` (-1: not in here), and its value if it is one."""
        seam = raw.find(b"}{", start, start + SEAM) + 1
        if seam and (value := self._try(raw[start:seam])) is not None:
            return seam, value
        self._scan = _Scan()
        close = self._scan.find_end(raw, start)
        return close, None if close < 0 else self._try(raw[start:close])

    def _inside(self, raw: bytes, start: int, tries: int) -> tuple[tuple[int, int, Found[T]] | None, int]:
        """A record that begins in the middle of a torn line, as when a writer died and the next went on:
        where it begins, where it ends, and what it says; and how many of `tries` are left for this line."""
        held = self._scan
        place = start
        while tries:
            place = raw.find(b'{"', place + 1)
            if place < 0:
                # None from here on, so nobody need look through the rest of the line again.
                tries = 0
                break
            tries -= 1
            length, value = self._first_object(raw[place : place + WINDOW], 0)
            if value is not None and self.plausible(value.value):
                return (place, place + length, value), tries
        self._scan = held
        return None, tries

    def _join(self, raw: bytes, offset: int, tail: int) -> Iterator[Found[T] | Unreadable]:
        close = self._scan.find_end(raw)
        if close >= 0 and (value := self._try(b"".join([*self._parts, raw[:close]]))) is not None:
            self._parts = []
            yield Found(value.value, mended=True)
            yield from self._take_apart(raw[close:], offset + close, tail) if close < len(raw) else ()
            return
        if self._stands_alone(raw):
            yield self._give_up()
            yield from self.feed(raw, offset, tail=tail)
            return
        self._parts.append(raw)
        self._held += len(raw)
        self._span = offset + len(raw) + tail - self._begun
        if close >= 0 or self._held > PIECE:
            yield self._give_up()

    def _stands_alone(self, raw: bytes) -> bool:
        stripped = raw.strip(_BLANK)
        if not stripped.startswith((b"{", _BOM)):
            return False
        first = self._next_brace(stripped, 0)
        seam = stripped.find(b"}{", first) + 1
        whole = self._try(stripped[first:]) or (self._try(stripped[first:seam]) if seam else None)
        return whole is not None and self.plausible(whole.value)

    def _hold(self, raw: bytes, offset: int, tail: int) -> None:
        self._parts, self._begun, self._held = [raw], offset, len(raw)
        self._span = len(raw) + tail

    def _give_up(self) -> Unreadable:
        self._parts = []
        return Unreadable(self._begun, self._span)

    def _try(self, raw: bytes) -> Found[T] | None:
        try:
            return Found(self.decode(raw))
        except (ValueError, RecursionError):
            return None

    @staticmethod
    def _next_brace(raw: bytes, place: int) -> int:
        found = raw.find(b"{", place)
        return len(raw) if found < 0 else found


def iter_found(
    file: Blocks,
    reader: Reader[T],
    advance: Callable[[int], None],
    decode_lines: Callable[[bytes], list[T]] | None = None,
) -> Iterator[Many[T] | Found[T] | Unreadable]:
    """Everything in `file`; `advance` is told the bytes read, block by block.

    `decode_lines` reads many whole lines at once and raises ValueError for any that is not good: the fast
    way, taken whenever nothing is pending and every line of a block is one object.
    """
    rest, place = b"", 0
    while block := file.read(BLOCK):
        advance(len(block))
        block = rest + block
        end = block.rfind(b"\n") + 1
        whole, rest = block[:end], block[end:]
        many = _decode_all(whole, decode_lines) if decode_lines and not reader.pending else None
        if many is not None:
            yield many
        else:
            yield from _feed_lines(whole, place, reader)
        place += end
        if len(rest) >= PIECE:
            yield from reader.feed(rest, place)
            place, rest = place + len(rest), b""
    if rest:
        yield from reader.feed(rest, place)
    yield from reader.end()


def _decode_all(whole: bytes, decode_lines: Callable[[bytes], list[T]]) -> Many[T] | None:
    try:
        values = decode_lines(whole)
    except (ValueError, RecursionError):
        return None
    # As many objects as lines: each stood alone. Else somebody shall count which did not.
    return Many(values) if len(values) == whole.count(b"\n") else None


def _feed_lines(whole: bytes, place: int, reader: Reader[T]) -> Iterator[Found[T] | Unreadable]:
    for line in whole.split(b"\n")[:-1]:
        kept = line[:-1] if line.endswith(b"\r") else line
        yield from reader.feed(kept, place, tail=len(line) - len(kept) + 1)
        place += len(line) + 1


def _unless_blank(raw: bytes, offset: int) -> Iterator[Unreadable]:
    kept = raw.removeprefix(_BOM).strip(_BLANK)
    if kept:
        yield Unreadable(offset + raw.index(kept), len(kept))
