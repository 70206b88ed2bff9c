"""Direct verification of a JSON Web Token: joserfc behind a strict front door (RFC 7515, 7519, 8725, 9864).

joserfc checks the signature. What it leaves open is closed here first: base64url in its one spelling, a
header that says each parameter once and nothing that could bring its own key, an algorithm from our list
that is also the key's own.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from holdfast.systems.kakeya.identity.base64url import Padding, decode
from holdfast.systems.kakeya.identity.claims import Expected, Identity, check_claims
from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal
from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

__all__ = ["DEFAULT_ALGORITHMS", "Verifier", "load_keys", "verify_compact"]

Key = OctKey | RSAKey | ECKey | OKPKey

DEFAULT_ALGORITHMS = frozenset({"Ed25519", "EdDSA", "ES256"})
"""Asymmetric only: the gateway's public keys are no secrets. `EdDSA` is the name that RFC 9864 deprecates."""
_HEADER_PARAMETERS = frozenset({"alg", "kid", "typ", "cty"})
_TOKEN_LIMIT = 8192
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+")


@final
@dataclass(frozen=True, slots=True)
class Verifier:
    """Tokens of one issuer for one audience, under one set of keys."""

    keys: tuple[Key, ...]
    expected: Expected
    algorithms: frozenset[str] = DEFAULT_ALGORITHMS

    def identity(self, token: str, *, now: float) -> Identity:
        """Who the token speaks for at `now`, or `IdentityRefusedError`."""
        return check_claims(self.claims(token), self.expected, now=now, via="token")

    def claims(self, token: str) -> dict[str, Any]:
        """The payload of a genuine token; its claims are not checked yet."""
        payload = verify_compact(token, self.keys, self.algorithms)
        try:
            return parse_object(payload)
        except BadJsonError:
            raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "payload") from None


def load_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a JWKS file; `ValueError` names the file when it is not one."""
    try:
        keys = KeySet.import_key_set(parse_object(path.read_bytes())).keys  # type: ignore[arg-type]  # a TypedDict
    except (BadJsonError, JoseError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`{path}` is not a JSON Web Key Set: {error}") from None
    if not keys:
        raise ValueError(f"`{path}` holds no key; with none, no token can ever be genuine")
    return tuple(keys)


def verify_compact(token: str, keys: Iterable[Key], algorithms: frozenset[str]) -> bytes:
    """The payload of a JWS in compact form that one of `keys` signed with one of `algorithms`."""
    if len(token) > _TOKEN_LIMIT or not _SHAPE.fullmatch(token):
        raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "compact form")
    header_text, payload_text, signature_text = token.split(".")
    parts = [decode(part, Padding.FORBIDDEN) for part in (header_text, payload_text, signature_text)]
    if parts[0] is None or parts[1] is None or parts[2] is None:
        raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "base64url")
    header = _header(parts[0])
    algorithm = header["alg"]
    if algorithm not in algorithms:
        raise IdentityRefusedError(Refusal.ALGORITHM_REFUSED, "alg")
    key = _key_for(header, tuple(keys))
    if not _may_verify(key.as_dict(), algorithm):
        raise IdentityRefusedError(Refusal.UNKNOWN_KEY, "key use")
    try:
        _check_signature(token, key, algorithm)
    except (JoseError, ValueError) as error:
        raise IdentityRefusedError(Refusal.BAD_SIGNATURE, "signature") from error
    return parts[1]


def _check_signature(token: str, key: Key, algorithm: str) -> None:
    if algorithm != "EdDSA":
        jws.deserialize_compact(token, key, algorithms=[algorithm])
        return
    with warnings.catch_warnings():  # joserfc warns of the old name on every use; gateways still write it
        warnings.simplefilter("ignore", SecurityWarning)
        jws.deserialize_compact(token, key, algorithms=[algorithm])


def _header(raw: bytes) -> dict[str, str]:
    """Only `alg`, `kid`, `typ`, `cty`, each a string: `jwk`, `jku`, `x5c` bring keys, `crit` and `b64` meanings."""
    try:
        header = parse_object(raw)
    except BadJsonError:
        raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "header") from None
    if not (header.keys() <= _HEADER_PARAMETERS and "alg" in header):
        raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "header")
    if not all(isinstance(value, str) for value in header.values()):
        raise IdentityRefusedError(Refusal.MALFORMED_TOKEN, "header")
    return header


def _key_for(header: Mapping[str, str], keys: tuple[Key, ...]) -> Key:
    """By `kid` when the token names one; without, only a single key is no guess."""
    named = [key for key in keys if key.kid == header["kid"]] if "kid" in header else list(keys)
    if len(named) != 1:
        raise IdentityRefusedError(Refusal.UNKNOWN_KEY, "kid")
    return named[0]


def _may_verify(key: Mapping[str, Any], algorithm: str) -> bool:
    """RFC 7517, sections 4.2 to 4.4: `use`, `key_ops` and `alg` of the key, where given, permit this."""
    operations = key.get("key_ops")
    return (
        key.get("use", "sig") == "sig"
        and (operations is None or bool({"verify", "sign"} & set(operations)))
        and key.get("alg", algorithm) == algorithm
    )
