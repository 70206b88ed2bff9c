"""Privacy tiers: three types, two grants, two allow lists.

    LocalOnly()        has no field, so nothing can be reached from it; no function of `upload` takes one
    Minimized(grant)   lets out `reduce_metrics`: numbers of one session, each named in SAFE_FIELDS
    Full(grant)        lets out that, and `reduce_event`: the fields that the schema names, value reduced

A `Grant` is made by `licensing` from a verified pack and by nothing else, so a tier that reports cannot
exist before the licence was checked: upload-before-check is not a mistake that this code can express.

INVARIANT: both reductions build their result from an allow list and never copy-and-delete. A field that
somebody adds later, at any depth, is private until its name is written here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, final

from holdfast.systems.agentos.errors import BadInputError, RefusedError
from holdfast.systems.agentos.licensing.grant import Grant
from holdfast.systems.agentos.metrics.rollup import Rollup

__all__ = [
    "SAFE_FIELDS",
    "Full",
    "LocalOnly",
    "Minimized",
    "Tier",
    "TierName",
    "reduce_event",
    "reduce_metrics",
]


@final
class TierName(Enum):
    """The tiers as people write them: `local_only`, `minimized`, `full`."""

    LOCAL_ONLY = "local_only"
    MINIMIZED = "minimized"
    FULL = "full"

    @classmethod
    def from_user(cls, text: str) -> "TierName":
        """Read a tier's name; `LocalOnly`, `local-only` and `local_only` are the same."""
        plain = text.lower().replace("-", "").replace("_", "")
        for tier in cls:
            if plain in {tier.value.replace("_", ""), tier.value.removesuffix("_only")}:
                return tier
        raise BadInputError(
            f"there is no privacy tier `{text[:80]}`; there are: {', '.join(t.value for t in cls)}"
        )

    @property
    def entitlement(self) -> str | None:
        """What the licence must grant; None for the tier that needs none."""
        return {TierName.MINIMIZED: "telemetry_minimized", TierName.FULL: "telemetry_full"}.get(self)


@final
@dataclass(frozen=True, slots=True)
class LocalOnly:
    """Nothing leaves the machine. It has no field on purpose."""


@final
@dataclass(frozen=True, slots=True)
class Minimized:
    """Numbers of whole sessions may leave."""

    grant: Grant

    def __post_init__(self) -> None:
        _require_entitled(self.grant, TierName.MINIMIZED)


@final
@dataclass(frozen=True, slots=True)
class Full:
    """Events may leave too, reduced."""

    grant: Grant

    def __post_init__(self) -> None:
        _require_entitled(self.grant, TierName.FULL)


Tier = LocalOnly | Minimized | Full


def _require_entitled(grant: Grant, name: TierName) -> None:
    if name.entitlement not in grant.entitlements:
        raise RefusedError(
            f"the licence `{grant.license_id}` (plan `{grant.plan}`) lacks the entitlement"
            f" `{name.entitlement}` that the tier `{name.value}` needs; choose another tier or renew it"
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


SAFE_FIELDS: Final[Mapping[str, Callable[[Rollup], float]]] = {
    "turns": lambda r: r.turns,
    "tokens_in": lambda r: r.tokens_in,
    "tokens_out": lambda r: r.tokens_out,
    "glm_turns": lambda r: r.glm_turns,
    "image_turns": lambda r: r.image_turns,
    "errors": lambda r: r.errors,
    "reroutes": lambda r: r.reroutes,
    "features_shipped": lambda r: r.features_shipped,
    "cost_usd": lambda r: r.cost_usd,
    "churn_mean": lambda r: _ratio(r.churn_sum, r.churn_samples),
    "latency_ms_mean": lambda r: _ratio(r.latency_ms, r.turns),
    "capacity_mean": lambda r: _ratio(r.capacity_sum, r.capacity_samples),
    "glm_share": lambda r: _ratio(r.glm_turns, r.turns),
    "error_ratio": lambda r: _ratio(r.errors, r.turns),
    "reroute_ratio": lambda r: _ratio(r.reroutes, r.turns),
}
"""The whole of what the minimized tier sends: a count or a ratio by name. No key and no value comes from a
caller's text; model names are text, so there is no split by model."""


def reduce_metrics(session: Rollup) -> dict[str, int | float]:
    """One session's numbers, as `/v1/metrics` gets them under both tiers that report."""
    return {name: _number(name, measure(session)) for name, measure in SAFE_FIELDS.items()}


def _number(name: str, value: object) -> int | float:
    # A log that somebody wrote text into must not turn a number's place into a text's.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"the safe field `{name}` is not a number")
    return value


_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "measurement": ("cls", "impf", "churn_score", "feature_delta", "errors"),
    "feature": ("feature_id", "spec_ref", "status"),
    "cost": ("provider", "unit_costs", "estimated_usd"),
    "value": ("summary", "links"),
    "decision": ("requested_model", "routed_model", "lane", "rerouted", "reason", "policy_version"),
}
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "session": (
        "type",
        "v",
        "session_id",
        "repo_id",
        "branch",
        "commit",
        "license_id",
        "privacy_tier",
        "created_at",
        "metadata",
    ),
    "turn": (
        "type",
        "v",
        "turn_id",
        "session_id",
        "model",
        "subagent",
        "tokens_in",
        "tokens_out",
        "input_kind",
        "latency_ms",
        "attribution",
        "capacity_used",
    ),
    "session_end": ("type", "v", "session_id", "ended_at", "notes"),
}


def reduce_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as `/v1/events` gets it: the fields that schema v1 names, `value` down to summary and links.

    A caller's own `x_...` fields stay at home. Raises KeyError for a type that the schema does not have.
    """
    reduced = {name: event[name] for name in _FIELDS[event["type"]] if name in event}
    if event["type"] == "turn":
        for part, names in _PARTS.items():
            if part in event:
                reduced[part] = {name: event[part][name] for name in names if name in event[part]}
    return reduced
