"""Launchers: one module an isolation, each turning a plan into what the spawner carries out.

    Plan -> Launcher.lower(plan, descriptors) -> Launch (steps, descriptors) -> Spawner

A launcher decides nothing; everything that it does stands in the plan.
"""

from collections.abc import Mapping
from typing import Protocol

from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.launchers import bwrap, seccomp, unconfined
from holdfast.sandbox.plan import Plan
from holdfast.sandbox.spawn import Launch

__all__ = ["Launcher", "launcher_for"]


class Launcher(Protocol):
    """What a launcher module offers."""

    def lower(self, plan: Plan, descriptors: Mapping[int, int]) -> Launch:
        """The spawner's steps for a plan; `descriptors` maps the command's numbers to ours.

        Raises `CannotConfineError` when the launcher is missing or known not to start here.
        """


def launcher_for(isolation: Isolation) -> Launcher:
    """The module that carries out the plans of an isolation."""
    return _BY_ISOLATION[isolation]


_BY_ISOLATION: Mapping[Isolation, Launcher] = {
    Isolation.NONE: unconfined,
    Isolation.SECCOMP: seccomp,
    Isolation.BWRAP: bwrap,
}
