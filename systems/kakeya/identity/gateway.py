"""One request's identity, from its connection and its headers: the decision, apart from any server.

(peer credentials, raw headers) -> authenticated connection? -> payload -> claims -> tenant bound
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from holdfast.systems.kakeya.identity import headers as names
from holdfast.systems.kakeya.identity.claims import Expected, Identity, check_claims, parse_payload
from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal
from holdfast.systems.kakeya.identity.stamp import ReplayWindow, Stamp, check_stamp

__all__ = ["OVERFLOW_UID", "GatewayTrust", "Peer", "identify"]

OVERFLOW_UID = 65534
"""What the kernel shows for every uid that our user namespace does not map: many strangers, one number."""


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected to our Unix socket, as the kernel says (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


@final
@dataclass(frozen=True, slots=True)
class GatewayTrust:
    """What makes a connection the gateway's. Both empty: there is no gateway, and every request is refused."""

    peer_uids: frozenset[int] = frozenset()
    hmac_keys: tuple[bytes, ...] = ()
    """More than one while a key is rotated."""

    def __post_init__(self) -> None:
        if OVERFLOW_UID in self.peer_uids:
            raise ValueError(
                f"`peer_uids` holds {OVERFLOW_UID}, which stands for every unmapped user; name the gateway's own uid"
            )
        if any(len(key) < 32 for key in self.hmac_keys):
            raise ValueError(
                "`hmac_keys` holds a key below 32 bytes; generate one with `openssl rand -hex 32`"
            )

    def knows(self, peer: Peer | None) -> bool:
        """Whether the connection alone proves the gateway."""
        return peer is not None and peer.uid in self.peer_uids


def identify(
    raw_headers: Iterable[tuple[bytes, bytes]],
    peer: Peer | None,
    *,
    trust: GatewayTrust,
    expected: Expected,
    window: ReplayWindow,
    now: float,
) -> Identity:
    """The identity, or `IdentityRefusedError`; `window` alone is changed, by an accepted stamp."""
    given = names.read_protected(raw_headers)
    via = _authenticate_connection(given, peer, trust, window, now)
    if given.get(names.VERIFIED, "true") != "true":
        raise IdentityRefusedError(Refusal.MALFORMED_HEADER, names.VERIFIED)
    if names.PAYLOAD not in given:
        raise IdentityRefusedError(Refusal.NO_PAYLOAD, names.PAYLOAD)
    identity = check_claims(parse_payload(given[names.PAYLOAD]), expected, now=now, via=via)
    if given.get(names.TENANT, identity.tenant_id) != identity.tenant_id:
        raise IdentityRefusedError(Refusal.TENANT_MISMATCH, names.TENANT)
    return identity


def _authenticate_connection(
    given: dict[str, str], peer: Peer | None, trust: GatewayTrust, window: ReplayWindow, now: float
) -> str:
    """`unix_peer` or `hmac`. A stamp that is there must hold, even where the peer alone would do.

    `x-auth-verified` proves nothing: anyone can write it.
    """
    if names.SIGNATURE in given:
        parts = (given.get(name, "") for name in (names.TIME, names.NONCE, names.PAYLOAD, names.SIGNATURE))
        check_stamp(Stamp(*parts), trust.hmac_keys, window, now=now)
        return "hmac"
    if trust.knows(peer):
        return "unix_peer"
    raise IdentityRefusedError(Refusal.NO_GATEWAY, "connection")
