"""The summary as a fold over the log: one event at a time, nothing read twice.

    Rollup() -- add(event), add(event), ... --> to_json()    from_json() goes on where it stopped

The state is the summary itself, so writing it is a checkpoint and reading it back is a resume. The property
that all rests on: fold, checkpoint anywhere, resume and fold on equals one fold over everything, bit for
bit. It holds because floats survive JSON and are added in the log's order by both.

The accumulators change in place: this runs once a turn, on the path whose cost a user feels.
"""

from typing import Any, Self, final

from holdfast.systems.agentos.metrics.attribution import turn_shares
from holdfast.systems.agentos.schemas import SchemaViolationError, require_event
from holdfast.systems.agentos.strict_json import parse_line

__all__ = ["ModelTotals", "Rollup", "is_glm"]

TREND = 32
"""How many of the last churn scores the summary keeps."""


def is_glm(model: str) -> bool:
    """Whether a turn of this model is counted in `glm_counts.jsonl` too."""
    return model.startswith("glm")


@final
class ModelTotals:
    """What one model did and was worth."""

    __slots__ = ("cost_usd", "latency_ms", "tokens_in", "tokens_out", "turns", "value")

    def __init__(
        self,
        turns: int = 0,
        tokens_in: int = 0,
        tokens_out: int = 0,
        latency_ms: float = 0.0,
        cost_usd: float = 0.0,
        value: float = 0.0,
    ) -> None:
        self.turns = turns
        self.tokens_in = tokens_in
        self.tokens_out = tokens_out
        self.latency_ms = latency_ms
        self.cost_usd = cost_usd
        self.value = value

    def to_json(self) -> dict[str, Any]:
        """The slots by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@final
class Rollup:
    """Everything that the log has said so far, added up."""

    __slots__ = (
        "capacity_samples",
        "capacity_sum",
        "churn_samples",
        "churn_sum",
        "churn_trend",
        "cost_usd",
        "errors",
        "features_shipped",
        "features_status",
        "glm_turns",
        "image_turns",
        "last_created_at",
        "latency_ms",
        "licences",
        "models",
        "open_sessions",
        "reroutes",
        "sessions",
        "sessions_ended",
        "tokens_in",
        "tokens_out",
        "turns",
        "unreadable_lines",
    )

    def __init__(self) -> None:
        self.sessions = 0
        self.sessions_ended = 0
        self.turns = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.latency_ms = 0.0
        self.features_shipped = 0.0
        self.features_status: dict[str, int] = {}
        self.errors = 0
        self.churn_samples = 0
        self.churn_sum = 0.0
        self.churn_trend: list[float] = []
        self.capacity_samples = 0
        self.capacity_sum = 0.0
        self.cost_usd = 0.0
        self.reroutes = 0
        self.glm_turns = 0
        self.image_turns = 0
        self.unreadable_lines = 0
        self.last_created_at: str | None = None
        self.licences: dict[str, int] = {}
        self.models: dict[str, ModelTotals] = {}
        self.open_sessions: dict[str, int] = {}
        """Sessions begun and not ended, with the byte of the log where each begins."""

    def add_line(self, content: bytes, offset: int) -> dict[str, Any] | None:
        """Add a line of the log; one that cannot be read is counted, and answered by None."""
        event = parse_line(content)
        try:
            require_event(event or {})
        except SchemaViolationError:
            self.unreadable_lines += 1
            return None
        assert event is not None
        self.add(event, offset)
        return event

    def add(self, event: dict[str, Any], offset: int) -> None:
        """Add one valid event whose line begins at byte `offset`; an unknown type counts nothing."""
        match event["type"]:
            case "turn":
                self._add_turn(event)
            case "session":
                self._add_session(event, offset)
            case "session_end":
                self.sessions_ended += 1
                self.open_sessions.pop(event["session_id"], None)
            case _:
                pass

    def to_json(self) -> dict[str, Any]:
        """The state, as JSON values; `from_json` is its inverse."""
        state = {name: getattr(self, name) for name in self.__slots__ if name != "models"}
        return {**state, "models": {model: totals.to_json() for model, totals in self.models.items()}}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Go on from `to_json`. Raises KeyError or TypeError for anything else: rebuild from the log then."""
        rollup = cls()
        for name in cls.__slots__:
            kind = type(getattr(rollup, name))
            if kind is not type(None) and not isinstance(state[name], kind):
                raise TypeError(name)
            setattr(rollup, name, state[name])
        rollup.models = {model: ModelTotals(**totals) for model, totals in state["models"].items()}
        return rollup

    def _add_session(self, event: dict[str, Any], offset: int) -> None:
        self.sessions += 1
        self.open_sessions[event["session_id"]] = offset
        if licence := event.get("license_id"):
            # Of licensed sessions only: an ingested one's time is a stranger's word about the clock.
            self.last_created_at = event["created_at"]
            self.licences[licence] = self.licences.get(licence, 0) + 1

    def _add_turn(self, turn: dict[str, Any]) -> None:
        model, tokens_in, tokens_out = turn["model"], turn["tokens_in"], turn["tokens_out"]
        latency = turn["latency_ms"]
        self.turns += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.latency_ms += latency
        self.glm_turns += is_glm(model)
        self.image_turns += turn["input_kind"] == "image"
        totals = self._totals(model)
        totals.turns += 1
        totals.tokens_in += tokens_in
        totals.tokens_out += tokens_out
        totals.latency_ms += latency
        if (capacity := turn.get("capacity_used")) is not None:
            self.capacity_samples += 1
            self.capacity_sum += capacity
        if measurement := turn.get("measurement"):
            self._add_measurement(turn, measurement)
        if cost := turn.get("cost"):
            self.cost_usd += cost["estimated_usd"]
            totals.cost_usd += cost["estimated_usd"]
        if feature := turn.get("feature"):
            status = feature["status"]
            self.features_status[status] = self.features_status.get(status, 0) + 1
        if (decision := turn.get("decision")) and decision.get("rerouted"):
            self.reroutes += 1

    def _add_measurement(self, turn: dict[str, Any], measurement: dict[str, Any]) -> None:
        self.errors += measurement.get("errors", 0)
        if (churn := measurement.get("churn_score")) is not None:
            self.churn_samples += 1
            self.churn_sum += churn
            self.churn_trend.append(churn)
            del self.churn_trend[:-TREND]
        if delta := measurement.get("feature_delta"):
            self.features_shipped += delta
            for model, contribution in turn_shares(turn).items():
                self._totals(model).value += contribution

    def _totals(self, model: str) -> ModelTotals:
        if (totals := self.models.get(model)) is None:
            totals = self.models[model] = ModelTotals()
        return totals
