"""The bytes that a tap kept, read as requests, and held to what the minimized tier was agreed to say.

Small and strict on purpose: what it does not understand is not let through as harmless.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from holdfast.suites.agentos_scene import KEY

__all__ = ["MARK", "METRICS", "Heard", "find_canaries", "parse_requests", "request_faults"]

MARK = "canary7d1b"
METRICS = frozenset(
    [
        "turns",
        "tokens_in",
        "tokens_out",
        "glm_turns",
        "image_turns",
        "errors",
        "reroutes",
        "features_shipped",
        "cost_usd",
        "churn_mean",
        "latency_ms_mean",
        "capacity_mean",
        "glm_share",
        "error_ratio",
        "reroute_ratio",
    ]
)
"""What the minimized tier may say. Spelled here a second time on purpose: a name that somebody adds to the
adapter's own list is a leak until it is agreed to here as well."""
HEADERS: Mapping[str, str] = {
    "host": r"ccc\.invalid",
    "accept": "application/json",
    "accept-encoding": "[a-z, ]+",
    "connection": "keep-alive",
    "user-agent": "agentos/[0-9]+",
    "authorization": f"Bearer {KEY}",
    "idempotency-key": "[0-9a-f]{64}",
    "content-type": "application/json",
    "content-length": "[0-9]+",
}
"""What may stand in a minimized request's head; a header is as good a way out as a body."""


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """One request of the capture."""

    line: str
    headers: Mapping[str, str]
    body: bytes


def parse_requests(wire: bytes) -> tuple[Heard, ...] | None:
    """The capture as requests; None when it is not whole ones. Small and strict on purpose: what it does not
    understand is not let through as harmless."""
    found = []
    while wire:
        head, gap, rest = wire.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)
        }
        length = int(headers.get("content-length", "0"))
        if not gap or len(rest) < length or "transfer-encoding" in headers or len(headers) != len(fields):
            return None
        found.append(Heard(line, headers, rest[:length]))
        wire = rest[length:]
    return tuple(found)


def request_faults(request: Heard) -> Iterable[str]:
    """What is in a minimized request that was not agreed to."""
    if request.line != "POST /v1/metrics HTTP/1.1":
        yield f"minimized made the call `{request.line[:80]}`"
        return
    for name, value in request.headers.items():
        if not re.fullmatch(HEADERS.get(name, "(?!)"), value):
            yield f"minimized sent the header `{name}: {value[:80]}`"
    if "idempotency-key" not in request.headers:
        yield "minimized sent no Idempotency-Key"
    body = json.loads(request.body)
    if set(body) != {"schema", "metrics"}:
        yield f"minimized sent a body of {', '.join(sorted(body))}"
        return
    if extra := set(body["metrics"]) - METRICS:
        yield f"minimized sent the fields {', '.join(sorted(extra))}"
    if odd := [name for name, value in body["metrics"].items() if type(value) not in {int, float}]:
        yield f"minimized sent something else than a number as {', '.join(odd)}"


def find_canaries(wire: bytes) -> tuple[str, ...]:
    """The names of the fields whose canaries are in `wire`, in any case."""
    found = re.findall(rf"{MARK}-([a-z_]+)".encode(), wire.lower())
    return tuple(sorted({name.decode() for name in found}))
