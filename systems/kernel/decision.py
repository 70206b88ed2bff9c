"""The answer to a request, as a value."""

from enum import Enum
from typing import NamedTuple, final

from holdfast.systems.kernel.standing import Standing

__all__ = ["Decision", "Outcome", "Phase"]


@final
class Outcome(Enum):
    """What may happen now."""

    ALLOW = "allow"
    DENY = "deny"
    REVIEW = "require_review"


@final
class Phase(Enum):
    """Which part of the evaluation settled it."""

    REQUEST = "request"
    BUILTIN = "builtin"
    YAML = "yaml"
    EXTENSION = "extension"
    TOKEN = "token"  # noqa: S105 - a phase, not a secret
    DEFAULT = "default"


@final
class Decision(NamedTuple):
    """The answer, with everything that determined it.

    A named tuple, since making a frozen dataclass of this size costs a third of the whole decision.
    """

    outcome: Outcome
    phase: Phase
    rules: tuple[str, ...]
    """The ids of all rules that determined the outcome, sorted, each once."""
    reasons: tuple[str, ...]
    """All their reasons, in the order of their rules."""
    policy: str
    """The policy's digest."""
    now: int
    """The one time snapshot that was used throughout: monotonic nanoseconds."""
    token: Standing | None = None
    """How the token stood that came along, if one did."""
    limits: tuple[tuple[str, int], ...] = ()
    """The tightest of the allowing rules' constraints, by name."""
