"""`srt`, npm `@anthropic-ai/sandbox-runtime`: bubblewrap and a small filter, no network, writes where allowed."""

import json
from collections.abc import Mapping

from holdfast.sandbox.launchers.runtime import Channel, Found, Parts, found_tool, required, run_folder
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.STDERR
"""It closes all else, and its filter denies making a Unix socket inside."""
SWITCHES: tuple[str, ...] = ()
POLICY = "no domain allowed, writes to the scratch folder only; the host's root and Python"


def find(through: Through | None = None) -> Found | None:
    """srt on PATH, or where the set-up puts peers."""
    del through
    return found_tool("srt", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One command line, with the settings in a file of this launch."""
    parts = Parts.of(plan)
    found = required(find(), "srt", "make setup-peers")
    folder = run_folder()
    writable = [bind.path for bind in parts.binds if bind.writable]
    settings = {
        "network": {"allowedDomains": [], "deniedDomains": []},
        "filesystem": {"denyRead": [], "allowWrite": writable, "denyWrite": []},
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    argv = [found.path, "--settings", str(folder / "settings.json"), "--", *parts.argv]
    steps = (("directory", parts.cwd), ("execute", argv, dict(parts.environment)))
    return Launch(steps, dict(descriptors), clean_up=(("rm", "-rf", "--", str(folder)),))
