"""Secrets come from files that only their owner can read; never from arguments, nor from the policy itself."""

import stat
from pathlib import Path

from holdfast.systems.kakeya.policy.reader import PolicyError

__all__ = ["read_secret"]


def read_secret(path: str, file: Path) -> bytes:
    """The key in `file`, as hexadecimal digits, 32 bytes at least; `path` is the policy key that names it."""
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(file.stat().st_mode)
            text = opened.read(4096).decode("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise PolicyError(path, f"names `{file}`, which cannot be read: {error.strerror}") from None
    except ValueError:
        raise PolicyError(path, f"names `{file}`, which does not hold hexadecimal digits") from None
    if mode & 0o077:
        raise PolicyError(
            path, f"names `{file}`, which others can read (mode {mode:04o}); run: chmod 600 {file}"
        )
    if len(key) < 32:
        raise PolicyError(
            path, f"names `{file}`, a key of {len(key)} bytes; generate 32 with `openssl rand -hex 32`"
        )
    return key
