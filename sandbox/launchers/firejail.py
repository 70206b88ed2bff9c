"""`firejail` with the profile that it applies to any program of an ordinary user, `default.profile`.

Root would get `server.profile`, which hides /tmp and so the harness's scratch folder; what people run is
the other one. The host's root is visible, so the running Python is there already.
"""

from collections.abc import Mapping

from holdfast.sandbox.launchers.runtime import Channel, Found, Parts, found_tool, required
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.INHERITED
SWITCHES = ("filter", "capabilities")
POLICY = "--profile=default, as for a program without a profile of its own; the host's Python"

_IGNORED: Mapping[str, tuple[str, ...]] = {
    "filter": ("--ignore=seccomp", "--ignore=protocol", "--ignore=restrict-namespaces"),
    "capabilities": ("--ignore=caps.drop",),
}


def find(through: Through | None = None) -> Found | None:
    """firejail on PATH."""
    del through
    return found_tool("firejail", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One command line; firejail closes descriptors that it is not told to keep."""
    parts = Parts.of(plan)
    found = required(find(), "firejail", "apt-get install firejail")
    kept = [f"--keep-fd={number}" for number in sorted(descriptors) if number > 2]
    ignored = [word for switch in SWITCHES if parts.off(switch) for word in _IGNORED[switch]]
    argv = [found.path, "--quiet", *ignored, "--profile=default", *kept]
    steps = (("directory", parts.cwd), ("execute", [*argv, "--", *parts.argv], dict(parts.environment)))
    return Launch(steps, dict(descriptors))
