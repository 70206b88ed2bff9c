"""The rest of the catalogue: acts outside the default battery, and the ways round it. `holdfast deny --all`.

Reach comes from the table of doors. Effects stand here, a few lines each; none leaves the child that
tries it, or the stage's throw-away namespaces.
"""

import ctypes
import errno
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from holdfast.sandbox.kernel_calls import read_status, syscall
from holdfast.sandbox.probes import tiocsti
from holdfast.sandbox.probes.doors import DOORS, NAMESPACE_FLAGS, SOCKET_FAMILIES, native_number, probes_of
from holdfast.sandbox.probes.probe import DENIALS, Field, Level, Probe, effect
from holdfast.sandbox.probes.programs import ABIS, call_in_program
from holdfast.sandbox.probes.ring import Ring

__all__ = ["LIVENESS", "PROBES"]

ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, QUERY = 0x4_0000, 0x40_0000, 0xFFFF_FFFF
UFFD_USER_MODE_ONLY, USERFAULTFD_IOC_NEW = 1, 0xAA00
OP_CONNECT, OP_OPENAT, OP_SOCKET = 16, 18, 45
AT_FDCWD = -100
I386_GETPID, I386_PERSONALITY, X32_GETPID = 20, 136, 0x4000_0000 | 39
SYSLOG_SIZE_BUFFER = 10

GONE = DENIALS | {errno.ENOENT, errno.ENXIO}
"""For what is found by a name: here not being there is the denial, since the control finds it."""


def _chroot(field: Field) -> str:
    os.chroot(field["folder"])
    return "the root was changed"


def _mount_in_userns(field: Field) -> str:
    """A new user namespace gives every capability in it; then mount what the filter should deny there too."""
    uid, gid = os.getuid(), os.getgid()
    syscall(native_number("unshare"), NAMESPACE_FLAGS["user"] | NAMESPACE_FLAGS["mount"])
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(line, encoding="ascii")
    syscall(native_number("mount"), b"holdfast", os.fsencode(field["folder"]), b"tmpfs", 0, None)
    return "a tmpfs was mounted in a new user namespace"


def _unshare(flag: int) -> Callable[[Field], str]:
    def attempt(_: Field) -> str:
        syscall(native_number("unshare"), flag)
        return "a new namespace was made"

    return attempt


def _setns_by_pidfd(_: Field) -> str:
    descriptor = os.pidfd_open(os.getpid())
    syscall(native_number("setns"), descriptor, NAMESPACE_FLAGS["uts"])
    return "setns entered by a pidfd"


def _take_descriptor(_: Field) -> str:
    """Take descriptor 0 of this very process by its pidfd."""
    os.close(syscall(native_number("pidfd_getfd"), os.pidfd_open(os.getpid()), 0, 0))
    return "a descriptor was taken"


def _compare(_: Field) -> str:
    own = os.getpid()
    return f"kcmp answered {syscall(native_number('kcmp'), own, own, 0, 0, 0)}"


def _ring_socket(_: Field) -> str:
    os.close(Ring().submit(OP_SOCKET, socket.AF_INET, offset=socket.SOCK_STREAM))
    return "the ring opened a socket"


def _ring_open(field: Field) -> str:
    path = ctypes.create_string_buffer(os.fsencode(field["folder"]))
    opened = Ring().submit(OP_OPENAT, AT_FDCWD, address=ctypes.addressof(path), flags=os.O_RDONLY)
    os.close(opened)
    return "the ring opened a path"


def _ring_connect(field: Field) -> str:
    told = os.fsencode(field["neighbour"]["path"])
    address = ctypes.create_string_buffer(struct.pack("H", socket.AF_UNIX) + told)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(2)
        ring = Ring()
        ring.submit(OP_CONNECT, asking.fileno(), offset=len(address), address=ctypes.addressof(address))
        return asking.recv(256).decode()


def _user_faults(_: Field) -> str:
    os.close(syscall(native_number("userfaultfd"), UFFD_USER_MODE_ONLY))
    return "userfaultfd gave a descriptor"


def _user_faults_by_device(_: Field) -> str:
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    os.close(syscall(native_number("ioctl"), device, USERFAULTFD_IOC_NEW, UFFD_USER_MODE_ONLY))
    return "/dev/userfaultfd gave a descriptor"


def _handle(field: Field) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """A file handle of the folder, and of which mount."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int(0)
    folder = os.fsencode(field["folder"])
    syscall(native_number("name_to_handle_at"), AT_FDCWD, folder, handle, ctypes.byref(mount), 0)
    return handle, mount.value


def _name_handle(field: Field) -> str:
    return f"a handle on mount {_handle(field)[1]} was given"


def _open_handle(field: Field) -> str:
    """Open the folder by its handle; where it cannot be named here, by one that says as much as nothing."""
    try:
        handle, _ = _handle(field)
    except OSError:
        handle = ctypes.create_string_buffer(struct.pack("Ii", 8, 1) + bytes(8), 16)
    base = os.open(field["folder"], os.O_RDONLY)
    os.close(syscall(native_number("open_by_handle_at"), base, handle, os.O_RDONLY))
    return "a folder was opened by its handle"


def _personality(flag: int) -> Callable[[Field], str]:
    def attempt(_: Field) -> str:
        # It answers with what was before; so the second call tells of the first, without the query's own rule.
        syscall(native_number("personality"), flag)
        now = syscall(native_number("personality"), flag)
        if not now & flag:
            raise OSError(errno.EINVAL, "the personality is as before")
        return f"the personality is 0x{now:x}"

    return attempt


def _in_abi(abi: str, number: int, *arguments: int) -> Callable[[Field], str]:
    return lambda field: f"it returned {call_in_program(field['folder'], abi, number, arguments)}"


def _open_family(number: int) -> Callable[[Field], str]:
    kind = socket.SOCK_RAW if number == SOCKET_FAMILIES["packet"] else socket.SOCK_STREAM
    kind = socket.SOCK_SEQPACKET if number == SOCKET_FAMILIES["alg"] else kind

    def attempt(_: Field) -> str:
        socket.socket(number, kind).close()
        return "the socket was opened"

    return attempt


def inherited_descriptors() -> tuple[int, ...]:
    """What came in by the exec: above the standard three, without the close-on-exec mark that our own carry."""
    held = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    return tuple(d for d in held if _is_inherited(d))


def _is_inherited(descriptor: int) -> bool:
    try:
        return not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def _leaked(_: Field) -> str:
    if not (found := inherited_descriptors()):
        raise OSError(errno.ENOENT, "no descriptor came in beside the standard three and the agent's own")
    return f"descriptors {', '.join(map(str, found))} came in"


def _reconnect(field: Field) -> str:
    """`connect(AF_UNSPEC)` takes a socket, also one that listens, back to where it can be connected anew."""
    last = OSError(errno.ENOENT, "no socket came in")
    for descriptor in (0, 1, 2, *inherited_descriptors()):
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            continue
        with socket.socket(fileno=os.dup(descriptor)) as taken:
            try:
                unspecified = ctypes.create_string_buffer(16)
                syscall(native_number("connect"), taken.fileno(), unspecified, 16)
                taken.settimeout(2)
                taken.connect(("127.0.0.1", field["neighbour"]["port"]))
                return taken.recv(256).decode()
            except OSError as error:
                last = error
    raise last


def _says(name: str, is_open: Callable[[str], bool]) -> Callable[[Field], str]:
    """A line of one's own status, where the kernel says what the process may yet gain."""

    def attempt(_: Field) -> str:
        value = read_status()[name]
        if not is_open(value):
            raise OSError(errno.EPERM, f"{name} is {value}")
        return f"{name} is {value}"

    return attempt


def _root_outside(field: Field) -> str:
    """The home's canary by way of another process's root: the first one's, then the neighbour's."""
    last = OSError(errno.ENOENT, "no process outside")
    for pid in (1, (field["neighbour"] or {"pid": 1})["pid"]):
        try:
            with open(f"/proc/{pid}/root{field['home_file']}", encoding="ascii") as file:
                return file.read()
        except OSError as error:
            last = error
    raise last


def _signal_neighbour(field: Field) -> str:
    """Signal 0; a pid namespace renumbers, so who bears the number is looked at too."""
    pid = field["neighbour"]["pid"]
    os.kill(pid, 0)
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if b"spawner.py" not in file.read():
            raise OSError(errno.ESRCH, "another process bears that number here")
    return "the neighbour could be signalled"


def _effects() -> tuple[Probe, ...]:
    sockets = DENIALS | {errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT}
    spaces = DENIALS | {errno.ENOSPC, errno.EUSERS}
    return (
        effect("root", "ns.chroot", "chroot", _chroot),
        effect("mount", "mount.classic", "in-new-userns", _mount_in_userns, denied_by=spaces),
        *(
            effect("unshare", "ns.unshare", name, _unshare(flag), denied_by=spaces)
            for name, flag in NAMESPACE_FLAGS.items()
            if name != "user"
        ),
        effect("unshare", "ns.setns", "pidfd", _setns_by_pidfd),
        effect("process", "pidfd_getfd", "own", _take_descriptor),
        effect("process", "kcmp", "own", _compare),
        effect("uring", "uring", "op-socket", _ring_socket),
        effect("uring", "uring", "op-openat", _ring_open),
        effect("uring", "uring", "op-connect", _ring_connect, planted="neighbour"),
        effect("uffd", "uffd", "user-mode", _user_faults),
        effect("uffd", "uffd.device", "ioctl", _user_faults_by_device, denied_by=GONE),
        effect("handle", "handle.name", "folder", _name_handle),
        effect("handle", "handle.open", "folder", _open_handle, denied_by=DENIALS | {errno.ESTALE}),
        effect("personality", "personality.no_randomize", "set", _personality(ADDR_NO_RANDOMIZE)),
        effect("personality", "personality.read_implies_exec", "set", _personality(READ_IMPLIES_EXEC)),
        *(
            effect("sock", "sock.family", name, _open_family(number), denied_by=sockets)
            for name, number in SOCKET_FAMILIES.items()
        ),
        effect("sock", "sock.inherited", "reconnect", _reconnect, denied_by=GONE, planted="neighbour"),
        effect(
            "kernel",
            "kernel.syslog",
            "size",
            lambda _: f"{syscall(native_number('syslog'), SYSLOG_SIZE_BUFFER, 0, 0)} bytes",
        ),
        effect("state", "state.no_new_privs", "status", _says("NoNewPrivs", lambda v: v == "0")),
        effect("state", "state.bounding_set", "status", _says("CapBnd", lambda v: int(v, 16) != 0)),
        effect("state", "state.descriptors", "inherited", _leaked, denied_by=GONE),
        effect("state", "state.root_outside", "canary", _root_outside, denied_by=GONE, planted="home"),
        effect("state", "state.signal", "neighbour", _signal_neighbour, denied_by=DENIALS | {errno.ESRCH}),
        *_abi_effects(),
    )


def _abi_effects() -> tuple[Probe, ...]:
    """Whether the other ways into the kernel answer at all; what they answer is the doors' matter."""
    rows = (
        ("abi", "abi.i386", "getpid", "i386", I386_GETPID, ()),
        ("abi", "abi.x32", "getpid", "x32", X32_GETPID, ()),
        (
            "personality",
            "personality.no_randomize",
            "set",
            "i386",
            I386_PERSONALITY,
            (ADDR_NO_RANDOMIZE,),
        ),
    )
    return tuple(
        Probe(family, act, Level.EFFECT, detail, _in_abi(abi, number, *arguments), variant=abi)
        for family, act, detail, abi, number, arguments in rows
        if abi in ABIS
    )


PROBES: tuple[Probe, ...] = (*probes_of(DOORS), *_effects())


def _stands() -> None:
    os.stat("/")


def _queries() -> None:
    """Who and where one is can still be asked."""
    os.uname()
    os.getpgid(0)
    read_status()


def _counts() -> None:
    """One's own page faults are still counted and told."""
    resource.getrusage(resource.RUSAGE_SELF)


def _opens() -> None:
    os.close(os.open(__file__, os.O_RDONLY))


def _pairs() -> None:
    for end in socket.socketpair():
        end.close()


def _asks_personality() -> None:
    """By libc, which asks as `setarch` does; the query changes nothing."""
    syscall(native_number("personality"), QUERY)


LIVENESS: dict[str, Callable[[], None]] = {
    "root": _stands,
    "process": _queries,
    "tty": tiocsti.alive,
    "uring": _opens,
    "uffd": _counts,
    "handle": _opens,
    "personality": _asks_personality,
    "sock": _pairs,
    "kernel": _queries,
    "abi": _queries,
    "state": _queries,
}
"""One harmless sibling a family, as in the default battery."""
