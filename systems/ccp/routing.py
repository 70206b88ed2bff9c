"""A request's way: answered here, or to one lane. Pure; the whole decision is one function.

`GET /v1/models` and every other request that names no model goes to the default lane, with the client's
own credential: an ambiguous path must not pick a lane whose key it was not meant for.
"""

from enum import Enum
from typing import final

import msgspec

from holdfast.systems.ccp.body_model import TopLevel, read_top_level, splice_model
from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.http1 import Request
from holdfast.systems.ccp.policy import Matcher, Policy

__all__ = ["KNOWN_PATHS", "Local", "Route", "decide"]


class Local(Enum):
    """What the proxy answers by itself."""

    ROOT = "/"
    HEALTH = "/healthz"
    READY = "/readyz"
    METRICS = "/metrics"
    USAGE = "/v1/usage"


@final
class Route(msgspec.Struct, frozen=True):
    """One request, one lane."""

    lane: str
    body: bytes
    """The client's own bytes; with a rename, all but the model's literal."""
    model: str | None
    """As the client named it."""
    stream: bool
    matcher: Matcher | None
    """The rule that decided; None when the request names no model."""


MODEL_PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
PLAIN_PATHS = frozenset({"/v1/models"})
_LOCALS = {local.value: local for local in Local}
KNOWN_PATHS = MODEL_PATHS | PLAIN_PATHS | frozenset(_LOCALS)
"""What may stand in a log; any other path is the client's text, and a secret may be in it."""


def decide(request: Request, policy: Policy) -> Route | Local:
    """Where `request` goes; raises `Refusal` for what goes nowhere."""
    head = request.head
    if head.path in MODEL_PATHS:
        if head.method != "POST":
            raise Refusal(405, f"`{head.path}` takes POST")
        return _by_model(request, read_top_level(request.body), policy)
    if head.path in PLAIN_PATHS:
        if head.method != "GET":
            raise Refusal(405, f"`{head.path}` takes GET")
        _check_lane(policy, policy.default_lane)
        return Route(policy.default_lane, request.body, None, False, None)
    local = _LOCALS.get(head.path)
    if local is None or (local is Local.ROOT and head.method != "HEAD"):
        raise Refusal(404, "there is no such path here")
    if head.method not in {"GET", "HEAD"}:
        raise Refusal(405, f"`{head.path}` takes GET")
    return local


def _by_model(request: Request, top: TopLevel, policy: Policy) -> Route:
    matcher = policy.match(top.model)
    _check_lane(policy, matcher.lane)
    renamed = matcher.rename is not None and matcher.rename != top.model
    body = splice_model(request.body, matcher.rename or "") if renamed else request.body
    return Route(matcher.lane, body, top.model, top.stream, matcher)


def _check_lane(policy: Policy, lane: str) -> None:
    if lane in policy.denied:
        raise Refusal(403, f"lane `{lane}` is denied: {policy.denied[lane]}")
