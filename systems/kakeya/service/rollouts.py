"""Where each tenant's risk routing stands, learnt from live traffic and kept on file.

    observe(tenant, arm, Arm) -> pairs canary with control, steps the `Rollout`, writes `rollouts.json`

A new start percentage in the policy starts a rollout anew; nothing else lifts a rollback.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import final

from holdfast.systems.kakeya.routing.guard import Guard
from holdfast.systems.kakeya.routing.rollout import Arm, Rollout, record
from holdfast.systems.kakeya.strict_json import parse_object

__all__ = ["BASELINE", "Rollouts"]

BASELINE = 200
"""Control requests whose p95 becomes the baseline; before that no pair is counted."""
_WAITING = 50
"""Unpaired control requests kept; the canary is always set against recent ones."""
SCHEMA = "holdfast.kakeya-rollouts/1"


@final
@dataclass(slots=True)
class _Tenant:
    start: float
    rollout: Rollout
    baseline: list[float] = field(default_factory=list)
    controls: deque[Arm] = field(default_factory=lambda: deque(maxlen=_WAITING))
    stand_in: "count[int]" = field(default_factory=count)


@final
class Rollouts:
    """All tenants'. `on_step(tenant, rollout)` is called before a changed percentage takes effect."""

    def __init__(self, path: Path, on_step: Callable[[str, Rollout], None]) -> None:
        self._path, self._on_step = path, on_step
        self._tenants = {name: _Tenant(start, rollout) for name, (start, rollout) in _load(path).items()}

    def percent(self, tenant: str, start: float) -> float:
        """The share in force; `start` is the policy's `riskRouting.canary`."""
        return self._tenant(tenant, start).rollout.percent

    def observe(self, name: str, start: float, arm: Arm, *, canary: bool) -> None:
        """One answered request of either arm."""
        tenant = self._tenant(name, start)
        if not canary:
            self._control(tenant, arm)
        elif tenant.rollout.p95_ms > 0 and (control := _counterpart(tenant)):
            self._step(name, tenant, record(tenant.rollout, arm, control))

    def _tenant(self, name: str, start: float) -> _Tenant:
        known = self._tenants.get(name)
        if known is None or known.start != start:
            known = self._tenants[name] = _Tenant(start, Rollout(percent=start, p95_ms=0.0))
        return known

    def _control(self, tenant: _Tenant, arm: Arm) -> None:
        tenant.controls.append(arm)
        if tenant.rollout.p95_ms == 0:
            tenant.baseline.append(arm.latency_ms)
            if len(tenant.baseline) == BASELINE:
                p95 = sorted(tenant.baseline)[int(0.95 * BASELINE)]
                tenant.rollout = Rollout(tenant.rollout.percent, p95)

    def _step(self, name: str, tenant: _Tenant, rollout: Rollout) -> None:
        if rollout.percent != tenant.rollout.percent:
            self._on_step(name, rollout)
            tenant.rollout = rollout
            self._save()
        tenant.rollout = rollout

    def _save(self) -> None:
        body = {
            "schema": SCHEMA,
            "tenants": {
                name: {
                    "start": t.start,
                    "percent": t.rollout.percent,
                    "p95_ms": t.rollout.p95_ms,
                    "reason": t.rollout.reason,
                }
                for name, t in sorted(self._tenants.items())
            },
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(body, indent=1))
        temporary.replace(self._path)


def _counterpart(tenant: _Tenant) -> Arm | None:
    """The oldest control that waits. At 100 % there is none left: the baseline itself stands in.

    It misses nothing, and every twentieth of it lies above its own p95.
    """
    if tenant.controls:
        return tenant.controls.popleft()
    if tenant.rollout.percent < 100:
        return None
    above = next(tenant.stand_in) % 20 == 0
    return Arm(latency_ms=float("inf") if above else 0.0, missed=False)


def _load(path: Path) -> dict[str, tuple[float, Rollout]]:
    if not path.exists():
        return {}
    kept = parse_object(path.read_bytes())["tenants"]
    return {
        name: (row["start"], Rollout(row["percent"], row["p95_ms"], Guard(), Guard(), row["reason"]))
        for name, row in kept.items()
    }
