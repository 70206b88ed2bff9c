"""What risk routing buys and costs, on traffic drawn from distributions that were written down first.

    Setting (simulation.json) -> draw -> the same requests down both arms -> Outcome(p95s, containments)

*Containment* is the share of all answers that are good or held back. The control arm runs the ensemble on
every request; the canary skips it where `routing.decide`, the code that serves, says so. Only the decision
differs between the arms: each request has one base latency, one ensemble latency and one truth.
"""

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, final

from holdfast.systems.kakeya.routing.decision import Estimate, Path, RiskPolicy, decide

__all__ = ["Outcome", "Request", "Setting", "committed", "iter_requests", "run", "sensitivity"]

POLICY = RiskPolicy(enabled=True)


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """One point in the space of distributions."""

    seed: int
    requests: int
    low_share: float
    """Of requests whose risk is drawn from `low_beta`; the others draw from `high_beta`."""
    low_beta: tuple[float, float]
    high_beta: tuple[float, float]
    calibration: float
    """P(bad answer | risk r) = min(1, calibration * r): above 1 the scorer is too sure of itself."""
    half_width_mean: float
    half_width_sigma: float
    ensemble_recall: float
    base_ms: tuple[float, float]
    """Median and sigma of a log-normal."""
    ensemble_ms: tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One request, with everything that chance decides."""

    estimate: Estimate
    bad: bool
    caught: bool
    """Whether the ensemble, if run, would hold a bad answer back."""
    base_ms: float
    ensemble_ms: float


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """Both arms, side by side."""

    requests: int
    fast_share: float
    control_p95_ms: float
    canary_p95_ms: float
    control_containment: float
    canary_containment: float
    control_recall: float
    """Of the bad answers alone, the share held back: a harder measure, and not the one that was promised."""
    canary_recall: float

    @property
    def gain_percent(self) -> float:
        """How much lower the canary's p95 is."""
        return 100 * (1 - self.canary_p95_ms / self.control_p95_ms)

    @property
    def containment_delta_points(self) -> float:
        """Canary less control, in points of a hundred."""
        return 100 * (self.canary_containment - self.control_containment)


def committed() -> tuple[Setting, Mapping[str, list[float]]]:
    """The setting on file, and the axes to vary."""
    text = files("holdfast.systems.kakeya").joinpath("simulation.json").read_text("utf-8")
    raw: dict[str, Any] = json.loads(text)
    base, ensemble = raw["latency_ms"]["base"], raw["latency_ms"]["ensemble"]
    setting = Setting(
        seed=raw["seed"],
        requests=raw["requests"],
        low_share=raw["risk"]["low_share"],
        low_beta=tuple(raw["risk"]["low_beta"]),
        high_beta=tuple(raw["risk"]["high_beta"]),
        calibration=raw["calibration"],
        half_width_mean=raw["interval"]["half_width_mean"],
        half_width_sigma=raw["interval"]["half_width_sigma"],
        ensemble_recall=raw["ensemble_recall"],
        base_ms=(base["median"], base["sigma"]),
        ensemble_ms=(ensemble["median"], ensemble["sigma"]),
    )
    return setting, raw["sensitivity"]


def run(setting: Setting, policy: RiskPolicy = POLICY) -> Outcome:
    """Both arms over the same requests."""
    requests = list(iter_requests(setting))
    fast = [decide(policy, request.estimate).path is Path.FAST for request in requests]
    arms = list(zip(requests, fast, strict=True))
    return Outcome(
        requests=len(requests),
        fast_share=_share(fast),
        control_p95_ms=_p95([r.base_ms + r.ensemble_ms for r in requests]),
        canary_p95_ms=_p95([r.base_ms + (0 if skipped else r.ensemble_ms) for r, skipped in arms]),
        control_containment=_share(not r.bad or r.caught for r in requests),
        canary_containment=_share(not r.bad or (r.caught and not skipped) for r, skipped in arms),
        control_recall=_share(r.caught for r in requests if r.bad),
        canary_recall=_share(r.caught and not skipped for r, skipped in arms if r.bad),
    )


def sensitivity(setting: Setting, axes: Mapping[str, list[float]]) -> list[tuple[str, float, Outcome]]:
    """One axis at a time, everything else as committed."""
    return [
        (axis, value, run(_moved(setting, axis, value))) for axis, values in axes.items() for value in values
    ]


def iter_requests(setting: Setting) -> Iterator[Request]:
    """The traffic; the same for the same setting, everywhere."""
    chance = random.Random(setting.seed)  # noqa: S311 - a simulation, not a secret
    for _ in range(setting.requests):
        beta = setting.low_beta if chance.random() < setting.low_share else setting.high_beta
        risk = chance.betavariate(*beta)
        half = setting.half_width_mean * math.exp(chance.gauss(0, setting.half_width_sigma))
        yield Request(
            Estimate(risk, max(0.0, risk - half), min(1.0, risk + half)),
            bad=chance.random() < setting.calibration * risk,
            caught=chance.random() < setting.ensemble_recall,
            base_ms=_log_normal(chance, setting.base_ms),
            ensemble_ms=_log_normal(chance, setting.ensemble_ms),
        )


def _moved(setting: Setting, axis: str, value: float) -> Setting:
    if axis == "ensemble_sigma":
        return replace(setting, ensemble_ms=(setting.ensemble_ms[0], value))
    return replace(setting, **{axis: value})  # type: ignore[arg-type]  # the axes are fields of float


def _log_normal(chance: random.Random, shape: tuple[float, float]) -> float:
    return shape[0] * math.exp(chance.gauss(0, shape[1]))


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def _share(good: Iterable[bool]) -> float:
    """Of none at all: everything, since nothing got through."""
    answers = list(good)
    return sum(answers) / len(answers) if answers else 1.0
