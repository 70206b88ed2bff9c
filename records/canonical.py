"""JSON with one spelling: RFC 8785 out, and in only what can be read in one way.

`json.loads` keeps the last of two equal keys and says nothing, so two readers of one signed document can
see two documents. Here a duplicate key, NaN and infinity are errors.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

import rfc8785

__all__ = ["Json", "NotCanonicalError", "canonical_bytes", "parse_strict"]

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What a JSON text can hold."""


class NotCanonicalError(ValueError):
    """The text has no single reading, or the value no canonical spelling; the message says why."""


def parse_strict(text: bytes | str) -> Json:
    """`text` as a value; raises `NotCanonicalError` for malformed JSON, duplicate keys, NaN and infinity."""
    try:
        value: Json = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except NotCanonicalError:
        raise
    except RecursionError as error:
        raise NotCanonicalError("nested too deeply") from error
    except ValueError as error:
        raise NotCanonicalError(str(error)) from error
    return value


def canonical_bytes(value: Json) -> bytes:
    """The RFC 8785 spelling; raises `NotCanonicalError` for integers past 2**53, NaN, lone surrogates."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise NotCanonicalError(str(error)) from error


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotCanonicalError(f"the key `{twice}` stands twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise NotCanonicalError(f"`{text}` is no JSON number")
