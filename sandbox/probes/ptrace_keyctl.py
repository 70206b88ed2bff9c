"""Family `ptrace_keyctl`: other processes' memory, and the kernel's keyrings."""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import Field, Probe, and_then, effect, number, reach

__all__ = ["FAMILY", "PROBES", "alive"]

FAMILY = "ptrace_keyctl"

PTRACE_PEEKDATA, PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_DETACH = 2, 0, 16, 17
REQUESTS = {"attach": 16, "poke": 5, "getregs": 12, "getregset": 0x4204, "seize": 0x4206}
"""A filter may look at the request, so each that does harm is tried by itself."""
COMMANDS = {"revoke": 3, "describe": 6, "clear": 7, "read": 11}
"""Commands of keyctl that take a key, which 0 never is."""
NO_PROCESS = 0x7FFFFFFF
KEYCTL_READ, UNDEFINED_COMMAND = 11, 9999
KEY_SPEC_PROCESS_KEYRING = -2
MARK = b"holdfast-memory."
TRANSFERS = ("process_vm_readv", "process_vm_writev")


def alive() -> None:
    """Signalling a child of one's own, waiting for it, and asking who one is still work."""
    with _child() as pid:
        os.kill(pid, 0)
    os.getuid()


@contextmanager
def _child() -> Iterator[int]:
    """A child that waits until it is killed."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _attach(_: Field) -> str:
    """Attach to a child and read a word of its memory, which a fork left at the same address."""
    mark = ctypes.create_string_buffer(MARK)
    word = ctypes.c_ulong(0)

    def look(pid: int) -> None:
        os.waitpid(pid, 0)
        syscall(number("ptrace"), PTRACE_PEEKDATA, pid, ctypes.addressof(mark), ctypes.addressof(word))
        if struct.pack("L", word.value) != MARK[: ctypes.sizeof(word)]:
            raise OSError(errno.EINVAL, "the word that was read is not the child's")

    with _child() as pid:
        syscall(number("ptrace"), PTRACE_ATTACH, pid, 0, 0)
        return and_then("attached to a child", lambda: look(pid))


def _traced(_: Field) -> str:
    """A child asks to be traced by its parent, and stops for it."""
    pid = os.fork()
    if pid == 0:
        try:
            syscall(number("ptrace"), PTRACE_TRACEME, 0, 0, 0)
        except OSError as error:
            os._exit(error.errno or 255)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFEXITED(status):
        raise OSError(os.WEXITSTATUS(status), "PTRACE_TRACEME")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "a child stopped for its tracer"


def _transfer(name: str) -> Callable[[Field], str]:
    """process_vm_readv or _writev between this process and a child of it."""

    def attempt(_: Field) -> str:
        here = ctypes.create_string_buffer(len(MARK) + 1)
        there = ctypes.create_string_buffer(MARK)
        vectors = [struct.pack("PN", ctypes.addressof(b), len(MARK)) for b in (here, there)]
        local, remote = (ctypes.create_string_buffer(v) for v in vectors)
        with _child() as pid:
            moved = syscall(number(name), pid, local, 1, remote, 1, 0)
        if moved != len(MARK) or (name == "process_vm_readv" and here.value != MARK):
            raise OSError(errno.EINVAL, "the bytes that were moved are not the child's")
        return f"{name} moved {moved} bytes"

    return attempt


def _bogus_transfer(name: str) -> None:
    undefined_flags = 1
    syscall(number(name), NO_PROCESS, None, 0, None, 0, undefined_flags)


def _read_key(field: Field) -> str:
    """Read, by its serial number, a key that the host planted in the session keyring."""
    buffer = ctypes.create_string_buffer(256)
    length = syscall(number("keyctl"), KEYCTL_READ, field["key"], buffer, len(buffer), 0)
    return buffer.raw[:length].decode()


def _request_key(field: Field) -> str:
    """Search for the planted key by its description, then read it."""
    serial = syscall(number("request_key"), b"user", field["key_description"].encode(), None, 0)
    try:
        return _read_key({"key": serial})
    except OSError as error:  # found is found: no denial of the search, and no secret either
        raise OSError(errno.EBADMSG, f"key {serial} was found and not read: {error.strerror}") from None


def _add_key(_: Field) -> str:
    serial = syscall(number("add_key"), b"user", b"holdfast:probe", b"x", 1, KEY_SPEC_PROCESS_KEYRING)
    return f"key {serial} was added"


PROBES: tuple[Probe, ...] = (
    reach(
        FAMILY,
        "ptrace",
        "peek",
        lambda: syscall(number("ptrace"), PTRACE_PEEKDATA, NO_PROCESS, 0, 0),
        errno.ESRCH,
    ),
    *(
        reach(
            FAMILY,
            "ptrace",
            name,
            partial(syscall, number("ptrace"), request, NO_PROCESS, 0, 0),
            errno.ESRCH,
        )
        for name, request in REQUESTS.items()
    ),
    effect(FAMILY, "ptrace", "attach", _attach),
    effect(FAMILY, "ptrace", "traceme", _traced),
    *(
        reach(
            FAMILY,
            "process_vm",
            name,
            partial(_bogus_transfer, name),
            errno.EINVAL,
        )
        for name in TRANSFERS
    ),
    effect(FAMILY, "process_vm", "readv", _transfer("process_vm_readv")),
    effect(FAMILY, "process_vm", "writev", _transfer("process_vm_writev")),
    reach(
        FAMILY,
        "keyring.keyctl",
        "command",
        lambda: syscall(number("keyctl"), UNDEFINED_COMMAND, 0, 0, 0, 0),
        errno.EOPNOTSUPP,
    ),
    *(
        reach(
            FAMILY,
            "keyring.keyctl",
            name,
            partial(syscall, number("keyctl"), command, 0, 0, 0, 0),
            errno.EINVAL,
            errno.ENOKEY,
        )
        for name, command in COMMANDS.items()
    ),
    effect(FAMILY, "keyring.keyctl", "read-planted", _read_key, planted="key"),
    reach(
        FAMILY,
        "keyring.add_key",
        "pointer",
        lambda: syscall(number("add_key"), 1, 1, None, 0, 0),
        errno.EFAULT,
    ),
    effect(FAMILY, "keyring.add_key", "add", _add_key),
    reach(
        FAMILY,
        "keyring.request_key",
        "pointer",
        lambda: syscall(number("request_key"), 1, 1, None, 0),
        errno.EFAULT,
    ),
    effect(FAMILY, "keyring.request_key", "find-planted", _request_key, planted="key"),
)
