"""DSSE envelopes: Ed25519 over a payload *and* its type, so that neither is read as another's.

    signed bytes = "DSSEv1" SP len(type) SP type SP len(payload) SP payload      (secure-systems-lab/dsse)

`verify` answers the very bytes that were verified; parse those and nothing else. A key id is a hint that
anyone may write, so it selects no key: every trusted key is tried. Which keys are trusted is the caller's
to say; whether a signature is needed must follow from that, never from the data.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.records.canonical import Json, NotCanonicalError, parse_strict

__all__ = ["BadEnvelopeError", "key_id", "pre_authentication", "sign", "verify"]


class BadEnvelopeError(ValueError):
    """No envelope, another payload type, or no signature by a trusted key."""


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """A short name for a key: the first 16 hex digits of its raw bytes' SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> dict[str, Json]:
    """An envelope as a JSON value."""
    signature = key.sign(pre_authentication(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


def verify(envelope: bytes, payload_type: str, trusted: Iterable[Ed25519PublicKey]) -> bytes:
    """The payload, once some trusted key has signed it as `payload_type`; raises `BadEnvelopeError`."""
    fields = _fields(envelope)
    if fields.get("payloadType") != payload_type:
        raise BadEnvelopeError(f"the envelope's payloadType is not `{payload_type}`")
    payload = _decode(fields.get("payload"), "payload")
    entries = fields.get("signatures")
    if not isinstance(entries, list) or not 0 < len(entries) <= 16:
        raise BadEnvelopeError("the envelope carries no signature, or more than 16")
    signatures = [_decode(entry.get("sig") if isinstance(entry, dict) else None, "sig") for entry in entries]
    message = pre_authentication(payload_type, payload)
    if not any(_holds(key, signature, message) for key in trusted for signature in signatures):
        raise BadEnvelopeError("no signature in the envelope is by a trusted key")
    return payload


def _fields(envelope: bytes) -> dict[str, Any]:
    try:
        value = parse_strict(envelope)
    except NotCanonicalError as error:
        raise BadEnvelopeError(f"the envelope is not JSON with one reading: {error}") from error
    if not isinstance(value, dict):
        raise BadEnvelopeError("the envelope is not a JSON object")
    return value


def _decode(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise BadEnvelopeError(f"the envelope's `{what}` is missing or not a string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadEnvelopeError(f"the envelope's `{what}` is not base64") from error


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
