"""What is asked of the kernel: a call, by whom, on which already resolved path.

A `Request` is made at the edge and never re-read from the world afterwards: the path in it is the one that
was opened (see `resolve`), so deciding needs no file system.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, final

__all__ = ["CHANGES_FILES", "SYSCALLS", "CallerTag", "Request", "RequestError", "ResolvedPath"]

MAX_TEXT: Final = 4096


class RequestError(ValueError):
    """The request itself is not well-formed; nothing was decided."""


@final
class CallerTag(Enum):
    """Long-lived capability tags, given to a caller when it is set up; rules match them by `caller_tag`."""

    CORE_PLUGIN = "core_plugin"
    TRUSTED_WRITE = "trusted_write"
    THIRD_PARTY = "third_party"


SYSCALLS: Final[Mapping[str, int]] = MappingProxyType({
    "fs.read": 1, "fs.list": 1, "fs.exists": 1,
    "fs.write": 1, "fs.append": 1, "fs.truncate": 1, "fs.delete": 1, "fs.chmod": 1, "fs.mkdir": 1,
    "fs.rename": 2, "fs.link": 2, "fs.symlink": 1,
    "search.grep": 1, "search.glob": 1,
    "net.connect": 0, "process.spawn": 1, "secret.read": 0, "test.run": 0, "tool.execute": 0,
    "container.create": 0, "container.destroy": 0, "state.transition": 0,
    "session.set_mode": 0, "merge.apply": 0, "policy.update": 0,
})  # fmt: skip
"""Every call that the kernel knows, and how many paths it names. Any other is refused whatever rules say."""

CHANGES_FILES: Final = frozenset({
    "fs.write", "fs.append", "fs.truncate", "fs.delete", "fs.chmod", "fs.mkdir", "fs.rename", "fs.link",
    "fs.symlink",
})  # fmt: skip
"""The calls that can change a file or what its name stands for; the built-ins guard against all of them."""


@final
@dataclass(frozen=True, slots=True)
class ResolvedPath:
    """A path with no symlink, `.` or `..` left in it; `resolve.Resolver` makes them from opened files."""

    text: str
    """Absolute."""
    absolute: str
    """`text` as globs are held against it: no leading slash, one trailing slash; the root is `""`."""
    relative: str | None
    """The same below the workspace; None outside of it."""
    workspace: str
    """The workspace that `relative` is relative to, absolute."""
    keys: tuple[str, ...]
    """Each directory on the way, absolute and below the workspace: where the policy's index is looked up."""

    @classmethod
    def judged(cls, text: str, workspace: str) -> "ResolvedPath":
        """From texts that are already resolved; raises `RequestError` for one that cannot be."""
        _refuse_unresolved(text)
        _refuse_unresolved(workspace)
        absolute = _subject(text)
        base = _subject(workspace)
        relative = absolute[len(base) :] if absolute.startswith(base) else None
        keys = tuple(f"/{key}" for key in _keys(absolute))
        return cls(text, absolute, relative, workspace, keys if relative is None else keys + _keys(relative))


def _refuse_unresolved(text: str) -> None:
    if not text.startswith("/") or (text != "/" and any(s in {"", ".", ".."} for s in text[1:].split("/"))):
        raise RequestError(f"path `{text[:200]}` is not absolute and resolved")
    if "\0" in text or len(text.encode(errors="surrogatepass")) >= MAX_TEXT:
        raise RequestError("path holds a NUL or is longer than PATH_MAX")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("path is not valid UTF-8") from None


def _subject(text: str) -> str:
    return "" if text == "/" else f"{text[1:]}/"


def _keys(subject: str) -> tuple[str, ...]:
    if not subject:
        return ("",)
    parents = [str(p) for p in PurePosixPath(subject).parents]
    return ("", *(p for p in reversed(parents) if p != "."), subject[:-1])


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One call. Texts are checked here, once; what passes is safe to log and to compare."""

    syscall: str
    caller: str
    """Who asks, for the log."""
    path: ResolvedPath | None = None
    caller_tag: str | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        for name in ("syscall", "caller", "caller_tag", "state"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not _plain(value)):
                raise RequestError(f"{name} must be 1 to 256 printable characters of valid UTF-8")
        paths = SYSCALLS.get(self.syscall)
        if paths is not None and (paths > 0) is (self.path is None):
            raise RequestError(f"`{self.syscall}` {'needs a path' if paths else 'takes no path'}")


def _plain(text: str) -> bool:
    return 0 < len(text) <= 256 and text.isprintable()
