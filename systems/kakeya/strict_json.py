"""JSON as RFC 8259 writes it and no wider: no NaN, no key twice, no lone surrogate, bounded in depth.

A reader that takes the last of two equal keys and a checker that takes the first are one confused deputy.
"""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

__all__ = ["BadJsonError", "parse_object"]


class BadJsonError(ValueError):
    """The text is not JSON, or not an object, or says a key twice; the message says which."""


def parse_object(text: bytes) -> dict[str, Any]:
    """The object that `text` holds; anything else raises `BadJsonError`."""
    try:
        value = _decoder.decode(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadJsonError(f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BadJsonError("is nested too deeply") from None
    except BadJsonError:
        raise
    except ValueError as error:  # JSONDecodeError, and an integer of more digits than Python reads
        raise BadJsonError(f"is not JSON: {str(error)[:80].lower()}") from None
    if not isinstance(value, dict):
        raise BadJsonError("is not an object")
    if "\\u" in text.decode("utf-8"):
        _refuse_surrogates(value)
    return value


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise BadJsonError(f"has the key `{key[:40]!a}` twice")
        seen[key] = value
    return seen


def _constant(name: str) -> NoReturn:
    raise BadJsonError(f"holds `{name}`, which JSON has no word for")


def _refuse_surrogates(value: object) -> None:
    """An escaped half of a pair decodes to a string that no encoder can write again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise BadJsonError("holds half of a surrogate pair") from None


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)
