"""Requests into answers, over the store; knows no socket."""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from holdfast.clock import utc_now
from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.schemas import SchemaViolationError, require_event, require_valid
from holdfast.systems.agentos.server.store import Store
from holdfast.systems.agentos.strict_json import parse_object

__all__ = ["BODY_LIMIT", "Answer", "Api", "Request"]

BODY_LIMIT = 8 << 20


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def json(cls, status: int, value: dict[str, Any], **headers: str) -> "Answer":
        """An answer that says `value`."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json", **named})


@final
@dataclass(frozen=True, slots=True)
class Api:
    """The three calls."""

    store: Store
    key: str

    def answer(self, request: Request) -> Answer:
        """Serve one request."""
        if not self._authorised(request.headers.get("authorization", "")):
            return Answer.json(401, {"error": "the bearer key is missing or wrong"})
        try:
            match (request.method, request.path):
                case ("POST", "/v1/events"):
                    return self._events(request.body)
                case ("POST", "/v1/metrics"):
                    return self._metrics(request)
                case ("GET", "/v1/usage"):
                    return self._usage()
                case _:
                    return Answer.json(404, {"error": "there is no such call"})
        except BadInputError as problem:
            return Answer.json(400, {"error": str(problem)})

    def _authorised(self, header: str) -> bool:
        return hmac.compare_digest(header.encode(), f"Bearer {self.key}".encode())

    def _events(self, body: bytes) -> Answer:
        value = parse_object(body, what="the batch", limit=BODY_LIMIT)
        require_valid("events-batch", value)
        good, rejected = [], []
        for one in value["batch"]:
            try:
                require_event(one["event"])
                good.append(one)
            except SchemaViolationError as problem:
                rejected.append({"key": one["key"], "reason": str(problem)})
        new, duplicates = self.store.add_events(good) if good else (0, 0)
        return Answer.json(200, {"accepted": new, "duplicates": duplicates, "rejected": rejected})

    def _metrics(self, request: Request) -> Answer:
        key = request.headers.get("idempotency-key", "")
        if not 1 <= len(key) <= 200:
            return Answer.json(400, {"error": "the call needs an Idempotency-Key"})
        value = parse_object(request.body, what="the metrics", limit=BODY_LIMIT)
        require_valid("metrics", value)
        new, duplicates = self.store.add_metrics(key, value["metrics"])
        return Answer.json(200, {"accepted": new, "duplicates": duplicates, "rejected": []})

    def _usage(self) -> Answer:
        usage = {
            "schema": "ccc.usage/1",
            "taken_at": utc_now().isoformat(),
            "models": self.store.usage(),
        }
        return Answer.json(200, usage)
