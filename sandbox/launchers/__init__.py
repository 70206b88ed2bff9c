"""Launchers: one module an isolation, each turning a plan into what the spawner carries out.

    Plan -> Launcher.lower(plan, descriptors) -> Launch (steps, descriptors) -> Spawner

A launcher decides nothing; everything that it does stands in the plan. A *foreign* launcher is a sandbox
that is not ours: what it applies is its own default, and its module says which, how a Python comes to be
inside, by which channel the agent's conversation crosses, and which of its layers can be switched off.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.launchers import (
    bwrap,
    codex,
    crun,
    docker,
    firejail,
    nspawn,
    podman,
    prefix,
    runc,
    seccomp,
    srt,
    unconfined,
)
from holdfast.sandbox.launchers.runtime import Channel, Found
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["ForeignLauncher", "Launcher", "channel_of", "foreign_facts", "foreign_launcher", "launcher_for"]


class Launcher(Protocol):
    """What a launcher module offers."""

    def lower(self, plan: Plan, descriptors: Mapping[int, int]) -> Launch:
        """The spawner's steps for a plan; `descriptors` maps the command's numbers to ours.

        Raises `CannotConfineError` when the launcher is missing or known not to start here.
        """


class ForeignLauncher(Launcher, Protocol):
    """What the module of a sandbox that is not ours offers besides."""

    @property
    def CHANNEL(self) -> Channel:  # noqa: N802 - a module's constant
        """How the agent's conversation crosses."""

    @property
    def SWITCHES(self) -> tuple[str, ...]:  # noqa: N802
        """Layers that it lets a user turn off: `filter`, `capabilities`."""

    @property
    def POLICY(self) -> str:  # noqa: N802
        """In words: what is measured, and where the Python inside comes from."""

    def find(self, through: Through | None = None) -> Found | None:
        """The tool on this machine, with why it cannot start if that is known; None when it is missing."""


def launcher_for(isolation: AnyIsolation) -> Launcher:
    """The module that carries out the plans of an isolation."""
    return foreign_launcher(isolation) if isinstance(isolation, Foreign) else _BY_ISOLATION[isolation]


def foreign_launcher(foreign: Foreign) -> ForeignLauncher:
    """The module of a known name, or the one for any command prefix."""
    return prefix if foreign.prefix else _BY_NAME[foreign.value]


def channel_of(isolation: AnyIsolation) -> Channel:
    """How the conversation with an agent crosses into this sandbox."""
    return foreign_launcher(isolation).CHANNEL if isinstance(isolation, Foreign) else Channel.INHERITED


def foreign_facts(foreign: Foreign, plan: Plan | None) -> dict[str, Any]:
    """Name, version and digest of the tool, and the policy that was measured."""
    through = next((op for op in plan.ops if isinstance(op, Through)), None) if plan else None
    launcher = foreign_launcher(foreign)
    found = launcher.find(through or Through(foreign.value, foreign.prefix))
    return {
        "name": foreign.value,
        "version": found.version if found else None,
        "sha256": found.sha256 if found else None,
        "argv": list(foreign.prefix),
        "policy": launcher.POLICY,
    }


_BY_ISOLATION: Mapping[Isolation, Launcher] = {
    Isolation.NONE: unconfined,
    Isolation.SECCOMP: seccomp,
    Isolation.BWRAP: bwrap,
}

_BY_NAME: Mapping[str, ForeignLauncher] = {
    "firejail": firejail,
    "docker": docker,
    "podman": podman,
    "runc": runc,
    "crun": crun,
    "systemd-nspawn": nspawn,
    "srt": srt,
    "codex": codex,
}
