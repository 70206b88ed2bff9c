"""`crun` with the bundle of `crun spec`.

Without cgroups of its own: setting them up wants rights that a container's root may lack, and no act of
the catalogue turns on them.
"""

from collections.abc import Mapping

from holdfast.sandbox.launchers.oci import POLICY, SWITCHES, lower_bundle
from holdfast.sandbox.launchers.runtime import Channel, Found, found_tool, needs_unified_cgroup, required
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.INHERITED


def find(through: Through | None = None) -> Found | None:
    """crun on PATH."""
    del through
    return found_tool("crun", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """`crun run`, in the foreground; on a hybrid host with a cgroup2 of its own to look at."""
    first: tuple[Step, ...] = (("unified_cgroup",),) if needs_unified_cgroup() else ()
    found = required(find(), "crun", "apt-get install crun")
    return lower_bundle(found, plan, descriptors, options=("--cgroup-manager=disabled",), first=first)
