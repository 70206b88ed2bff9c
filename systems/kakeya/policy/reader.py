"""A JSON object read key by key, with the path of each in every complaint.

Reader(text, "policy") .nested("vrf") .flag("required", default=False) ... .done()
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, final

__all__ = ["PolicyError", "Reader"]

T = TypeVar("T")
_MISSING: Any = object()


@final
class PolicyError(ValueError):
    """The policy cannot be used; `path` is where (`tenants.acme.vrf.pubkey`)."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"`{path}` {why}")
        self.path = path


@final
class Reader:
    """One object. Each key is asked for once; `done` refuses whatever nobody asked for."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise PolicyError(path or "policy", "must be an object")
        self._value: Mapping[str, Any] = value
        self._path = path
        self._asked: set[str] = set()

    def path_of(self, key: str) -> str:
        """The key's full path, for complaints."""
        return f"{self._path}.{key}" if self._path else key

    def keys(self) -> tuple[str, ...]:
        """All keys, for objects whose keys are names."""
        return tuple(self._value)

    def nested(self, key: str) -> "Reader":
        """A nested object; an absent one is empty, so that its keys take their defaults."""
        self._asked.add(key)
        return Reader(self._value.get(key, {}), self.path_of(key))

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false, and nothing that merely acts like it."""
        return bool(self._take(key, default, lambda v: isinstance(v, bool), "must be true or false"))

    def number(self, key: str, low: float, high: float, *, default: float) -> float:
        """A finite number from `low` to `high`, both allowed."""
        words = f"must be a number from {low:g} to {high:g}"
        return float(self._take(key, default, lambda v: _is_number(v) and low <= v <= high, words))

    def integer(self, key: str, low: int, high: int, *, default: int) -> int:
        """An integer from `low` to `high`, both allowed."""
        words = f"must be an integer from {low} to {high}"
        return int(self._take(key, default, lambda v: type(v) is int and low <= v <= high, words))

    def text(self, key: str, *, default: str | None = None) -> str:
        """Text, not empty; required when there is no default."""
        fallback = _MISSING if default is None else default
        return str(self._take(key, fallback, lambda v: isinstance(v, str) and v, "must be text"))

    def word(self, key: str, words: tuple[str, ...], *, default: str) -> str:
        """One of a few words."""
        return str(self._take(key, default, lambda v: v in words, f"must be one of {', '.join(words)}"))

    def list_of(self, key: str) -> tuple[Any, ...]:
        """A list; absent means empty. What it holds is the caller's to check."""
        return tuple(self._take(key, [], lambda v: isinstance(v, list), "must be a list"))

    def done(self) -> None:
        """Refuse a key that nothing reads: a misspelt `enforce` must not mean "off"."""
        if unknown := sorted(self._value.keys() - self._asked):
            raise PolicyError(self.path_of(unknown[0]), "is not a key of the policy")

    def _take(self, key: str, default: T, good: Callable[[Any], object], words: str) -> Any:
        self._asked.add(key)
        value = self._value.get(key, default)
        if value is _MISSING:
            raise PolicyError(self.path_of(key), "is missing")
        if key in self._value and not good(value):
            raise PolicyError(self.path_of(key), words)
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
