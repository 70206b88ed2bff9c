"""Searching for what must not be there: canaries, in every coat that they could wear.

    search(needles, places) -> Found(name, place, coat), ...          pure

Plain, base64 (at each of its three alignments, both alphabets), hex, percent- and JSON-escaped, inside gzip,
and across the boundaries of chunks. A search is evidence only when it is shown to find: `decoys` are texts
that hide one canary in each coat, and a search that misses one of them cannot tell.
"""

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import final
from urllib.parse import unquote_to_bytes

__all__ = ["Found", "decoys", "search"]

GZIP_MAGIC = b"\x1f\x8b\x08"
MAX_INFLATED = 64 << 20
"""A bomb inside what is searched ends here; what was inflated so far is searched."""

_CHUNK_BOUNDARY = re.compile(rb"\r\n[0-9a-fA-F]{1,8}(?:;[^\r\n]*)?\r\n")
_JSON_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})")


@final
@dataclass(frozen=True, slots=True)
class Found:
    """One canary, where it was, and what it wore; never the canary itself."""

    name: str
    place: str
    coat: str

    def __str__(self) -> str:
        return f"{self.name} in {self.place} ({self.coat})"


def search(needles: Mapping[str, str], places: Iterable[tuple[str, bytes]]) -> tuple[Found, ...]:
    """Every needle in every place; one `Found` for each coat that it was seen in."""
    coats = {name: dict(_coats(value.encode())) for name, value in needles.items()}
    found = []
    for place, text in places:
        for worn, layer in _layers(text):
            folded = layer.lower()
            for name, forms in coats.items():
                found += [
                    Found(name, place, "+".join(filter(None, (worn, coat))) or "plain")
                    for coat, form in forms.items()
                    if (form.lower() in folded if coat == "hex" else form in layer)
                ]
    return tuple(dict.fromkeys(found))


def decoys(canary: str) -> dict[str, bytes]:
    """The same canary in each coat, as a leak would have it; each must be found."""
    plain = canary.encode()
    half = len(plain) // 2
    return {
        "plain": b"x" + plain + b"y",
        "base64": base64.b64encode(b"ab" + plain + b"c"),
        "base64url": base64.urlsafe_b64encode(b"\xff\xfe\xfd" + plain),
        "hex": plain.hex().upper().encode(),
        "percent": "".join(f"%{byte:02X}" for byte in plain).encode(),
        "json": json.dumps({"k": canary}).encode().replace(b"-", b"\\u002d"),
        "gzip": b"head" + gzip.compress(b"log line " + plain) + b"tail",
        "chunks": b"10\r\n" + plain[:half] + b"\r\n8;ext=1\r\n" + plain[half:] + b"\r\n0\r\n\r\n",
        "gzip in chunks": _chunked(gzip.compress(plain * 3), 7),
    }


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _coats(canary: bytes) -> Iterator[tuple[str, bytes]]:
    """What to look for: the canary itself, and the encodings that cannot be undone without knowing where it starts."""
    yield "", canary
    yield "hex", canary.hex().encode()
    for shift in range(3):
        # The characters that mix with the neighbours are cut off; what is left is there wherever it stood.
        encoded = base64.b64encode(b"\0" * shift + canary)
        start = (shift * 8 + 5) // 6
        end = (shift + len(canary)) * 8 // 6
        core = encoded[start:end]
        yield f"base64/{shift}", core
        yield f"base64url/{shift}", core.translate(bytes.maketrans(b"+/", b"-_"))


def _layers(text: bytes) -> Iterator[tuple[str, bytes]]:
    """The text, and what it becomes when a coat is taken off; two deep where coats are worn over each other."""
    seen = {text}
    queue = [("", text)]
    while queue:
        worn, layer = queue.pop()
        yield worn, layer
        if worn.count("+") >= 2:
            continue
        for name, bare in _undressed(layer):
            if bare not in seen:
                seen.add(bare)
                queue.append((f"{worn}+{name}".lstrip("+"), bare))


def _undressed(text: bytes) -> Iterator[tuple[str, bytes]]:
    if b"%" in text:
        yield "percent", unquote_to_bytes(text)
    if b"\\u" in text:
        yield "json", _JSON_ESCAPE.sub(lambda m: chr(int(m[1], 16)).encode("utf-8", "replace"), text)
    if _CHUNK_BOUNDARY.search(b"\r\n" + text):
        yield "chunks", _CHUNK_BOUNDARY.sub(b"", b"\r\n" + text)
    start = text.find(GZIP_MAGIC)
    while start >= 0:
        yield "gzip", _inflate(text[start:])
        start = text.find(GZIP_MAGIC, start + 1)


def _inflate(text: bytes) -> bytes:
    """As much as can be inflated; a cut-off member still gives what it holds."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        return inflater.decompress(text, MAX_INFLATED)
    except zlib.error:
        return b""
