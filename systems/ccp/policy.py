"""Policies: which model goes to which lane, and how long anything may take. Values only, no I/O.

Pattern grammar, for whole model names, letter case ignored: `*` or `.*` stands for any run of characters,
everything else for itself. So `claude-haiku-4.*` (the first form's way of writing) matches both
`claude-haiku-4-5-20251001` and `claude-haiku-4.5`, and no pattern can be made to backtrack for long.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from holdfast.systems.ccp.http1 import Limits

__all__ = ["DEFAULT_POLICY", "Auth", "LanePolicy", "Matcher", "Policy", "Timeouts", "compile_pattern"]

ANTHROPIC_URL = "https://api.anthropic.com"
ZAI_URL = "https://api.z.ai/api/anthropic"
PATTERN_LIMIT = 128


class Auth(Enum):
    """How a lane's requests are authenticated."""

    PASSTHROUGH = "passthrough"
    """The client's own credential goes through, untouched; the lane holds none."""
    X_API_KEY = "x-api-key"
    BEARER = "bearer"


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Raises `ValueError` for an empty or overlong pattern, or one with more than four wildcards."""
    pieces = re.split(r"(?:\.?\*)+", pattern)
    if not pattern or len(pattern) > PATTERN_LIMIT or len(pieces) > 5:
        raise ValueError("a pattern has 1 to 128 characters and at most four wildcards")
    return re.compile(".*".join(map(re.escape, pieces)), re.IGNORECASE | re.DOTALL)


@final
@dataclass(frozen=True, slots=True)
class Matcher:
    """One routing rule; the first that matches decides."""

    pattern: str
    lane: str
    rename: str | None = None
    """The model name to send instead; only that string's bytes change."""
    regex: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regex", compile_pattern(self.pattern))

    def matches(self, model: str) -> bool:
        """Whether the whole name fits."""
        return self.regex.fullmatch(model) is not None


@final
@dataclass(frozen=True, slots=True)
class LanePolicy:
    """One upstream, as the policy names it."""

    base_url: str
    auth: Auth
    env: str = ""
    """The environment variable that holds the lane's key; a key itself is never in a policy."""
    jurisdiction: str = ""
    """Where the provider stands, as a lower-case country code; empty is unknown, and unknown is denied
    as soon as any jurisdiction is required or blocked."""


@final
@dataclass(frozen=True, slots=True)
class Timeouts:
    """Milliseconds; there is none on a stream that runs."""

    connect_ms: int = 1500
    first_byte_ms: int = 120_000
    after_stop_ms: int = 5000
    """How long an upstream may keep a response open after its `message_stop`."""


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that routing asks for."""

    version: int
    matchers: tuple[Matcher, ...]
    lanes: Mapping[str, LanePolicy]
    default_lane: str = "anthropic"
    """For models that no matcher names, and for requests that name none."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    denied: Mapping[str, str] = field(default_factory=dict)
    """Lane -> why no request may go there (a constraint of the policy or of the environment)."""

    def match(self, model: str) -> Matcher:
        """The rule for `model`; what no rule names goes to the default lane."""
        for matcher in self.matchers:
            if matcher.matches(model):
                return matcher
        return Matcher("*", self.default_lane)


DEFAULT_POLICY = Policy(
    version=0,
    matchers=(Matcher("*haiku*", "zai"), Matcher("glm-*", "zai")),
    lanes={
        "anthropic": LanePolicy(ANTHROPIC_URL, Auth.PASSTHROUGH, jurisdiction="us"),
        "zai": LanePolicy(ZAI_URL, Auth.X_API_KEY, env="ZAI_API_KEY", jurisdiction="cn"),
    },
)
"""What stands when no pack is given; any signed pack is newer than version 0."""
