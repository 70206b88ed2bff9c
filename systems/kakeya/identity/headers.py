"""Which headers carry identity, and the one form in which each may be said.

    raw headers -> read_protected -> {name: value}, or a refusal

A name that only reads like a protected one (`X_Jwt_Payload`, `x-jwt.payload`) is refused, not skipped: some
hop behind or before folds `_` to `-`, and then two parties read two tenants out of one request.
"""

import re
from collections.abc import Iterable
from typing import TypeAlias

from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal

__all__ = [
    "NONCE",
    "PAYLOAD",
    "PROTECTED",
    "SIGNATURE",
    "TENANT",
    "TIME",
    "VERIFIED",
    "read_protected",
    "without_protected",
]

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

PAYLOAD, TENANT, VERIFIED = "x-jwt-payload", "x-tenant-id", "x-auth-verified"
TIME, NONCE, SIGNATURE = "x-gateway-time", "x-gateway-nonce", "x-gateway-signature"
PROTECTED = frozenset({PAYLOAD, TENANT, VERIFIED, TIME, NONCE, SIGNATURE})
VALUE_LIMIT = 8192
_SEPARATORS = re.compile("[^a-z0-9]+")
_VISIBLE = re.compile("[\x21-\x7e]*")


def read_protected(headers: RawHeaders) -> dict[str, str]:
    """The protected headers, each at most once, under its exact name (HTTP's case aside), visible ASCII."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        canonical = _SEPARATORS.sub("-", name).strip("-")
        if canonical not in PROTECTED:
            continue
        if name != canonical:
            raise IdentityRefusedError(Refusal.LOOKALIKE_HEADER, canonical)
        if name in found:
            raise IdentityRefusedError(Refusal.DUPLICATE_HEADER, name)
        found[name] = _value(name, raw_value)
    return found


def without_protected(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What the application behind may see: identity reaches it as a value, never as a header."""
    return [(name, value) for name, value in headers if name.decode("latin-1").lower() not in PROTECTED]


def _value(name: str, raw: bytes) -> str:
    value = raw.decode("latin-1").strip(" \t")
    if len(raw) > VALUE_LIMIT or not _VISIBLE.fullmatch(value):
        raise IdentityRefusedError(Refusal.MALFORMED_HEADER, name)
    return value
