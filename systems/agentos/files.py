"""Files that are replaced whole: written beside their place, then renamed into it."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from holdfast.systems.agentos.errors import StoreError

__all__ = ["explain_os_error", "make_folder", "read_bounded", "write_atomically", "write_json"]

_WORDS = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EROFS: "the file system is read-only; choose another folder with --data",
    errno.EACCES: "permission denied; check the folder's owner and mode",
    errno.EPERM: "not permitted; check the folder's owner and mode",
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "that is a folder, not a file",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EFBIG: "the file is as large as it may get here (ulimit -f)",
}


def explain_os_error(what: str, problem: OSError) -> StoreError:
    """The one sentence that a user reads; `what` says what was being done to which path."""
    reason = _WORDS.get(problem.errno or 0, problem.strerror or str(problem))
    return StoreError(f"cannot {what}: {reason}")


def make_folder(path: Path) -> None:
    """The data folder, for its owner only."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as problem:
        raise explain_os_error(f"make the folder `{path}`", problem) from None


def read_bounded(path: Path, *, what: str, limit: int = 1 << 20) -> bytes:
    """All of a small file; a larger one is refused, not read."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as problem:
        raise explain_os_error(f"read {what} `{path}`", problem) from None
    if len(raw) > limit:
        raise StoreError(f"{what} `{path}` is longer than {limit} bytes")
    return raw


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` whole, or leave it as it was."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as problem:
        raise explain_os_error(f"write `{path}`", problem) from None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` as indented JSON, replaced whole."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
