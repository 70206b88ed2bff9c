"""`codex sandbox`, npm `@openai/codex`, in the mode for work: reads everywhere, writes below the working folder, no network."""

from collections.abc import Mapping

from holdfast.sandbox.launchers.runtime import Channel, Found, Parts, found_tool, required, run_folder
from holdfast.sandbox.plan import Plan, Through
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "find", "lower"]

CHANNEL = Channel.STDERR
SWITCHES: tuple[str, ...] = ()
MODE = ("-c", 'sandbox_mode="workspace-write"')
POLICY = "codex sandbox, workspace-write, no other configuration; the host's root and Python"


def find(through: Through | None = None) -> Found | None:
    """codex on PATH, or where the set-up puts peers."""
    del through
    return found_tool("codex", "--version")


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One command line, with a configuration folder of this launch: nobody's own settings count."""
    parts = Parts.of(plan)
    found = required(find(), "codex", "make setup-peers")
    folder = run_folder("/var/tmp")  # noqa: S108 - made with mkdtemp; codex refuses a home below the usual one
    environment = {**parts.environment, "CODEX_HOME": str(folder)}
    steps = (
        ("directory", parts.cwd),
        ("execute", [found.path, "sandbox", *MODE, "--", *parts.argv], environment),
    )
    return Launch(steps, dict(descriptors), clean_up=(("rm", "-rf", "--", str(folder)),))
