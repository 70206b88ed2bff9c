"""The stamped payload: parse it, and check again what the gateway has checked (RFC 7519, section 4.1).

The gateway's clock, its configuration and ours drift apart; a payload for another audience that a gateway
let through by mistake is still not for us.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from holdfast.systems.kakeya.identity.base64url import Padding, decode
from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal
from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

__all__ = ["Expected", "Identity", "check_claims", "parse_payload"]

TENANT_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@final
@dataclass(frozen=True, slots=True)
class Expected:
    """What claims must say to be ours."""

    issuer: str
    audience: str
    leeway_seconds: float = 5.0


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as far as anything downstream may know."""

    tenant_id: str
    subject: str
    via: str
    """`unix_peer`, `hmac` or `token`."""


def parse_payload(text: str) -> dict[str, Any]:
    """base64url of a JSON object, padding optional."""
    raw = decode(text, Padding.OPTIONAL)
    if raw is None:
        raise IdentityRefusedError(Refusal.MALFORMED_PAYLOAD, "base64url")
    try:
        return parse_object(raw)
    except BadJsonError:
        raise IdentityRefusedError(Refusal.MALFORMED_PAYLOAD, "json") from None


def check_claims(claims: Mapping[str, Any], expected: Expected, *, now: float, via: str) -> Identity:
    """The identity that these claims give at `now` (seconds since the epoch)."""
    if claims.get("iss") != expected.issuer:
        raise IdentityRefusedError(Refusal.BAD_ISSUER, "iss")
    if not _names_audience(claims.get("aud"), expected.audience):
        raise IdentityRefusedError(Refusal.BAD_AUDIENCE, "aud")
    if now >= _moment(claims, "exp", Refusal.EXPIRED) + expected.leeway_seconds:
        raise IdentityRefusedError(Refusal.EXPIRED, "exp")
    if "nbf" in claims and now < _moment(claims, "nbf", Refusal.NOT_YET_VALID) - expected.leeway_seconds:
        raise IdentityRefusedError(Refusal.NOT_YET_VALID, "nbf")
    tenant, subject = claims.get("tenant_id"), claims.get("sub", "")
    if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
        raise IdentityRefusedError(Refusal.NO_TENANT, "tenant_id")
    return Identity(tenant, subject if isinstance(subject, str) else "", via)


def _names_audience(claim: object, audience: str) -> bool:
    """One string, or a list of nothing but strings."""
    if isinstance(claim, list):
        return audience in claim and all(isinstance(entry, str) for entry in claim)
    return claim == audience


def _moment(claims: Mapping[str, Any], name: str, refusal: Refusal) -> float:
    """A finite number; a missing or odd one is refused as the bound not being met."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IdentityRefusedError(refusal, name)
    try:
        moment = float(value)
    except OverflowError:
        raise IdentityRefusedError(refusal, name) from None
    if not math.isfinite(moment):
        raise IdentityRefusedError(refusal, name)
    return moment
