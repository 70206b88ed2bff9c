"""A folder to start from: a policy with one tenant, fresh keys, and a client that signs as the policy says.

`Client` is what examples, benches and tests speak with; a real gateway and a real producer do the same.
"""

import base64
import itertools
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from holdfast.systems.kakeya import ecvrf
from holdfast.systems.kakeya.identity import base64url, sign_stamp
from holdfast.systems.kakeya.pcs import canonical, parse_body, pcs_id_of, sign
from holdfast.systems.kakeya.policy import SCHEMA

__all__ = ["AUDIENCE", "ISSUER", "TENANT", "Client", "lay_out", "open_client"]

ISSUER, AUDIENCE, TENANT = "https://issuer.example", "kakeya", "acme"
_UNSIGNED = base64.b64encode(bytes(32)).decode()


@final
@dataclass(frozen=True, slots=True)
class Client:
    """Producer and gateway in one: signs summaries, proves, and stamps requests."""

    gateway_key: bytes = field(repr=False)
    signing_key: bytes = field(repr=False)
    vrf_key: bytes = field(repr=False)
    now: Callable[[], float]
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def stamp(self, claims: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Fresh gateway headers; `claims` replace those of a good token key by key, None values remove."""
        payload = self.payload(claims or {})
        time, nonce = str(int(self.now())), secrets.token_urlsafe(18)
        return {
            "x-jwt-payload": payload,
            "x-gateway-time": time,
            "x-gateway-nonce": nonce,
            "x-gateway-signature": sign_stamp(self.gateway_key, time, nonce, payload),
        }

    def payload(self, claims: Mapping[str, Any]) -> str:
        """The payload header's value."""
        good = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "exp": int(self.now()) + 300,
            "tenant_id": TENANT,
            "sub": "demo",
        }
        said = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return base64url.encode(json.dumps(said).encode())

    def submission(self, **fields: Any) -> bytes:
        """A signed and proven body, unlike any before; `fields` replace or add."""
        number = next(self._numbers)
        root = secrets.token_hex(32)
        body: dict[str, Any] = {
            "merkle_root": root,
            "epoch": number,
            "shard_id": "shard-1",
            "D_hat": 1.23456789,
            "coh_star": 0.9,
            "r": 0.1,
            "budget": 1.0,
            "sig": _UNSIGNED,
            **fields,
        }
        body.setdefault("pcs_id", pcs_id_of(body["merkle_root"], body["epoch"], body["shard_id"]))
        payload = canonical(parse_body(json.dumps(body).encode()).pcs)
        if body["sig"] == _UNSIGNED:
            body["sig"] = sign(self.signing_key, payload)
        body.setdefault("vrf_proof", ecvrf.prove(self.vrf_key, payload).hex())
        return json.dumps(body).encode()


def lay_out(folder: Path, *, peer_uids: tuple[int, ...] = (), **controls: Mapping[str, Any]) -> Path:
    """Write `policy.json` and its keys into `folder`, which must not hold one; answer the policy's path.

    `controls` replace a control's whole object: `vrf=...`, `rag=...`, `riskRouting=...`, `identity=...`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("gateway.hmac", "tenant.hmac", "vrf.secret"):
        _write_secret(folder / name, secrets.token_hex(32))
    public = ecvrf.public_key_of(bytes.fromhex((folder / "vrf.secret").read_text()))
    policy = {
        "schema": SCHEMA,
        "gateway": {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "peerUids": list(peer_uids),
            "hmacKeyFiles": ["gateway.hmac"],
            "windowSeconds": 60,
        },
        "dedup": "sqlite",
        "tenants": {
            TENANT: {
                "signingKeyFile": "tenant.hmac",
                "vrf": {
                    "required": True,
                    "mode": "enforce",
                    "pubkey": [{"key": public.hex()}],
                    "canary": 100,
                },
                "rag": {
                    "enabled": True,
                    "minOverlap": 0.35,
                    "shingleSize": 2,
                    "stopwords": True,
                    "stemming": False,
                },
                "riskRouting": {"enabled": True, "canary": 100},
                "identity": {"token": "off"},
                **controls,
            }
        },
    }
    path = folder / "policy.json"
    with path.open("x") as file:
        json.dump(policy, file, indent=2)
        file.write("\n")
    return path


def open_client(folder: Path, now: Callable[[], float]) -> Client:
    """The client that fits what `lay_out` wrote."""
    gateway, signing, vrf = (
        bytes.fromhex((folder / name).read_text()) for name in ("gateway.hmac", "tenant.hmac", "vrf.secret")
    )
    return Client(gateway, signing, vrf, now)


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
