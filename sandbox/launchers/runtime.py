"""What the modules of foreign launchers share: finding a tool, a folder for one run, a root to fill by binds.

    found_tool("crun", "--version") -> Found          Parts.of(plan) -> what the plan asks for, sorted
    run_folder() -> Path, gone with the sandbox       make_root(folder, parts): links and mount points only

The root is an empty skeleton: links of a merged /usr and mount points. The host's own /usr and the running
interpreter are bound into it read-only, so the very same Python runs in every column.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Self, final

from holdfast.sandbox.kernel_calls import read_status
from holdfast.sandbox.plan import Bind, Chdir, Execute, Link, Plan, Through
from holdfast.sandbox.refusal import CannotConfineError

__all__ = [
    "Channel",
    "Found",
    "Parts",
    "found_tool",
    "make_root",
    "needs_unified_cgroup",
    "own_capabilities",
    "required",
    "run_folder",
]

ASK_SECONDS = 20.0
MOUNT_POINTS = ("usr", "dev", "proc", "sys", "tmp", "run", "var", "etc", "home", "root")


@final
class Channel(Enum):
    """How the agent's conversation with the harness crosses into a sandbox."""

    INHERITED = "inherited"
    """As descriptor 3."""
    STDERR = "stderr"
    """As descriptor 2, for launchers that close all others; the agent puts the terminal back there."""
    PATH = "path"
    """By a Unix socket in a folder that is bound into the sandbox."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """A tool on this machine."""

    path: str
    version: str | None
    problem: str | None = None
    """Why it is known not to start here; None when nothing speaks against it."""

    @property
    def sha256(self) -> str | None:
        """Of the file that is run, so that a result names the build that was measured."""
        try:
            with Path(self.path).resolve().open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """A plan for a foreign launcher, by what its operations are for."""

    through: Through
    links: tuple[Link, ...]
    binds: tuple[Bind, ...]
    cwd: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Sort the operations; a plan without a `Through` or an `Execute` is our own mistake."""
        (through,) = (op for op in plan.ops if isinstance(op, Through))
        (execute,) = (op for op in plan.ops if isinstance(op, Execute))
        return cls(
            through,
            tuple(op for op in plan.ops if isinstance(op, Link)),
            tuple(op for op in plan.ops if isinstance(op, Bind)),
            next((op.path for op in plan.ops if isinstance(op, Chdir)), "/"),
            execute.argv,
            dict(execute.environment),
        )

    def off(self, switch: str) -> bool:
        """Whether the plan turns this switch off."""
        return switch in self.through.loosened


def found_tool(name: str, *version_words: str, last: int = -1) -> Found | None:
    """Look a tool up on PATH, then beside the interpreter where the set-up puts peers; its own word for its version."""
    path = _look_up(name)
    if path is None:
        return None
    said = _output((path, *version_words)) if version_words else ""
    words = said.split("\n", maxsplit=1)[0].split()
    return Found(path, words[last].strip(",") if words else None)


def required(found: Found | None, name: str, package: str) -> Found:
    """The tool, or a refusal that says what to install or what is wrong."""
    if found is None:
        raise CannotConfineError(f"{name} is not on PATH", hint=package)
    if found.problem:
        raise CannotConfineError(f"{name} cannot start here: {found.problem}")
    return found


@lru_cache(maxsize=32)
def _look_up(name: str) -> str | None:
    """The system's folders too: an ordinary user's PATH often lacks /usr/sbin."""
    peers = Path(sys.prefix) / "peers" / "node_modules" / ".bin"
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", str(peers))))


@lru_cache(maxsize=64)
def _output(argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).decode(errors="replace").strip()


def run_folder(parent: str | None = None) -> Path:
    """A folder of one launch; the launch's clean-up removes it, also when the harness is killed."""
    return Path(tempfile.mkdtemp(prefix="holdfast-launch-", dir=parent))


def make_root(root: Path, links: Sequence[Link]) -> Path:
    """The skeleton: nothing in it but links and mount points."""
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True)
    for link in links:
        (root / link.path.lstrip("/")).symlink_to(link.target)
    return root


CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
    " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT"
    " SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL"
    " SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
"""In the order of their numbers (include/uapi/linux/capability.h)."""


def own_capabilities() -> tuple[str, ...]:
    """What this process may hand on: asking an engine for more than its own makes it refuse to start."""
    bounding = int(read_status()["CapBnd"], 16)
    return tuple(f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if bounding >> number & 1)


def needs_unified_cgroup() -> bool:
    """Whether /sys/fs/cgroup is a folder of version 1 hierarchies, which crun and podman refuse; root only."""
    cgroups = Path("/sys/fs/cgroup")
    return os.getuid() == 0 and (cgroups / "unified" / "cgroup.controllers").exists()
