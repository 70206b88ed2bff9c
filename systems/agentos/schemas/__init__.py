"""JSON Schemas, draft 2020-12, and the one function that holds an object to one of them.

The validators are compiled once by `jsonschema-rs`, with every reference in hand: `offline` makes a
reference to anything else an error, so that a schema can never make a local tier reach for the network.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, final

from jsonschema_rs import Draft202012Validator, Registry

from holdfast.systems.agentos.errors import BadInputError

__all__ = ["SHARES_TOLERANCE", "SchemaViolationError", "load_schema", "require_event", "require_valid"]

EVENTS = ("session", "turn", "session_end")
PARTS = ("measurement", "feature", "cost", "value", "decision")
SHARES_TOLERANCE = 1e-9


@final
class SchemaViolationError(BadInputError):
    """An object breaks its schema: `path` is the JSON path, `rule` the keyword, as draft 2020-12 names it."""

    def __init__(self, kind: str, path: str, rule: str, message: str) -> None:
        super().__init__(f"{kind} breaks its schema at `{path}`, rule `{rule}`: {message}")
        self.kind = kind
        self.path = path
        self.rule = rule


def load_schema(name: str) -> dict[str, Any]:
    """The schema `v1/<name>.json` of this package."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("v1", f"{name}.json").read_bytes())
    return schema


@cache
def validator(name: str) -> Draft202012Validator:
    """The compiled validator of `v1/<name>.json`."""
    registry = Registry([(f"urn:ccc:v1:{part}", load_schema(part)) for part in PARTS])
    return Draft202012Validator(load_schema(name), validate_formats=True, registry=registry, offline=True)


def require_valid(name: str, value: object) -> None:
    """Raise `SchemaViolationError` for the first rule that `value` breaks."""
    try:
        held = validator(name)
        if held.is_valid(value):
            return
        error = next(held.iter_errors(value))
    except (ValueError, TypeError, OverflowError, RecursionError) as problem:
        raise SchemaViolationError(name, "$", "json", f"not a JSON value: {problem}") from None
    raise SchemaViolationError(
        name, _json_path(error.instance_path), error.kind.name, _bounded(error.message)
    )


def require_event(event: Mapping[str, Any]) -> None:
    """Hold a log event to the schema of its `type`, and a turn's shares to their sum."""
    kind = event.get("type")
    if kind not in EVENTS:
        raise SchemaViolationError("event", "$.type", "enum", f"`{_bounded(str(kind))}` is none of {EVENTS}")
    require_valid(kind, event)
    if shares := event.get("attribution"):
        _require_shares(shares)


def _require_shares(shares: Mapping[str, float]) -> None:
    total = math.fsum(shares.values())
    if abs(total - 1.0) > SHARES_TOLERANCE:
        raise SchemaViolationError("turn", "$.attribution", "sharesAddUpToOne", f"they add up to {total!r}")


def _json_path(steps: list[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _bounded(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
