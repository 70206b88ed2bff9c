"""What the log adds up to: the rollup, each model's share of the value, each model's health."""

from holdfast.systems.agentos.metrics.attribution import model_value, session_value, turn_shares
from holdfast.systems.agentos.metrics.health import ModelHealth, model_health
from holdfast.systems.agentos.metrics.rollup import Rollup

__all__ = ["ModelHealth", "Rollup", "model_health", "model_value", "session_value", "turn_shares"]
