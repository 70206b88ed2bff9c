"""Counters and histograms in Prometheus' text format (version 0.0.4): few enough to need no library.

No label carries a tenant, a key or anything that a client wrote: each label's values come from an enum.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import final

__all__ = ["METRICS", "Metrics"]

BUCKETS_MS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 200.0, 500.0, 1000.0)

METRICS = {
    "kakeya_responses_total": ("counter", "Answers of POST /v1/verify, by status."),
    "kakeya_identity_refused_total": ("counter", "Requests without a usable identity, by reason."),
    "kakeya_vrf_total": ("counter", "VRF proofs looked at, by outcome."),
    "kakeya_paths_total": ("counter", "Routing decisions, by path and reason."),
    "kakeya_contained_total": ("counter", "Answers held back by the ensemble."),
    "kakeya_audited_total": ("counter", "Fast-path answers that the ensemble looked at afterwards."),
    "kakeya_missed_total": ("counter", "Audited fast-path answers that the ensemble would have held back."),
    "kakeya_rollbacks_total": ("counter", "Automatic rollbacks, by reason."),
    "kakeya_policy_errors_total": (
        "counter",
        "New policies that were refused; the one before stays in force.",
    ),
    "kakeya_verify_milliseconds": ("histogram", "Time to answer POST /v1/verify, body read to answer made."),
}


@final
@dataclass(slots=True)
class Metrics:
    """One process's figures."""

    _counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=Counter)
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    _total_ms: float = 0.0

    def count(self, name: str, **labels: str) -> None:
        """One more; `name` is a key of `METRICS`."""
        assert METRICS[name][0] == "counter"
        self._counts[name, tuple(sorted(labels.items()))] += 1

    def value(self, name: str, **labels: str) -> int:
        """What `count` has counted."""
        return self._counts[name, tuple(sorted(labels.items()))]

    def observe_ms(self, milliseconds: float) -> None:
        """One answered request."""
        self._buckets[bisect_left(BUCKETS_MS, milliseconds)] += 1
        self._total_ms += milliseconds

    def render(self) -> str:
        """The exposition; a metric that counted nothing yet still has its HELP and TYPE."""
        lines: list[str] = []
        for name, (kind, text) in METRICS.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += self._histogram(name) if kind == "histogram" else self._counter(name)
        return "\n".join(lines) + "\n"

    def _counter(self, name: str) -> list[str]:
        rows = sorted((labels, n) for (counted, labels), n in self._counts.items() if counted == name)
        return [f"{name}{_labels(labels)} {n}" for labels, n in rows]

    def _histogram(self, name: str) -> list[str]:
        lines, seen = [], 0
        for bound, n in zip((*map(str, BUCKETS_MS), "+Inf"), self._buckets, strict=True):
            seen += n
            lines.append(f'{name}_bucket{{le="{bound}"}} {seen}')
        return [*lines, f"{name}_sum {self._total_ms:.6f}", f"{name}_count {seen}"]


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
