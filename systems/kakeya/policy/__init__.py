"""The policy file: gateway, store and tenants, read whole and refused whole.

    policy.json --load_policy--> Policy(gateway, tenants)      PolicyError names the key at fault

Secrets stand in files beside it. A service that cannot read its policy does not start, and one that runs
keeps the policy it has when a new one is bad.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.systems.kakeya.identity import Expected, GatewayTrust, Verifier, load_keys
from holdfast.systems.kakeya.policy.keys import read_secret
from holdfast.systems.kakeya.policy.reader import PolicyError, Reader
from holdfast.systems.kakeya.policy.tenant import CONTROLS, Mode, Tenant, VrfKey, VrfPolicy, read_tenant
from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

__all__ = [
    "CONTROLS",
    "SCHEMA",
    "Mode",
    "Policy",
    "PolicyError",
    "Tenant",
    "VrfKey",
    "VrfPolicy",
    "load_policy",
]

SCHEMA = "holdfast.kakeya-policy/1"
_SIZE_LIMIT = 4 << 20


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that the service is told, as values."""

    trust: GatewayTrust
    expected: Expected
    window_seconds: float
    verifier: Verifier | None
    """For tokens that come along; None when no `gateway.jwksFile` is named."""
    dedup: str
    tenants: dict[str, Tenant]


def load_policy(path: Path) -> Policy:
    """Read, check and convert; `PolicyError` for anything that is not exactly a policy."""
    try:
        with path.open("rb") as file:
            raw = file.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise PolicyError("policy", f"file `{path}` cannot be read: {error.strerror}") from None
    if len(raw) > _SIZE_LIMIT:
        raise PolicyError("policy", f"file `{path}` is larger than {_SIZE_LIMIT} bytes")
    try:
        top = Reader(parse_object(raw), "")
    except BadJsonError as error:
        raise PolicyError("policy", f"file `{path}` {error}") from None
    top.word("schema", (SCHEMA,), default=SCHEMA)
    policy = _read(top, path.parent)
    top.done()
    return policy


def _read(top: Reader, folder: Path) -> Policy:
    gateway, tenants = top.nested("gateway"), top.nested("tenants")
    expected = Expected(gateway.text("issuer"), gateway.text("audience"))
    policy = Policy(
        trust=_read_trust(gateway, folder),
        expected=expected,
        window_seconds=gateway.number("windowSeconds", 1, 3600, default=60),
        verifier=_read_verifier(gateway, expected, folder),
        dedup=top.text("dedup", default="sqlite"),
        tenants={name: read_tenant(name, tenants.nested(name), folder) for name in tenants.keys()},  # noqa: SIM118 - not a dict
    )
    gateway.done()
    if not policy.tenants:
        raise PolicyError("tenants", "names no tenant, so that every request would be refused")
    if any(t.token is not Mode.OFF for t in policy.tenants.values()) and policy.verifier is None:
        raise PolicyError("gateway.jwksFile", "is missing, while a tenant's `identity.token` asks for tokens")
    return policy


def _read_trust(gateway: Reader, folder: Path) -> GatewayTrust:
    uids, files = gateway.list_of("peerUids"), gateway.list_of("hmacKeyFiles")
    if not all(type(uid) is int and uid >= 0 for uid in uids):
        raise PolicyError("gateway.peerUids", "must hold nothing but user ids")
    if not all(isinstance(file, str) for file in files):
        raise PolicyError("gateway.hmacKeyFiles", "must hold nothing but file names")
    keys = tuple(read_secret("gateway.hmacKeyFiles", folder / file) for file in files)
    try:
        return GatewayTrust(frozenset(uids), keys)
    except ValueError as error:
        raise PolicyError("gateway", f"cannot be trusted: {error}") from None


def _read_verifier(gateway: Reader, expected: Expected, folder: Path) -> Verifier | None:
    name = gateway.text("jwksFile", default="")
    if not name:
        return None
    try:
        return Verifier(load_keys(folder / name), expected)
    except (OSError, ValueError) as error:
        raise PolicyError("gateway.jwksFile", f"is of no use: {error}") from None
