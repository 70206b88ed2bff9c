"""Isolations: the words a user types, turned into a type once.

isolation := "none" | "seccomp" | "bwrap"
isolations := isolation ("," isolation)*
"""

from enum import Enum
from typing import final

from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.refusal import BadInputError

__all__ = ["AnyIsolation", "Isolation", "parse_isolation", "parse_isolations"]


@final
class Isolation(Enum):
    """What stands between a command and the host."""

    NONE = "none"
    """Nothing: the control arm of every comparison."""
    SECCOMP = "seccomp"
    """no_new_privs, an empty bounding set, a Landlock domain where there is one, and the filter."""
    BWRAP = "bwrap"
    """bubblewrap: new namespaces, a root put together from what is needed, no capabilities, the filter."""


AnyIsolation = Isolation | Foreign
"""Ours, or a launcher that is not; both have a `value` by which files and columns are named."""


def parse_isolation(text: str) -> Isolation:
    """Read one isolation; raises `BadInputError` naming the words that there are."""
    try:
        return Isolation(text.strip())
    except ValueError:
        known = ", ".join(f"`{i.value}`" for i in Isolation)
        raise BadInputError(f"unknown isolation `{text}`", hint=f"one of {known}") from None


def parse_isolations(text: str) -> tuple[Isolation, ...]:
    """Read a comma-separated list, in its order, without repeats: `"none,seccomp"`."""
    return tuple(dict.fromkeys(parse_isolation(word) for word in text.split(",")))
