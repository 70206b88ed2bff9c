"""One measured figure, beside the limit that it is held to."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import final

__all__ = ["Row", "median_seconds", "percentile"]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A figure: what was measured, how much, against which limit or peer."""

    name: str
    value: float | None
    """None for what could not be measured here; the note says why."""
    unit: str
    """`us`, `ms`, `s`, `MiB`, `x` (a ratio), `/s`, ..."""
    limit: float | None = None
    """The figure promised; None for a peer's or an explaining row."""
    more_is_better: bool = False
    note: str = ""
    """How it was taken: sizes, counts, the peer and its version."""

    @property
    def shown(self) -> str:
        """The value with its unit."""
        return "not measured" if self.value is None else f"{self.value:.4g} {self.unit}"

    @property
    def holds(self) -> bool | None:
        """Whether the promise is kept; None where there is none. What was not measured keeps no promise."""
        if self.limit is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.limit if self.more_is_better else self.value <= self.limit


def median_seconds(call: Callable[[], object], *, rounds: int) -> float:
    """Median wall-clock seconds of `call` over `rounds`, after one warm-up."""
    call()
    return statistics.median(_timed(call) for _ in range(rounds))


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; `share` in 0..1; `values` may be unsorted and must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
