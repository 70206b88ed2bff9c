"""Layers of a plan, and the plans with one of them missing or alone; pure.

layers_of(plan)              the named defences that a plan has
without_layer(plan, layer)   the flip: everything but this one
only_layer(plan, layer)      this one, with everything else taken away that the launcher lets go
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.plan import (
    Bind,
    Devices,
    DropBoundingSet,
    DropCapabilities,
    Execute,
    Filter,
    Hide,
    HostRoot,
    LandlockDomain,
    Link,
    NewSession,
    NoNewPrivileges,
    Op,
    Plan,
    Processes,
    Tmpfs,
    Unshare,
)
from holdfast.sandbox.profile import Action, Profile

__all__ = [
    "ENVIRONMENT",
    "MARKER",
    "ROOT",
    "Layer",
    "bare",
    "layers_of",
    "marked_filter",
    "only_layer",
    "with_filter",
    "without_layer",
]

MARKER = 4000
"""An errno that no kernel code returns and that a filter may (the kernel caps it at 4095)."""

ROOT, ENVIRONMENT = "root", "environment"


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """One defence that can be switched off by itself."""

    name: str
    kinds: tuple[type[Op], ...] = ()
    namespace: str = ""

    def has(self, op: Op) -> bool:
        """Whether an operation is part of it."""
        if isinstance(op, Unshare):
            return op.namespace == self.namespace
        return isinstance(op, self.kinds)


_LAYERS: tuple[Layer, ...] = (
    Layer("filter", (Filter,)),
    Layer("landlock", (LandlockDomain,)),
    Layer("no_new_privs", (NoNewPrivileges,)),
    Layer("bounding set", (DropBoundingSet,)),
    Layer("capabilities", (DropCapabilities,)),
    *(Layer(f"{name} namespace", namespace=name) for name in ("user", "pid", "ipc", "uts", "cgroup", "net")),
    Layer(ROOT, (Bind, Hide, Link, Tmpfs, Processes, Devices), namespace="mount"),
    Layer("session", (NewSession,)),
)


def layers_of(plan: Plan) -> tuple[Layer, ...]:
    """Those that the plan has; a put-together root comes with an environment that is put together too."""
    found = tuple(layer for layer in _LAYERS if any(layer.has(op) for op in plan.ops))
    return (*found, Layer(ENVIRONMENT)) if plan.isolation is Isolation.BWRAP else found


def without_layer(plan: Plan, layer: Layer, inherited: Mapping[str, str]) -> Plan:
    """Exactly this layer removed; `inherited` is the environment that would have been passed on."""
    if layer.name == ENVIRONMENT:
        return Plan(plan.isolation, tuple(_with_environment(op, inherited) for op in plan.ops))
    kept = tuple(op for op in plan.ops if not layer.has(op))
    # A launcher that makes a root anyway is told to take the host's, devices and all.
    return Plan(plan.isolation, (HostRoot(), *kept) if layer.name == ROOT else kept)


def bare(plan: Plan, inherited: Mapping[str, str]) -> Plan:
    """Every layer removed: what the launcher does unasked."""
    for layer in layers_of(plan):
        plan = without_layer(plan, layer, inherited)
    return plan


def only_layer(plan: Plan, layer: Layer, inherited: Mapping[str, str]) -> Plan:
    """Every layer but this one removed."""
    for other in layers_of(plan):
        if other != layer:
            plan = without_layer(plan, other, inherited)
    return plan


def with_filter(plan: Plan, code: bytes) -> Plan:
    """The same plan with another filter in the place of its own."""
    return Plan(
        plan.isolation, tuple(replace(op, code=code) if isinstance(op, Filter) else op for op in plan.ops)
    )


def marked_filter(profile: Profile) -> bytes:
    """The profile's filter with each errno made the marker, so that its denials can be told from all others."""
    marked = (replace(rule, errno=MARKER) if rule.action is Action.ERRNO else rule for rule in profile.rules)
    # A rule that has become the default's own action is one that libseccomp refuses; the default does its work.
    rules = tuple(r for r in marked if not (r.action is Action.ERRNO is profile.default_action))
    return assemble(replace(profile, default_errno=MARKER, rules=rules)).code


def _with_environment(op: Op, inherited: Mapping[str, str]) -> Op:
    if not isinstance(op, Execute):
        return op
    return replace(op, environment=tuple(sorted({**dict(op.environment), **inherited}.items())))


Alter = Callable[[Plan], Plan]
