"""Probes: one attempt at a forbidden act each, with what its answers mean.

    Probe.attempt(field)   runs inside, in a child of the agent      -> an errno, or evidence
    classify(probe, ...)   runs outside                              -> Arm(outcome, errno, signal)

Standard library only: the agent imports this package wherever a Python can be mounted.
"""

from collections.abc import Callable, Mapping

from holdfast.sandbox.probes import mount, perf_bpf, procmem, ptrace_keyctl, reachable, tiocsti, unshare
from holdfast.sandbox.probes.probe import FIVE, Level, Probe

__all__ = [
    "FIVE",
    "FURTHER",
    "REST",
    "Level",
    "Probe",
    "all_probes",
    "catalogue",
    "liveness_of",
    "probe_by_id",
]

FURTHER = ("procmem", "reachable")
"""Families outside the five; in the default run and the report."""

REST = (
    "root",
    "process",
    "tty",
    "uring",
    "uffd",
    "handle",
    "personality",
    "sock",
    "kernel",
    "abi",
    "state",
)
"""Families that only the whole catalogue has."""

_MODULES = (mount, unshare, perf_bpf, ptrace_keyctl, tiocsti, procmem, reachable)

_LIVENESS: Mapping[str, Callable[[], None]] = {module.FAMILY: module.alive for module in _MODULES}


def all_probes() -> tuple[Probe, ...]:
    """The default battery, in a stable order."""
    return tuple(probe for module in _MODULES for probe in module.PROBES)


def catalogue() -> tuple[Probe, ...]:
    """The default battery and all the rest: further families, other ABIs, threads, after `execve`."""
    from holdfast.sandbox.probes import further  # only who asks for it pays for it: it reads a table of calls

    return (*all_probes(), *further.PROBES)


def probe_by_id() -> Mapping[str, Probe]:
    """The default battery by id; ids are unique in the whole catalogue, which a test shows."""
    return {probe.id: probe for probe in all_probes()}


def liveness_of(family: str) -> Callable[[], None]:
    """The family's harmless sibling: what must still work inside, or a denial shows nothing."""
    if family in _LIVENESS:
        return _LIVENESS[family]
    from holdfast.sandbox.probes import further

    return further.LIVENESS[family]
