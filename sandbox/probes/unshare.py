"""Family `unshare`: new namespaces, by each call that makes or enters one."""

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from functools import partial

from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import DENIALS, Field, Probe, and_then, effect, number, reach

__all__ = ["FAMILY", "PROBES", "alive"]

FAMILY = "unshare"

CLONE_FS, CLONE_NEWUTS, CLONE_NEWUSER = 0x00000200, 0x04000000, 0x10000000
UNDEFINED_FLAG = 0x1
CLONE_THREAD = 0x00010000
"""Without CLONE_SIGHAND it is refused by the kernel's own code, whatever else is asked for."""
EACH_FLAG = {
    "newns": 0x00020000,
    "newcgroup": 0x02000000,
    "newuts": 0x04000000,
    "newipc": 0x08000000,
    "newpid": 0x20000000,
    "newnet": 0x40000000,
}
CLONE_ARGS_BYTES = 88

DENIED = DENIALS | {errno.ENOSPC, errno.EUSERS}
"""bwrap's `--disable-userns` sets the count of namespaces to 0: ENOSPC, on old kernels EUSERS."""


def alive() -> None:
    """A plain fork, and waiting for it, still work."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7:
        raise OSError(errno.ECHILD, "a forked child did not give its exit status")


def _unshare_user(_: Field) -> str:
    before = os.readlink("/proc/self/ns/user")
    syscall(number("unshare"), CLONE_NEWUSER)
    return and_then("unshare returned", lambda: _changed(before, os.readlink("/proc/self/ns/user")))


def _clone_user(_: Field) -> str:
    return _child_namespace(lambda: syscall(number("clone"), CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0))


def _clone3_user(_: Field) -> str:
    arguments = (ctypes.c_uint64 * (CLONE_ARGS_BYTES // 8))()
    arguments[0], arguments[4] = CLONE_NEWUSER, signal.SIGCHLD
    return _child_namespace(lambda: syscall(number("clone3"), arguments, CLONE_ARGS_BYTES))


def _child_namespace(start: Callable[[], int]) -> str:
    """Start a child in a new namespace; it waits to be looked at, then goes."""
    before = os.readlink("/proc/self/ns/user")
    reader, writer = os.pipe()
    pid = start()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        return and_then("a child was cloned", lambda: _changed(before, os.readlink(f"/proc/{pid}/ns/user")))
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def _changed(before: str, after: str) -> str:
    if before == after:
        raise OSError(errno.EINVAL, "the call returned and the namespace is the same")
    return f"{before} became {after}"


def _enter_own(_: Field) -> str:
    """Entering the namespace one is in needs the same right as entering another, and changes nothing."""
    descriptor = os.open("/proc/self/ns/uts", os.O_RDONLY)
    syscall(number("setns"), descriptor, CLONE_NEWUTS)
    return "setns entered a UTS namespace"


PROBES: tuple[Probe, ...] = (
    reach(
        FAMILY,
        "ns.unshare",
        "flags",
        lambda: syscall(number("unshare"), CLONE_NEWUSER | UNDEFINED_FLAG),
        errno.EINVAL,
        denied_by=DENIED,
    ),
    *(
        reach(
            FAMILY,
            "ns.unshare",
            name,
            partial(syscall, number("unshare"), flag | UNDEFINED_FLAG),
            errno.EINVAL,
            denied_by=DENIED,
        )
        for name, flag in EACH_FLAG.items()
    ),
    effect(FAMILY, "ns.unshare", "user", _unshare_user, denied_by=DENIED),
    reach(
        FAMILY,
        "ns.clone",
        "flags",
        lambda: syscall(number("clone"), CLONE_NEWUSER | CLONE_FS | signal.SIGCHLD, 0, 0, 0, 0),
        errno.EINVAL,
        denied_by=DENIED,
    ),
    *(
        reach(
            FAMILY,
            "ns.clone",
            name,
            partial(syscall, number("clone"), flag | CLONE_THREAD | signal.SIGCHLD, 0, 0, 0, 0),
            errno.EINVAL,
            denied_by=DENIED,
        )
        for name, flag in EACH_FLAG.items()
    ),
    effect(FAMILY, "ns.clone", "user", _clone_user, denied_by=DENIED),
    reach(
        FAMILY,
        "ns.clone3",
        "pointer",
        lambda: syscall(number("clone3"), 1, CLONE_ARGS_BYTES),
        errno.EFAULT,
        denied_by=DENIED,
    ),
    effect(FAMILY, "ns.clone3", "user", _clone3_user, denied_by=DENIED),
    reach(FAMILY, "ns.setns", "descriptor", lambda: syscall(number("setns"), -1, 0), errno.EBADF),
    effect(FAMILY, "ns.setns", "uts", _enter_own),
)
