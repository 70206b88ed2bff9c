"""`runc` with the bundle of `runc spec`."""

from collections.abc import Mapping

from holdfast.sandbox.launchers.oci import POLICY, SWITCHES, lower_bundle
from holdfast.sandbox.launchers.runtime import Channel, Found, found_tool, required
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.INHERITED


def find(through: Through | None = None) -> Found | None:
    """runc on PATH."""
    del through
    return found_tool("runc", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """`runc run`, in the foreground."""
    return lower_bundle(
        required(find(), "runc", "apt-get install runc"), plan, descriptors, options=(), first=()
    )
