"""ASGI middleware: no request reaches the application without an identity bound to its tenant.

Works in front of Starlette, FastAPI or any other ASGI 3 application. The application reads
`request.state.identity`; protected headers do not reach it.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, final

from holdfast.systems.kakeya.identity.claims import Expected
from holdfast.systems.kakeya.identity.gateway import GatewayTrust, Peer, identify
from holdfast.systems.kakeya.identity.headers import without_protected
from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal
from holdfast.systems.kakeya.identity.stamp import ReplayWindow

__all__ = ["GatewayIdentity"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@final
class GatewayIdentity:
    """`app` behind an identity check. `peer` in the scope's state is set by `peer.PeerAwareProtocol`."""

    def __init__(
        self,
        app: App,
        *,
        trust: GatewayTrust,
        expected: Expected,
        window: ReplayWindow,
        now: Callable[[], float],
        open_paths: frozenset[str] = frozenset(),
        on_refusal: Callable[[Refusal], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._trust, self._expected, self._window, self._now = trust, expected, window, now
        self._open_paths = open_paths
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in self._open_paths:
            await self._app(scope, receive, send)
            return
        state = scope.get("state") or {}
        peer = state.get("peer")
        try:
            identity = identify(
                scope["headers"],
                peer if isinstance(peer, Peer) else None,
                trust=self._trust,
                expected=self._expected,
                window=self._window,
                now=self._now(),
            )
        except IdentityRefusedError as refused:
            self._on_refusal(refused.reason)
            await (_close if scope["type"] == "websocket" else _refuse)(send, refused)
            return
        seen = {
            **scope,
            "headers": without_protected(scope["headers"]),
            "state": {**state, "identity": identity},
        }
        await self._app(seen, receive, send)


async def _refuse(send: Send, refused: IdentityRefusedError) -> None:
    body = json.dumps(
        {"error": "unauthorized", "reason": refused.reason.value, "field": refused.where}
    ).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": 401, "headers": [*head, (b"www-authenticate", b"Bearer")]}
    )
    await send({"type": "http.response.body", "body": body})


async def _close(send: Send, _: IdentityRefusedError) -> None:
    """Before the handshake is accepted a close becomes HTTP 403."""
    await send({"type": "websocket.close", "code": 1008})
