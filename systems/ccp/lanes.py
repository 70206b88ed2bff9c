"""What goes to an upstream in a request's head: by a deny list, with the lane's own credential if it has one.

Unknown headers pass: a gateway that lists what it knows breaks the next release of the client. Dropped are
the fields of the client's own hop and, where the lane has a key, everything that authenticates the client.
"""

from collections.abc import Sequence
from typing import final

import msgspec

from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.http1 import Field, RequestHead, ResponseHead
from holdfast.systems.ccp.origins import BaseUrl, Origin, Secret
from holdfast.systems.ccp.policy import Auth

__all__ = ["Lane", "PlannedHead", "downstream_head", "plan_upstream_head"]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, 7.6.1; and whatever `Connection` lists."""

_FRAMING = frozenset({b"transfer-encoding", b"trailer"})
_DROPPED_DOWN = HOP_BY_HOP - _FRAMING
_REWRITTEN = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"cookie"})
"""Fields that may authenticate the client to Anthropic."""
ANTHROPIC_KEY_MARK = b"sk-ant-"
"""How every Anthropic credential begins: API keys, OAuth access and refresh tokens alike."""


@final
class Lane(msgspec.Struct, frozen=True):
    """One upstream, ready to be used."""

    name: str
    base: BaseUrl
    auth: Auth
    secret: Secret | None = None

    def __post_init__(self) -> None:
        assert (self.secret is None) == (self.auth is Auth.PASSTHROUGH)


@final
class PlannedHead(msgspec.Struct, frozen=True):
    """A request head, and the only origin that it may be written to."""

    origin: Origin
    raw: bytes


def plan_upstream_head(
    lane: Lane, head: RequestHead, body_size: int, secrets: tuple[Secret, ...]
) -> PlannedHead:
    """The head that `lane` gets; raises `Refusal` when the client hands us a key that is not the lane's."""
    fields: Sequence[Field] = head.fields
    hop = _REWRITTEN | head.hop if head.hop else _REWRITTEN
    if lane.secret is not None:
        fields = _without_credentials(fields)
        if ANTHROPIC_KEY_MARK in head.query:
            raise Refusal(400, f"the query carries a credential, and lane `{lane.name}` may not see it")
    target = lane.base.path + head.path.encode() + head.query
    lines = [
        b"%s %s HTTP/1.1\r\nHost: %s\r\n"
        % (head.method.encode(), target, lane.base.origin.authority.encode())
    ]
    lines += [b"%s: %s\r\n" % (name, value) for lower, name, value in fields if lower not in hop]
    lines += _own_credential(lane)
    if body_size or head.method in {"POST", "PUT", "PATCH"}:
        lines.append(b"Content-Length: %d\r\n" % body_size)
    lines.append(b"\r\n")
    raw = b"".join(lines)
    for secret in secrets:
        if secret.origin != lane.base.origin and secret.within(raw):
            raise Refusal(
                400, f"the request carries another lane's key, and lane `{lane.name}` may not see it"
            )
    return PlannedHead(lane.base.origin, raw)


def _without_credentials(fields: Sequence[Field]) -> Sequence[Field]:
    """Drops the credential fields, and any other field that repeats a credential or looks like one."""
    others = [entry for entry in fields if entry[0] not in CREDENTIALS]
    marks = [ANTHROPIC_KEY_MARK]
    for lower, _, value in fields:
        if lower in CREDENTIALS:
            marks += [text for text in value.split() if len(text) >= 8]
    values = b"\n".join([value for _, _, value in others])
    found = [mark for mark in marks if mark in values]
    if not found:
        return others
    return [entry for entry in others if not any(mark in entry[2] for mark in found)]


def _own_credential(lane: Lane) -> list[bytes]:
    if lane.secret is None:
        return []
    text = lane.secret.reveal(lane.base.origin)
    if lane.auth is Auth.BEARER:
        return [b"Authorization: Bearer %s\r\n" % text]
    return [b"x-api-key: %s\r\n" % text]


def downstream_head(head: ResponseHead, *, close: bool, chunks_understood: bool) -> bytes:
    """The upstream's head for the client: every field but those of the upstream's own hop.

    `Transfer-Encoding` stays, since the chunks are relayed as they came; a client that knows none gets
    the payload until the connection closes.
    """
    dropped = _DROPPED_DOWN if chunks_understood else HOP_BY_HOP
    if head.hop:
        dropped |= head.hop - _FRAMING
    lines = [b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason)]
    lines += [b"%s: %s\r\n" % (name, value) for lower, name, value in head.fields if lower not in dropped]
    lines.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)
