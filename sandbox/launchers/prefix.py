"""Any launcher by its command prefix: `nsjail -Mo --chroot / --`, then the agent's own command line.

What is inside is what the prefix makes visible; it must show the running interpreter and this package at
their own paths. Descriptors 0 to 2 are all that every launcher passes on, so the conversation takes 2.
"""

from collections.abc import Mapping

from holdfast.sandbox.launchers.runtime import Channel, Found, Parts, found_tool, required
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.STDERR
SWITCHES: tuple[str, ...] = ()
POLICY = "as the prefix says; the host's Python must be visible inside at its own path"


def find(through: Through | None = None) -> Found | None:
    """The prefix's first word; its version is not asked for, since no option means that everywhere."""
    return found_tool(through.prefix[0]) if through and through.prefix else None


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """The prefix, then the command."""
    parts = Parts.of(plan)
    words = parts.through.prefix
    found = required(find(parts.through), f"`{words[0]}`", "check the prefix's first word")
    argv = [found.path, *words[1:], *parts.argv]
    return Launch((("directory", parts.cwd), ("execute", argv, dict(parts.environment))), dict(descriptors))
