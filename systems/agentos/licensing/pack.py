"""Packs and keyrings as values: read strictly, once, at the edge."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

import rfc8785

from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.files import read_bounded
from holdfast.systems.agentos.schemas import require_valid
from holdfast.systems.agentos.strict_json import parse_object

__all__ = ["Keyring", "Pack", "TrustedKey", "canonical_payload", "parse_keyring", "parse_pack", "read_file"]

PACK_LIMIT = 64 << 10
_LOW_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""The encodings of points of low order, sign bit off. Under such a key OpenSSL takes a signature of zeros for
payloads that were never signed (RFC 8032, 5.1.7 asks for no check), so no keyring may hold one."""


@final
@dataclass(frozen=True, slots=True)
class Pack:
    """A licence as it was read; nothing about it is verified yet."""

    issuer: str
    license_id: str
    plan: str
    entitlements: frozenset[str]
    not_before: datetime
    expires: datetime
    device: str | None
    """The digest of the one device that it is for, or None for any."""
    key_id: str
    signature: bytes
    signed: bytes
    """The canonical bytes that the signature is about."""


@final
@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, and when its packs are taken."""

    public: bytes
    not_before: datetime | None
    not_after: datetime | None


Keyring = Mapping[str, TrustedKey]


def canonical_payload(payload: dict[str, Any]) -> bytes:
    """The payload's canonical JSON (RFC 8785)."""
    try:
        return rfc8785.dumps(payload)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as problem:
        raise BadInputError(f"the licence has no canonical form: {problem}") from None


def parse_pack(raw: bytes) -> Pack:
    """Read a pack. Duplicate keys, other shapes and unknown fields are refused before anything is signed."""
    value = parse_object(raw, what="the licence", limit=PACK_LIMIT)
    require_valid("licence", value)
    payload, signature = value["payload"], value["signature"]
    return Pack(
        issuer=payload["issuer"],
        license_id=payload["license_id"],
        plan=payload["plan"],
        entitlements=frozenset(payload["entitlements"]),
        not_before=parse_time(payload["not_before"]),
        expires=parse_time(payload["expires"]),
        device=payload.get("device"),
        key_id=signature["key_id"],
        signature=base64.b64decode(signature["value"], validate=True),
        signed=canonical_payload(payload),
    )


def parse_keyring(raw: bytes) -> Keyring:
    """Read a keyring; a key id may stand in it once."""
    value = parse_object(raw, what="the keyring", limit=PACK_LIMIT)
    require_valid("keyring", value)
    keys: dict[str, TrustedKey] = {}
    for entry in value["keys"]:
        if entry["key_id"] in keys:
            raise BadInputError(f"the keyring has two keys named `{entry['key_id']}`; keep one")
        keys[entry["key_id"]] = TrustedKey(
            public=_public_key(entry["key_id"], entry["public"]),
            not_before=parse_time(entry["not_before"]) if "not_before" in entry else None,
            not_after=parse_time(entry["not_after"]) if "not_after" in entry else None,
        )
    return keys


def _public_key(key_id: str, text: str) -> bytes:
    public = base64.b64decode(text, validate=True)
    if public[:31] + bytes([public[31] & 0x7F]) in _LOW_ORDER:
        raise BadInputError(
            f"the key `{key_id}` of the keyring is of low order and signs nothing; replace it"
        )
    return public


def parse_time(text: str) -> datetime:
    """A UTC moment of RFC 3339; the schema has held it to that form."""
    return datetime.fromisoformat(text)


def read_file(path: Path, *, what: str) -> bytes:
    """A pack's or keyring's bytes."""
    return read_bounded(path, what=what, limit=PACK_LIMIT)
