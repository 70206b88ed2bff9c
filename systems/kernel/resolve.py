"""From a text that a caller wrote to the file that it means: opened once, judged by what was opened.

    Resolver.open(text, syscall) -> Opened(path: ResolvedPath, fd, name)

`path` is read back from the opened descriptor (`/proc/self/fd`), so `.`, `..`, `//`, relative texts and
symlinks are gone, and whoever acts on `fd` acts on the file that was judged: nothing can be swapped between.
For a call that acts on a *name* (create, rename, delete, link) `fd` is the opened directory and `name` the
entry in it; the entry itself is never followed. A hard link or bind mount of a protected file is judged as
that file, by its inode.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from holdfast.systems.kernel.request import RequestError, ResolvedPath

__all__ = ["Opened", "Resolver"]

PATH_MAX: Final = 4096
ON_NAMES: Final = frozenset({"fs.delete", "fs.rename", "fs.link", "fs.symlink", "fs.mkdir"})
"""Calls that act on a directory's entry and not on what it leads to."""
MAY_CREATE: Final = frozenset({"fs.write", "fs.append"})


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """What was judged, held open; close it, or use `Resolver.opened`."""

    path: ResolvedPath
    fd: int
    """O_PATH: reopen it through `/proc/self/fd` for reading or writing, or use it as a `dir_fd`."""
    name: str | None
    """The entry to act on below `fd`; None when `fd` is the file itself."""

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)


@final
class Resolver:
    """Resolves below one workspace; knows the protected files by their inodes."""

    def __init__(self, workspace: Path, protected: Iterable[Path] = ()) -> None:
        self.workspace = os.path.realpath(workspace)
        self._protected = tuple(protected)

    @contextmanager
    def opened(self, text: str, syscall: str) -> Iterator[Opened]:
        """`open`, closed at the end."""
        opened = self.open(text, syscall)
        try:
            yield opened
        finally:
            opened.close()

    def open(self, text: str, syscall: str) -> Opened:
        """Open and judge; raises `RequestError` for a text that names nothing that can be opened."""
        _refuse_text(text)
        try:
            if syscall in ON_NAMES:
                return self._entry(text)
            try:
                return self._file(text)
            except FileNotFoundError:
                if syscall not in MAY_CREATE:
                    raise
                return self._entry(text)
        except OSError as error:
            raise RequestError(f"path `{text[:200]}` cannot be resolved: {error.strerror}") from None

    def _file(self, text: str) -> Opened:
        fd = os.open(self._absolute(text), os.O_PATH | os.O_CLOEXEC)
        try:
            return Opened(self._judge(fd, None), fd, None)
        except BaseException:
            os.close(fd)
            raise

    def _entry(self, text: str) -> Opened:
        directory, name = os.path.split(self._absolute(text).rstrip("/"))
        if name in {"", ".", ".."}:
            raise RequestError(f"path `{text[:200]}` names no entry of a directory")
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return Opened(self._judge(fd, name), fd, name)
        except BaseException:
            os.close(fd)
            raise

    def _absolute(self, text: str) -> str:
        # os.path.join and not normpath: `link/..` is the link's target's parent, as the kernel reads it.
        return os.path.join(self.workspace, text)  # noqa: PTH118

    def _judge(self, fd: int, name: str | None) -> ResolvedPath:
        where = str(Path(f"/proc/self/fd/{fd}").readlink())
        status = os.fstat(fd)
        if status.st_nlink == 0:
            raise RequestError("the file was deleted while it was looked at")
        if name is not None:
            where = f"{where.rstrip('/')}/{name}"
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return ResolvedPath.judged(where, self.workspace)
            if stat.S_ISLNK(status.st_mode):
                return ResolvedPath.judged(where, self.workspace)
        return ResolvedPath.judged(self._protected_name(status) or where, self.workspace)

    def _protected_name(self, status: os.stat_result) -> str | None:
        """The protected file that this inode is, if it is one: another name does not unprotect it."""
        for path in self._protected:
            try:
                known = path.stat()
            except OSError:
                continue
            if (known.st_dev, known.st_ino) == (status.st_dev, status.st_ino):
                return os.path.realpath(path)
        return None


def _refuse_text(text: str) -> None:
    if not text:
        raise RequestError("path is empty")
    if "\0" in text:
        raise RequestError("path holds a NUL")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise RequestError("path is not valid UTF-8") from None
    if len(raw) >= PATH_MAX:
        raise RequestError(f"path of {len(raw)} bytes; the limit is {PATH_MAX - 1}")
