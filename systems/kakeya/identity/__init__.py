"""Who asks: identity stamped by an authenticated gateway, or shown by a token that we verify ourselves.

    connection + headers --gateway.identify--> Identity          (pure but for the replay window)
    compact JWT          --token.Verifier----> Identity
    middleware.GatewayIdentity puts the first in front of an ASGI application

Every refusal is an `IdentityRefusedError` with a `Refusal`; there is no anonymous identity.
"""

from holdfast.systems.kakeya.identity.claims import Expected, Identity
from holdfast.systems.kakeya.identity.gateway import GatewayTrust, Peer, identify
from holdfast.systems.kakeya.identity.middleware import GatewayIdentity
from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal
from holdfast.systems.kakeya.identity.stamp import ReplayWindow, sign_stamp
from holdfast.systems.kakeya.identity.token import Verifier, load_keys, verify_compact

__all__ = [
    "Expected",
    "GatewayIdentity",
    "GatewayTrust",
    "Identity",
    "IdentityRefusedError",
    "Peer",
    "Refusal",
    "ReplayWindow",
    "Verifier",
    "identify",
    "load_keys",
    "sign_stamp",
    "verify_compact",
]
