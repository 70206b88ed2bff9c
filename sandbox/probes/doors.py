"""Every call of the catalogue with bogus arguments, as a table: what it answers when its own code looks at them.

    Door(family, act, call, arguments, errnos)  -> a reach probe in each way of calling: this machine's ABI,
                                                   i386, x32, a second thread, after `execve`

No row can have an effect: a bad descriptor, a bad pointer, an undefined flag, a wrong magic number. Errnos
were read off a kernel as root without a sandbox, and a control arm reads them again in every run.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

from holdfast.sandbox.bpf.abi import Abi, number_of
from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import DENIALS, VARIANT, Field, Level, Probe
from holdfast.sandbox.probes.programs import ABIS, call_in_program

__all__ = ["DOORS", "Door", "native_number", "probes_of"]

NOWHERE, ODD = 0xFFFF_FFFF, 0x7FFF_FFFF
"""Descriptor -1, and a word of flags that no call defines."""
NO_PROCESS = 0x7FFF_FFFF
CLONE_FS, CLONE_THREAD, UNDEFINED_FLAG, SIGCHLD = 0x200, 0x1_0000, 0x1, 17
TIOCSCTTY, TIOCSTI, TIOCLINUX, HIGH_BIT = 0x540E, 0x5412, 0x541C, 1 << 32

NAMESPACE_FLAGS = {
    "time": 0x80,
    "mount": 0x2_0000,
    "cgroup": 0x200_0000,
    "uts": 0x400_0000,
    "ipc": 0x800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}
SOCKET_FAMILIES = {"alg": 38, "vsock": 40, "packet": 17}

DENIED = DENIALS | {errno.ENOSPC, errno.EUSERS, errno.ENODEV}


@final
@dataclass(frozen=True, slots=True)
class Door:
    """One call with arguments that cannot do anything, and the errnos of its own code."""

    family: str
    act: str
    call: str
    arguments: tuple[int, ...]
    errnos: tuple[int, ...]
    detail: str = ""
    """Tells rows of one call apart; the call's name alone where empty."""
    is_default: bool = False
    """The default battery has this row already in the machine's own ABI."""
    only: tuple[str, ...] = ()
    """The variants that it exists in; all where empty."""

    @property
    def name(self) -> str:
        """As it stands in the probe's id."""
        return f"{self.call}-{self.detail}" if self.detail else self.call


def _rows() -> Iterator[Door]:
    yield from _five()
    yield Door("root", "ns.pivot_root", "pivot_root", (1, 1), (errno.EFAULT,))
    yield Door("root", "ns.chroot", "chroot", (1,), (errno.EFAULT,))
    yield Door("process", "pidfd_getfd", "pidfd_getfd", (NOWHERE, 0, 0), (errno.EBADF,))
    yield Door("process", "kcmp", "kcmp", (NO_PROCESS, NO_PROCESS, 0, 0, 0), (errno.ESRCH,))
    for high in (0, HIGH_BIT):
        detail = "high-bits" if high else "low-bits"
        yield Door("tty", "tty.sctty", "ioctl", (NOWHERE, high | TIOCSCTTY, 0), (errno.EBADF,), detail)
    yield Door("uring", "uring", "io_uring_setup", (1, 1), (errno.EFAULT,))
    yield Door("uring", "uring", "io_uring_enter", (NOWHERE, 0, 0, 0, 0, 0), (errno.EBADF,))
    yield Door("uring", "uring", "io_uring_register", (NOWHERE, 0, 0, 0), (errno.EBADF, errno.EINVAL))
    yield Door("uffd", "uffd", "userfaultfd", (0x101,), (errno.EINVAL,))
    yield Door("handle", "handle.open", "open_by_handle_at", (NOWHERE, 1, 0), (errno.EFAULT, errno.EBADF))
    yield Door("handle", "handle.name", "name_to_handle_at", (NOWHERE, 1, 1, 1, ODD), (errno.EINVAL,))
    for name, number in SOCKET_FAMILIES.items():
        yield Door("sock", "sock.family", "socket", (number, ODD, 0), (errno.EINVAL,), name)
        yield Door("sock", "sock.family", "socketpair", (number, ODD, 0, 0), (errno.EINVAL,), name)
    yield Door("sock", "sock.family", "socketcall", (1, 1), (errno.EFAULT,), only=("i386",))
    yield from _kernel()


def _five() -> Iterator[Door]:
    fault, invalid = (errno.EFAULT,), (errno.EINVAL,)
    yield Door("mount", "mount.classic", "mount", (1, 1, 1, 0, 0), fault, is_default=True)
    yield Door("mount", "mount.classic", "umount2", (1, 0), fault, is_default=True)
    yield Door("mount", "mount.classic", "umount", (1,), fault, only=("i386",))
    new = ("mount", "mount.newapi")
    yield Door(*new, "open_tree", (NOWHERE, 1, ODD), invalid, is_default=True)
    yield Door(*new, "move_mount", (NOWHERE, 1, NOWHERE, 1, ODD), invalid)
    yield Door(*new, "fsopen", (1, ODD), invalid)
    yield Door(*new, "fsconfig", (NOWHERE, ODD, 0, 0, 0), (*invalid, errno.EOPNOTSUPP), is_default=True)
    yield Door(*new, "fsmount", (NOWHERE, ODD, 0), invalid)
    yield Door(*new, "fspick", (NOWHERE, 1, ODD), invalid)
    yield Door(*new, "mount_setattr", (NOWHERE, 1, ODD, 1, 32), invalid, is_default=True)
    yield Door(*new, "open_tree_attr", (NOWHERE, 1, ODD, 0, 0), invalid)
    for name, flag in NAMESPACE_FLAGS.items():
        flags = (flag | UNDEFINED_FLAG,)
        yield Door("unshare", "ns.unshare", "unshare", flags, invalid, name, is_default=name == "user")
    clone = (NAMESPACE_FLAGS["user"] | CLONE_FS | SIGCHLD, 0, 0, 0, 0)
    yield Door("unshare", "ns.clone", "clone", clone, invalid, is_default=True)
    for name, flag in NAMESPACE_FLAGS.items():
        if name != "time":  # in the exit signal's byte, so clone(2) cannot ask for it
            # A thread without CLONE_SIGHAND is refused before anything is made.
            thread = (flag | CLONE_THREAD, 0, 0, 0, 0)
            yield Door("unshare", "ns.clone", "clone", thread, invalid, name)
    yield Door("unshare", "ns.clone3", "clone3", (1, 88), fault, is_default=True)
    yield Door("unshare", "ns.setns", "setns", (NOWHERE, 0), (errno.EBADF,), is_default=True)
    perf = (0, 0, NOWHERE, NOWHERE, 0)
    yield Door("perf_bpf", "perf.open", "perf_event_open", perf, fault, is_default=True)
    yield Door("perf_bpf", "bpf.cmd", "bpf", (NOWHERE, 1, 8), fault, is_default=True)
    keys = "ptrace_keyctl"
    yield Door(keys, "ptrace", "ptrace", (2, NO_PROCESS, 0, 0), (errno.ESRCH,), is_default=True)
    for name in ("process_vm_readv", "process_vm_writev"):
        yield Door(keys, "process_vm", name, (NO_PROCESS, 0, 0, 0, 0, 1), invalid, is_default=True)
    yield Door(keys, "keyring.keyctl", "keyctl", (9999, 0, 0, 0, 0), (errno.EOPNOTSUPP,), is_default=True)
    yield Door(keys, "keyring.add_key", "add_key", (1, 1, 0, 0, 0), fault, is_default=True)
    yield Door(keys, "keyring.request_key", "request_key", (1, 1, 0, 0), fault, is_default=True)
    for act, request in (("tty.sti", TIOCSTI), ("tty.linux", TIOCLINUX)):
        arguments = (NOWHERE, request, 0)
        yield Door("tiocsti", act, "ioctl", arguments, (errno.EBADF,), "low-bits", is_default=True)


def _kernel() -> Iterator[Door]:
    """Each needs a capability first; then something about the arguments is wrong before anything is done."""
    invalid, fault = (errno.EINVAL,), (errno.EFAULT,)
    yield Door("kernel", "kernel.module", "init_module", (0, 0, 1), (errno.ENOEXEC,))  # an empty image
    yield Door("kernel", "kernel.module", "finit_module", (NOWHERE, 1, ODD), (*invalid, errno.EBADF))
    yield Door("kernel", "kernel.module", "delete_module", (1, 0), fault)
    yield Door("kernel", "kernel.kexec", "kexec_load", (0, 1000, 0, 0xFFFF), invalid)
    yield Door("kernel", "kernel.kexec", "kexec_file_load", (NOWHERE, NOWHERE, 0, 0, 0xFFFF), invalid)
    yield Door("kernel", "kernel.io", "iopl", (4,), invalid)  # there are levels 0 to 3
    yield Door("kernel", "kernel.io", "ioperm", (0x10_0000, 1, 1), invalid)  # there are 0x10000 ports
    yield Door("kernel", "kernel.swap", "swapon", (1, ODD), invalid)
    yield Door("kernel", "kernel.swap", "swapoff", (1,), fault)
    yield Door("kernel", "kernel.acct", "acct", (1,), fault)  # 0 would mean: stop accounting
    yield Door("kernel", "kernel.syslog", "syslog", (99, 0, 0), invalid)  # there are types 0 to 10
    yield Door("kernel", "kernel.reboot", "reboot", (0, 0, 0, 0), invalid)  # neither magic number


DOORS: tuple[Door, ...] = tuple(_rows())


def native_number(name: str) -> int:
    """A call's number on this machine; ENOSYS where it has none."""
    found = number_of(name, Abi(VARIANT))
    if found is None:
        raise OSError(errno.ENOSYS, f"no {name} here")
    return found


def probes_of(doors: tuple[Door, ...]) -> Iterator[Probe]:
    """A reach probe for each door and way of calling that this machine has."""
    for door in doors:
        if number_of(door.call, Abi(VARIANT)) is not None and not door.only:
            if not door.is_default:
                yield _probe(door, VARIANT, partial(_native, door))
            yield _probe(door, "thread", partial(_in_thread, door))
        for abi in ABIS:
            if number_of(door.call, Abi(abi)) is not None and abi in (door.only or ABIS):
                yield _probe(door, "execve" if abi == VARIANT else abi, partial(_in_program, door, abi))


def _probe(door: Door, variant: str, attempt: Callable[[Field], str]) -> Probe:
    return Probe(
        door.family,
        door.act,
        Level.REACH,
        door.name,
        attempt,
        frozenset(door.errnos),
        DENIED - set(door.errnos),
        variant=variant,
    )


def _native(door: Door, _: Field) -> str:
    syscall(native_number(door.call), *door.arguments)
    return "the call returned"


def _in_program(door: Door, abi: str, field: Field) -> str:
    number = number_of(door.call, Abi(abi))
    assert number is not None  # probes are made only where there is one
    call_in_program(field["folder"], abi, number, door.arguments)
    return "the call returned"


def _in_thread(door: Door, field: Field) -> str:
    """By a second thread, which a filter that was loaded for one thread only would miss."""
    problems: list[OSError] = []

    def call() -> None:
        try:
            _native(door, field)
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return "the call returned"
