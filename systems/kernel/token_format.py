"""The bytes of a capability token: one canonical encoding, and a MAC over all of it.

    0   u8   version, 1                 45  u64  start time of the peer, clock ticks
    1   16   token id, a UUID           53  str  container
    17  u64  nonce                          str  syscall
    25  u64  expiry, monotonic ns           u16  number of globs, 0xFFFF: the call names no path
    33  u32  uses                           str  each glob
    37  u64  peer's pid                     32   HMAC-SHA256 over every byte before it

Integers are big-endian; `str` is a u16 length and that many bytes of UTF-8. Each field has exactly one
encoding and nothing may follow, so equal tokens are equal bytes and the MAC leaves nothing out.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final, final

__all__ = ["MAC_BYTES", "VERSION", "Token", "TokenFormatError", "TokenKey", "decode_token", "encode_token"]

VERSION: Final = 1
MAC_BYTES: Final = 32
HEAD: Final = struct.Struct(">B16sQQIQQ")
NO_PATH: Final = 0xFFFF
MAX_TOKEN: Final = 65_536


class TokenFormatError(ValueError):
    """The bytes are not the encoding of a token; the message names the field."""


@final
@dataclass(frozen=True, slots=True)
class Token:
    """What a token grants, to whom, until when, how often."""

    id: bytes
    nonce: int
    expires: int
    """Monotonic nanoseconds; at this instant it is already expired."""
    uses: int
    pid: int
    start: int
    container: str
    syscall: str
    globs: tuple[str, ...] | None
    """None: the call names no path. `()`: grants nothing at all."""


@final
class TokenKey:
    """A secret that makes and checks MACs; prepared once, so a check costs one hash state's copy."""

    __slots__ = ("_state",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MAC_BYTES:
            raise ValueError(f"a token key has at least {MAC_BYTES} bytes")
        self._state = hmac.new(secret, digestmod=hashlib.sha256)

    def mac(self, body: bytes) -> bytes:
        """HMAC-SHA256 of `body`."""
        state = self._state.copy()
        state.update(body)
        return state.digest()

    def seal(self, token: Token) -> bytes:
        """The token's bytes with their MAC."""
        body = encode_token(token)
        return body + self.mac(body)

    def signed(self, sealed: bytes) -> bool:
        """Whether the MAC holds, in constant time."""
        return hmac.compare_digest(self.mac(sealed[:-MAC_BYTES]), sealed[-MAC_BYTES:])


def encode_token(token: Token) -> bytes:
    """The canonical encoding without MAC; raises `TokenFormatError` for what it cannot hold."""
    try:
        head = HEAD.pack(VERSION, token.id, token.nonce, token.expires, token.uses, token.pid, token.start)
    except struct.error as error:
        raise TokenFormatError(f"a number is out of range: {error}") from None
    if len(token.id) != 16:
        raise TokenFormatError("token id is not 16 bytes")
    globs = token.globs
    if globs is not None and len(globs) >= NO_PATH:
        raise TokenFormatError(f"{len(globs)} globs; at most {NO_PATH - 1}")
    count = struct.pack(">H", NO_PATH if globs is None else len(globs))
    body = b"".join((head, _text(token.container), _text(token.syscall), count, *map(_text, globs or ())))
    if len(body) + MAC_BYTES > MAX_TOKEN:
        raise TokenFormatError(f"token of more than {MAX_TOKEN} bytes")
    return body


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 0xFFFF:
        raise TokenFormatError("a text is longer than 65535 bytes")
    return struct.pack(">H", len(raw)) + raw


def decode_token(sealed: bytes) -> Token:
    """Read the fields of bytes whose MAC is checked elsewhere; raises `TokenFormatError`."""
    if not HEAD.size + MAC_BYTES < len(sealed) <= MAX_TOKEN:
        raise TokenFormatError(f"{len(sealed)} bytes are no token")
    version, *numbers = HEAD.unpack_from(sealed)
    if version != VERSION:
        raise TokenFormatError(f"version {version}; this kernel speaks {VERSION}")
    reader = _Reader(sealed[:-MAC_BYTES], HEAD.size)
    container, syscall = reader.text("container"), reader.text("syscall")
    count = reader.number("number of globs")
    globs = None if count == NO_PATH else tuple(reader.text("glob") for _ in range(count))
    reader.refuse_rest()
    token_id, nonce, expires, uses, pid, start = numbers
    return Token(token_id, nonce, expires, uses, pid, start, container, syscall, globs)


class _Reader:
    """A cursor over length-prefixed fields."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def _take(self, size: int, field: str) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise TokenFormatError(f"truncated in {field}")
        self._at += size
        return taken

    def number(self, field: str) -> int:
        return int.from_bytes(self._take(2, field))

    def text(self, field: str) -> str:
        try:
            return self._take(self.number(field), field).decode()
        except UnicodeDecodeError:
            raise TokenFormatError(f"{field} is not UTF-8") from None

    def refuse_rest(self) -> None:
        if self._at != len(self._data):
            raise TokenFormatError(f"{len(self._data) - self._at} bytes after the last field")
