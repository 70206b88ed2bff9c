"""What runc and crun share: the bundle that the tool's own `spec` command writes, filled by binds, then `run`.

The measured policy is that specification and nothing of ours but the root, the binds and the command. It has
no seccomp filter: who calls these tools by hand gets none.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.sandbox.launchers.runtime import (
    ASK_SECONDS,
    Found,
    Parts,
    make_root,
    own_capabilities,
    run_folder,
)
from holdfast.sandbox.plan import Plan
from holdfast.sandbox.refusal import CannotConfineError
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["POLICY", "SWITCHES", "lower_bundle"]

SWITCHES = ("capabilities",)
POLICY = "what its own `spec` command writes, which has no filter; the host's /usr and Python bound read-only"

CAPABILITY_SETS = ("bounding", "effective", "permitted")


def lower_bundle(
    found: Found,
    plan: Plan,
    descriptors: Mapping[int, int],
    *,
    options: tuple[str, ...],
    first: tuple[Step, ...],
) -> Launch:
    """Write a bundle into a folder of this launch, run it, delete both afterwards."""
    parts = Parts.of(plan)
    folder = run_folder()
    make_root(folder / "root", parts.links)
    _write_config(found, folder, parts)
    tool = [found.path, *options, "--root", str(folder / "state")]
    preserved = max((*descriptors, 2)) - 2
    argv = [*tool, "run", "--bundle", str(folder), "--preserve-fds", str(preserved), folder.name]
    clean_up = ((*tool, "delete", "--force", folder.name), ("rm", "-rf", "--", str(folder)))
    steps = (*first, ("execute", argv, dict(parts.environment)))
    return Launch(steps, dict(descriptors), clean_up=clean_up)


def _write_config(found: Found, folder: Path, parts: Parts) -> None:
    """The tool's own default, with our root, binds and command."""
    done = subprocess.run(
        [found.path, "spec"], cwd=folder, capture_output=True, timeout=ASK_SECONDS, check=False
    )
    if done.returncode:
        raise CannotConfineError(
            f"`{found.path} spec` failed: {done.stderr.decode(errors='replace').strip()}"
        )
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    process = config["process"]
    process |= {"terminal": False, "args": list(parts.argv), "cwd": parts.cwd}
    process["env"] += [f"{name}={parts.environment[name]}" for name in parts.through.passed]
    if parts.off("capabilities"):
        process["capabilities"] |= {kind: list(own_capabilities()) for kind in CAPABILITY_SETS}
    config["root"] = {"path": str(folder / "root"), "readonly": True}
    config["mounts"] += [
        {
            "destination": bind.path,
            "type": "bind",
            "source": bind.path,
            "options": ["rbind", "rw" if bind.writable else "ro"],
        }
        for bind in parts.binds
    ]
    path.write_text(json.dumps(config), encoding="utf-8")
    path.chmod(0o600)
