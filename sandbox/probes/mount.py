"""Family `mount`: changing what a path means, by the classic calls and by the new mount API."""

import ctypes
import errno
import os
from functools import partial

from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import Field, Probe, and_then, effect, number, reach

__all__ = ["FAMILY", "PROBES", "alive"]

FAMILY = "mount"

MINUS_ONE = -1
BAD_POINTER = 1
FLAGS = {"remount": 32, "bind": 4096, "move": 8192}
"""A filter may look at the flags."""
EVERY_FLAG = 0x7FFFFFFF
TMPFS_MAGIC = 0x01021994


def alive() -> None:
    """statfs, the harmless sibling, still answers."""
    os.statvfs("/")


def _tmpfs_on_folder(field: Field) -> str:
    """Mount, look at the folder's own file system, leave it for the harness to see, unmount on the next probe."""
    folder = os.fsencode(field["folder"])
    before = os.stat(folder).st_dev
    syscall(number("mount"), b"holdfast", folder, b"tmpfs", 0, None)
    if os.stat(folder).st_dev == before:
        raise OSError(errno.EINVAL, "mount returned 0 and nothing is mounted")
    return and_then("a tmpfs was mounted on the folder", lambda: syscall(number("umount2"), folder, 0))


def _umount_own(field: Field) -> str:
    """Bind the folder on itself, then unmount it: both calls must work."""
    folder = os.fsencode(field["folder"])
    bind = 0x1000
    syscall(number("mount"), folder, folder, None, bind, None)
    return and_then("a bind mount was made", lambda: syscall(number("umount2"), folder, 0))


def _new_context(_: Field) -> str:
    os.close(syscall(number("fsopen"), b"tmpfs", 0))
    return "fsopen gave a file system context"


def _detached_mount(_: Field) -> str:
    """fsopen, fsconfig(CREATE), fsmount: a mount that no path shows yet, and that openat works below."""
    context = syscall(number("fsopen"), b"tmpfs", 0)

    def finish() -> None:
        create = 6
        syscall(number("fsconfig"), context, create, None, None, 0)
        mounted = syscall(number("fsmount"), context, 0, 0)
        os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=mounted))

    return and_then("fsopen gave a context", finish)


def _cloned_tree(field: Field) -> str:
    clone = 1
    at_fdcwd = -100
    os.close(syscall(number("open_tree"), at_fdcwd, os.fsencode(field["folder"]), clone))
    return "open_tree cloned a mount"


def _attributes_with_bad_flags() -> None:
    attributes = ctypes.create_string_buffer(32)
    syscall(number("mount_setattr"), MINUS_ONE, b"", EVERY_FLAG, attributes, 32)


CLASSIC, NEW = "mount.classic", "mount.newapi"

PROBES: tuple[Probe, ...] = (
    reach(FAMILY, CLASSIC, "mount", lambda: syscall(number("mount"), 1, 1, 1, 0, 0), errno.EFAULT),
    reach(FAMILY, CLASSIC, "umount2", lambda: syscall(number("umount2"), 1, 0), errno.EFAULT),
    *(
        reach(FAMILY, CLASSIC, name, partial(syscall, number("mount"), 1, 1, 1, flags, 0), errno.EFAULT)
        for name, flags in FLAGS.items()
    ),
    effect(FAMILY, CLASSIC, "tmpfs", _tmpfs_on_folder),
    effect(FAMILY, CLASSIC, "umount", _umount_own),
    reach(
        FAMILY,
        NEW,
        "open_tree",
        lambda: syscall(number("open_tree"), MINUS_ONE, BAD_POINTER, EVERY_FLAG),
        errno.EINVAL,
    ),
    reach(FAMILY, NEW, "mount_setattr", _attributes_with_bad_flags, errno.EINVAL),
    reach(
        FAMILY,
        NEW,
        "fsconfig",
        lambda: syscall(number("fsconfig"), MINUS_ONE, EVERY_FLAG, None, None, 0),
        errno.EINVAL,
        errno.EOPNOTSUPP,
    ),
    effect(FAMILY, NEW, "fsopen", _new_context),
    effect(FAMILY, NEW, "fsmount", _detached_mount),
    effect(FAMILY, NEW, "open_tree", _cloned_tree),
)
