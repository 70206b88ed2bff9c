"""`systemd-nspawn` on a root of binds, unregistered, with its default filter and capabilities.

`--pipe` hands descriptors 0 to 2 over as they are, a terminal too: its manual warns of exactly that. All
others are closed, so the conversation takes a socket in a bound folder.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace

from holdfast.sandbox.launchers.runtime import (
    Channel,
    Found,
    Parts,
    found_tool,
    make_root,
    required,
    run_folder,
)
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.PATH
SWITCHES = ("filter", "capabilities")
POLICY = "--pipe --register=no --keep-unit; the host's /usr and Python bound read-only"


def find(through: Through | None = None) -> Found | None:
    """systemd-nspawn on PATH; it wants to be root."""
    del through
    found = found_tool("systemd-nspawn", "--version", last=1)
    if found is not None and os.getuid() != 0:
        return replace(found, problem="it needs root")
    return found


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One command line; the filter has no option to leave it away, but a variable."""
    parts = Parts.of(plan)
    found = required(find(), "systemd-nspawn", "apt-get install systemd-container")
    folder = run_folder()
    root = make_root(folder / "root", parts.links)
    argv = [found.path, "--quiet", "--pipe", "--register=no", "--keep-unit", "--link-journal=no"]
    argv += [
        f"--machine=holdfast-{secrets.token_hex(6)}",
        f"--directory={root}",
        f"--chdir={parts.cwd}",
        *_options(parts),
    ]
    environment = {**parts.environment, **({"SYSTEMD_SECCOMP": "0"} if parts.off("filter") else {})}
    steps = (("execute", [*argv, "--", *parts.argv], environment),)
    return Launch(steps, dict(descriptors), clean_up=(("rm", "-rf", "--", str(folder)),))


def _options(parts: Parts) -> Iterator[str]:
    for bind in parts.binds:
        yield f"--bind{'' if bind.writable else '-ro'}={bind.path}"
    for name in parts.through.passed:
        yield f"--setenv={name}"  # the value comes from nspawn's own environment
    if parts.off("capabilities"):
        yield "--capability=all"
