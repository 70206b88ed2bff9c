"""JSON in and out, where a second reading of the same bytes must not be possible.

Python's parser takes the last of duplicate keys and knows `NaN`; another parser takes the first and does
not. What is signed, logged or counted is therefore read without either.
"""

import json
from typing import Any

from holdfast.systems.agentos.errors import BadInputError

__all__ = ["dump_line", "parse_line", "parse_object"]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parse_object(raw: bytes, *, what: str, limit: int) -> dict[str, Any]:
    """One JSON object; duplicate keys, `NaN`, wrong UTF-8, other shapes and excess size are refused."""
    if len(raw) > limit:
        raise BadInputError(f"{what} is {len(raw)} bytes long; at most {limit} are read")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise BadInputError(f"{what} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise BadInputError(f"{what} is not a JSON object")
    return value


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A log line as an object, or None where it is none: the caller counts it, with its place."""
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def dump_line(event: dict[str, Any]) -> bytes:
    """`event` in one line, with its newline. Raises ValueError for what JSON cannot say."""
    return _ENCODER.encode(event).encode() + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key `{twice[:100]}` stands there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"`{name}` is not JSON")
