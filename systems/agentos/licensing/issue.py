"""Issue licences with a development key; and say which device this is.

The private key is a PEM file of mode 0600 on the issuer's machine. It is never read by the adapter.
"""

import base64
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.files import read_bounded, write_atomically
from holdfast.systems.agentos.licensing.pack import canonical_payload
from holdfast.systems.agentos.schemas import require_valid

__all__ = ["device_id", "issue_pack", "keyring_entry", "load_private_key", "make_private_key"]

MACHINE_ID = Path("/etc/machine-id")


def device_id(machine_id: Path = MACHINE_ID) -> str | None:
    """The digest that a licence binds to: of the machine's id, which is itself not to be told to anyone.
    None on a machine that has no id: all of those would otherwise be one device."""
    try:
        raw = machine_id.read_bytes().strip()
    except OSError:
        return None
    if not raw:
        return None
    return hashlib.sha256(b"ccc-device/1\n" + raw).hexdigest()


def make_private_key(path: Path) -> Ed25519PrivateKey:
    """A new development key; an existing file is not overwritten."""
    if path.exists():
        raise BadInputError(f"`{path}` is there already; choose another name for the new key")
    key = Ed25519PrivateKey.generate()
    write_atomically(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """A development key from its PEM file."""
    try:
        key = load_pem_private_key(read_bounded(path, what="the signing key", limit=1 << 14), None)
    except (ValueError, TypeError):
        raise BadInputError(f"`{path}` is no Ed25519 private key in PEM without a pass phrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInputError(f"`{path}` is a private key of another kind; an Ed25519 key is needed")
    return key


def keyring_entry(key_id: str, key: Ed25519PrivateKey) -> dict[str, str]:
    """The key's public half, as a keyring lists it."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"key_id": key_id, "public": base64.b64encode(public).decode()}


def issue_pack(
    key: Ed25519PrivateKey,
    *,
    key_id: str,
    issuer: str,
    license_id: str,
    plan: str,
    entitlements: tuple[str, ...],
    not_before: datetime,
    expires: datetime,
    device: str | None = None,
) -> dict[str, Any]:
    """A signed pack as JSON values, held to its own schema before it is handed out."""
    if expires <= not_before:
        raise BadInputError("the licence would expire before it is valid; check its two times")
    payload: dict[str, Any] = {
        "issuer": issuer,
        "license_id": license_id,
        "plan": plan,
        "entitlements": list(entitlements),
        "not_before": not_before.isoformat(),
        "expires": expires.isoformat(),
    }
    if device is not None:
        payload["device"] = device
    value = base64.b64encode(key.sign(canonical_payload(payload))).decode()
    pack = {
        "schema": "ccc.licence/1",
        "payload": payload,
        "signature": {"alg": "Ed25519", "key_id": key_id, "value": value},
    }
    require_valid("licence", pack)
    return pack
