"""Peer credentials of Unix connections, put where the middleware looks; a uvicorn protocol."""

import asyncio
import socket
import struct
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.systems.kakeya.identity.gateway import Peer

__all__ = ["PeerAwareProtocol", "peer_of"]


def peer_of(connection: socket.socket) -> Peer | None:
    """The kernel's word on who connected; None for any other kind of socket (unix(7), SO_PEERCRED)."""
    if connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", raw))


class PeerAwareProtocol(HttpToolsProtocol):
    """Copies the credentials into the state of each request's scope, where no client can write."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        connection = cast("socket.socket", transport.get_extra_info("socket"))
        self.app_state = {**self.app_state, "peer": peer_of(connection)}
