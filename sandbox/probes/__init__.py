"""Probes: one attempt at a forbidden act each, with what its answers mean.

    Probe.attempt(field)   runs inside, in a child of the agent      -> an errno, or evidence
    classify(probe, ...)   runs outside                              -> Arm(outcome, errno, signal)

Standard library only: the agent imports this package wherever a Python can be mounted.
"""

from collections.abc import Mapping

from holdfast.sandbox.probes import mount, perf_bpf, procmem, ptrace_keyctl, reachable, tiocsti, unshare
from holdfast.sandbox.probes.probe import FIVE, Level, Probe

__all__ = ["FIVE", "FURTHER", "LIVENESS", "Level", "Probe", "all_probes", "probe_by_id"]

FURTHER = ("procmem", "reachable")
"""Families outside the five; in the default run and the report."""

_MODULES = (mount, unshare, perf_bpf, ptrace_keyctl, tiocsti, procmem, reachable)

LIVENESS = {module.FAMILY: module.alive for module in _MODULES}
"""One harmless sibling a family: what must still work inside, or a denial shows nothing."""


def all_probes() -> tuple[Probe, ...]:
    """The default battery, in a stable order."""
    return tuple(probe for module in _MODULES for probe in module.PROBES)


def probe_by_id() -> Mapping[str, Probe]:
    """The same by id; ids are unique, which a test shows."""
    return {probe.id: probe for probe in all_probes()}
