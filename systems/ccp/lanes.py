"""What goes to an upstream in a request's head: by a deny list, with the lane's own credential if it has one.

Unknown headers pass: a gateway that lists what it knows breaks the next release of the client. Dropped are
the fields of the client's own hop and, where the lane has a key, everything that authenticates the client.
"""

import re
from typing import final

import msgspec

from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.http1 import Kin, RequestHead, ResponseHead
from holdfast.systems.ccp.origins import BaseUrl, Origin, Secret
from holdfast.systems.ccp.policy import Auth

__all__ = ["HeadPlan", "Lane", "PlannedHead", "downstream_head", "plan_head", "plan_upstream_head"]

HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)
"""RFC 9110, 7.6.1; and whatever `Connection` lists."""
REWRITTEN = (b"host", b"content-length", b"expect")
CREDENTIALS = (b"authorization", b"x-api-key", b"cookie")
"""Fields that may authenticate the client to Anthropic."""


def _lines_named(*names: bytes) -> re.Pattern[bytes]:
    """Matches the lines of a block with these names; what it leaves is a block again."""
    return re.compile(rb"\n(?:" + b"|".join(map(re.escape, names)) + rb"):[^\n]*", re.IGNORECASE)


_FRAMING = (b"transfer-encoding", b"trailer")
_NOT_UP = _lines_named(*HOP_BY_HOP, *REWRITTEN)
_NOT_UP_WITH_KEY = _lines_named(*HOP_BY_HOP, *REWRITTEN, *CREDENTIALS)
_NOT_DOWN = _lines_named(*(name for name in HOP_BY_HOP if name not in _FRAMING))
_NOT_DOWN_WITHOUT_CHUNKS = _lines_named(*HOP_BY_HOP)
_KNOWN_HOP = frozenset(HOP_BY_HOP) | {b"close"}
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


@final
class HeadPlan(msgspec.Struct, frozen=True):
    """A request head for one lane, but for the size of the body."""

    lane: Lane
    secrets: tuple[Secret, ...]
    """Every lane's key."""
    kin: Kin
    """Of the client's head that it was made from."""
    before: bytes
    sized: bool
    """Say `Content-Length: 0` of an empty body too."""

    def holds_for(self, lane: Lane, head: RequestHead, secrets: tuple[Secret, ...]) -> bool:
        """Whether planning anew for these would give this plan again."""
        return self.kin is head.kin and self.lane is lane and self.secrets is secrets

    def fill(self, body_size: int) -> PlannedHead:
        """The whole head; raises `Refusal` when it carries another lane's key."""
        if body_size or self.sized:
            raw = b"%s\nContent-Length: %d\r\n\r\n" % (self.before, body_size)
        else:
            raw = self.before + b"\n\r\n"
        origin = self.lane.base.origin
        for secret in self.secrets:
            if secret.origin != origin and secret.within(raw):
                raise Refusal(
                    400,
                    f"the request carries another lane's key, and lane `{self.lane.name}` may not see it",
                )
        return PlannedHead(origin, raw)


def plan_upstream_head(
    lane: Lane, head: RequestHead, body_size: int, secrets: tuple[Secret, ...]
) -> PlannedHead:
    """The head that `lane` gets; raises `Refusal` when the client hands us a key that is not the lane's."""
    return plan_head(lane, head, secrets).fill(body_size)


def plan_head(lane: Lane, head: RequestHead, secrets: tuple[Secret, ...]) -> HeadPlan:
    """The same for every body; it holds for all heads of `head`'s kin."""
    base = lane.base
    if lane.secret is None:
        block = _NOT_UP.sub(b"", head.block)
    else:
        block = _without_copies(_NOT_UP_WITH_KEY.sub(b"", head.block), head)
        if ANTHROPIC_KEY_MARK in head.query:
            raise Refusal(400, f"the query carries a credential, and lane `{lane.name}` may not see it")
    if head.hop - _KNOWN_HOP:
        block = _lines_named(*(head.hop - _KNOWN_HOP)).sub(b"", block)
    before = b"%s %s%s%s HTTP/1.1\r\nHost: %s\r%s%s" % (
        head.method.encode(),
        base.path,
        head.path.encode(),
        head.query,
        base.origin.authority.encode(),
        block,
        _own_credential(lane),
    )
    return HeadPlan(lane, secrets, head.kin, before, head.method in {"POST", "PUT", "PATCH"})


def _without_copies(block: bytes, head: RequestHead) -> bytes:
    """Drops each line that repeats a credential of the client, or looks like one, under any other name."""
    marks = [ANTHROPIC_KEY_MARK]
    for lower, value in head.matters:
        if lower in CREDENTIALS:
            marks += [text for text in value.split() if len(text) >= 8]
    found = [mark for mark in marks if mark in block]
    if not found:
        return block
    first, *lines = block.split(b"\n")
    return b"\n".join([first, *(line for line in lines if not any(mark in line for mark in found))])


def _own_credential(lane: Lane) -> bytes:
    if lane.secret is None:
        return b""
    text = lane.secret.reveal(lane.base.origin)
    if lane.auth is Auth.BEARER:
        return b"\nAuthorization: Bearer %s\r" % text
    return b"\nx-api-key: %s\r" % text


def downstream_head(head: ResponseHead, *, close: bool, chunks_understood: bool) -> bytes:
    """The upstream's head for the client: every field but those of the upstream's own hop.

    `Transfer-Encoding` stays, since the chunks are relayed as they came; a client that knows none gets
    the payload until the connection closes.
    """
    block = (_NOT_DOWN if chunks_understood else _NOT_DOWN_WITHOUT_CHUNKS).sub(b"", head.block)
    if head.hop - _KNOWN_HOP:
        block = _lines_named(*(head.hop - _KNOWN_HOP)).sub(b"", block)
    end = b"\nConnection: close\r\n\r\n" if close else b"\n\r\n"
    return b"HTTP/1.1 %d %s\r%s%s" % (head.status, head.reason, block, end)
