"""The token sample set: bytes, and what must be said of them, for any implementation to check itself against.

python -m tests.systems.kernel.token_samples > docs/TOKEN-SAMPLES.json
"""

import json
import struct
import sys
from dataclasses import replace
from typing import Any

from holdfast.systems.kernel.token_format import HEAD, Token, TokenKey, encode_token

SECRET = bytes(range(32))
OTHER_SECRET = bytes(range(32, 64))
TOKEN = Token(
    id=bytes.fromhex("00112233445566778899aabbccddeeff"), nonce=7, expires=30_000_000_000, uses=3, pid=4242, start=99,
    container="mnt:4026531841", syscall="fs.read", globs=("src/**", "!src/secret/**"),
)  # fmt: skip
FIELDS = {
    "version": (0, 1), "id": (1, 17), "nonce": (17, 25), "expires": (25, 33), "uses": (33, 37), "pid": (37, 45),
    "start": (45, 53), "container": (55, 69), "syscall": (71, 78), "globs": (80, 104),
}  # fmt: skip
"""Where each field's own bytes lie; lengths and counts stand before the last three."""


def samples() -> list[dict[str, Any]]:
    """Name, bytes, and the standing that `check` gives them; all under `SECRET`, at instant 1."""
    key = TokenKey(SECRET)
    good = key.seal(TOKEN)
    body = good[:-32]
    found = [("good", good, "valid")]
    for field, (start, end) in FIELDS.items():
        flipped = bytearray(good)
        flipped[start] ^= 1
        found.append((f"{field} flipped", bytes(flipped), "bad_signature"))
        if end - start > 1:
            turned = good[:start] + good[start:end][::-1] + good[end:]
            found.append((f"{field} reordered", turned, "bad_signature" if turned != good else "valid"))
        found.append((f"truncated before {field}", good[:start], "bad_signature"))
    found += [
        ("mac flipped", good[:-1] + bytes([good[-1] ^ 1]), "bad_signature"),
        ("mac truncated", good[:-1], "bad_signature"),
        ("one byte after", good + b"\0", "bad_signature"),
        ("globs swapped, mac kept", encode_token(replace(TOKEN, globs=TOKEN.globs[::-1] if TOKEN.globs else ())) + good[-32:], "bad_signature"),
        ("empty", b"", "bad_signature"),
        ("wrong key", TokenKey(OTHER_SECRET).seal(TOKEN), "bad_signature"),
        ("wrong version, signed", _signed(key, b"\x02" + body[1:]), "malformed"),
        ("trailing byte, signed", _signed(key, body + b"\0"), "malformed"),
        ("length too long, signed", _signed(key, body[:53] + b"\xff\xff" + body[55:]), "malformed"),
        ("invalid UTF-8, signed", _signed(key, body[:55] + b"\xff" + body[56:]), "malformed"),
        ("no fields after the head, signed", _signed(key, body[: HEAD.size]), "malformed"),
        ("never issued here, signed", key.seal(replace(TOKEN, id=bytes(16))), "unknown"),
        ("never issued and expired, signed", key.seal(replace(TOKEN, id=bytes(16), expires=1)), "expired"),
    ]  # fmt: skip
    return [{"name": name, "bytes": raw.hex(), "standing": standing} for name, raw, standing in found]


def _signed(key: TokenKey, body: bytes) -> bytes:
    return body + key.mac(body)


def document() -> dict[str, Any]:
    """The published file."""
    return {
        "schema": "holdfast.token-samples/1",
        "secret": SECRET.hex(),
        "now": 1,
        "layout": "see systems/kernel/token_format.py; integers big-endian, texts with a u16 length, then 32 bytes of HMAC-SHA256",
        "fields": {
            "version": 1, "id": TOKEN.id.hex(), "nonce": TOKEN.nonce, "expires": TOKEN.expires, "uses": TOKEN.uses,
            "pid": TOKEN.pid, "start": TOKEN.start, "container": TOKEN.container, "syscall": TOKEN.syscall,
            "globs": list(TOKEN.globs or ()),
        },
        "note": "`good` is valid for its peer where a record of it exists; samples that are signed show what is checked after the signature",
        "samples": samples(),
    }  # fmt: skip


if __name__ == "__main__":
    assert HEAD.size == struct.calcsize(">B16sQQIQQ")
    sys.stdout.write(json.dumps(document(), indent=1) + "\n")
