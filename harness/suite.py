"""What the harness knows of a system under test: a suite, found by entry-point group `holdfast.suites`.

    Suite.gather(stage)  drives the system as any user does, returns frozen evidence   (does I/O)
    Suite.gates          judge that evidence                                           (pure)

The stage is the suite's only door to a confined process, so a suite never learns how an isolation works.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, final

from holdfast.harness.gate import Gate
from holdfast.harness.service import Running, ServiceSpec

__all__ = ["Completed", "LaneMetrics", "Stage", "Suite"]

E = TypeVar("E")


@final
@dataclass(frozen=True, slots=True)
class Completed:
    """A one-shot command that ran to its end inside the isolation."""

    status: int
    """Exit status, 128 + n for a signal, as `holdfast run` gives it."""
    stdout: bytes
    stderr: bytes


class Stage(Protocol):
    """One isolation, one scratch folder, one run: what a suite acts on."""

    @property
    def isolation(self) -> str:
        """`none`, `seccomp` or `bwrap`."""

    @property
    def folder(self) -> Path:
        """Scratch of this run, writable inside the isolation at the same path, deleted afterwards."""

    @property
    def command(self) -> tuple[str, ...] | None:
        """What the user put in the system's place (`--proxy-cmd`), as words with `{templates}`; None for our own."""

    def serve(self, spec: ServiceSpec) -> AbstractContextManager[Running]:
        """Bring a service up inside, beside the probes; a stage serves once. When the suite is done with it,
        the harness attacks the sandbox that it runs in and looks at who owns its socket, then stops it.

        Raises `AgentLostError` when it does not become ready.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        """Run one command inside the isolation to its end; raises `TimeoutError` past `seconds`."""


@final
@dataclass(frozen=True, slots=True)
class LaneMetrics:
    """What one lane saw, as `METRICS_<name>.json` carries it."""

    requests: int
    status: Mapping[str, int]
    ttfb_ms: Mapping[str, float]
    violations: int
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """From the request's last byte to the answer's end."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """As the answers told them, `input` and `output`."""


@final
@dataclass(frozen=True, slots=True)
class Suite(Generic[E]):
    """How one system is driven and judged."""

    name: str
    """The entry point's name; the report's section and the metrics' keys carry it."""
    title: str
    gather: Callable[[Stage], E]
    gates: tuple[Gate[E], ...]
    isolations: tuple[str, ...] = ("none", "seccomp", "bwrap")
    serves: bool = False
    """Whether `gather` brings up a service; then the `identity` gate must see it."""
    accepts: bool = True
    """Whether `pytest -m acceptance` runs it; not where another suite contains it, or upstreams are live."""
    live: bool = False
    """Whether its upstreams are the real ones; else they are witnesses, and every result says so."""
    logs: Callable[[E], Mapping[str, bytes]] = field(default=lambda _: {})
    """Name -> the log that the system wrote, for who keeps snapshots; searched and redacted by the harness."""
    lanes: Callable[[E], Mapping[str, LaneMetrics]] = field(default=lambda _: {})
    secrets: Callable[[E], Mapping[str, str]] = field(default=lambda _: {})
    """Name -> canary of this run; the harness searches its own results for them."""
    details: Callable[[E], Mapping[str, Any]] = field(default=lambda _: {})
    """Figures for the report's section; JSON values only."""
