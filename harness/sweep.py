"""Temporary folders say whose they are, so that a later run can remove those whose owner is gone.

    owned_prefix()      -> "holdfast-<pid namespace>-<pid>-<start time>-"
    sweep(folder)       -> the paths that were removed

A process id alone is used again; with the start time (clock ticks since boot, `/proc/PID/stat` field 22) it
names one process. Ids mean something in their own pid namespace only, so what another namespace's harness
left is not judged, and not touched: a container may share this folder.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from holdfast.sandbox.host import read_host

__all__ = ["is_gone", "owned_prefix", "sweep"]

_OWNED = re.compile(r"\.?holdfast-(?:canary-)?(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)-")


def owned_prefix(kind: str = "") -> str:
    """How the names of this process's own temporary files begin."""
    pid = os.getpid()
    return f"holdfast-{kind}{_namespace()}-{pid}-{start_time(pid)}-"


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def start_time(pid: int) -> int | None:
    """When a process began, in ticks since boot; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])  # what stands before the last `)` may hold spaces


def is_gone(name: str) -> bool:
    """Whether a name is one of ours whose owner has ended; False where that cannot be told."""
    found = _OWNED.match(name)
    if found is None or int(found["namespace"]) != _namespace():
        return False
    return start_time(int(found["pid"])) != int(found["start"])


def sweep(*folders: Path) -> tuple[Path, ...]:
    """Remove what dead owners left in `folders` (default: the temporary folder and the home, where canaries
    lie); only what is this user's own, and never through a link."""
    removed = []
    for path in _iter_left(folders or (Path(tempfile.gettempdir()), Path(read_host().home))):
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return tuple(removed)


def _iter_left(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        try:
            entries = [entry for entry in folder.iterdir() if is_gone(entry.name)]
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.lstat().st_uid == os.getuid():
                    yield entry
            except OSError:
                continue  # another sweep was faster
