"""`podman run` on a root of binds, with its default filter and capabilities, without cgroups and network.

A store of its own in a folder of this launch: nothing of the user's images and containers is touched.
"""

from collections.abc import Iterator, Mapping

from holdfast.sandbox.launchers.runtime import (
    Channel,
    Found,
    Parts,
    found_tool,
    make_root,
    needs_unified_cgroup,
    required,
    run_folder,
)
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.INHERITED
SWITCHES = ("filter", "capabilities")
POLICY = "podman run --network none --cgroups=disabled --rootfs; the host's /usr and Python bound read-only"

LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
"""podman's own defaults are higher than what a container's root may set."""

_OFF: Mapping[str, tuple[str, ...]] = {
    "filter": ("--security-opt", "seccomp=unconfined"),
    "capabilities": ("--cap-add", "ALL"),
}


def find(through: Through | None = None) -> Found | None:
    """podman on PATH."""
    del through
    return found_tool("podman", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One command line; conmon stays below it, so the supervisor can end it."""
    parts = Parts.of(plan)
    found = required(find(), "podman", "apt-get install podman")
    folder = run_folder()
    make_root(folder / "root", parts.links)
    store = ("--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver=vfs")
    tool = [found.path, *store]
    preserved = max((*descriptors, 2)) - 2
    argv = [*tool, "run", "--rm", "--name", folder.name, "--network", "none", "--cgroups=disabled", *LIMITS]
    argv += ["--interactive", f"--preserve-fds={preserved}", "--workdir", parts.cwd, *_options(parts)]
    argv += ["--rootfs", str(folder / "root"), *parts.argv]
    first: tuple[Step, ...] = (("unified_cgroup",),) if needs_unified_cgroup() else ()
    clean_up = ((*tool, "rm", "--force", "--time", "0", folder.name), ("rm", "-rf", "--", str(folder)))
    steps = (*first, ("execute", argv, dict(parts.environment)))
    return Launch(steps, dict(descriptors), clean_up=clean_up)


def _options(parts: Parts) -> Iterator[str]:
    for bind in parts.binds:
        yield from ("--volume", f"{bind.path}:{bind.path}:{'rw' if bind.writable else 'ro'}")
    for name in parts.through.passed:
        yield from ("--env", name)  # the value comes from podman's own environment, not its command line
    for switch in SWITCHES:
        yield from _OFF[switch] if parts.off(switch) else ()
