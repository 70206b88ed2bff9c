"""The few kernel calls that Python has no name for, by ctypes; standard library only.

The spawner and the agent import this file from inside and around sandboxes, so it must stay free of
anything of ours. Constants are those of the kernel's uapi headers.
"""

import ctypes
import fcntl
import os
import struct
import termios

try:
    import prctl
except ImportError:  # an extra (GPL, needs a compiler); the same calls go by ctypes
    prctl = None

__all__ = [
    "add_key",
    "drop_bounding_set",
    "join_session_keyring",
    "landlock_abi",
    "load_filter",
    "make_mounts_private",
    "mount_tmpfs",
    "read_status",
    "restrict_by_landlock",
    "set_dumpable",
    "set_no_new_privs",
    "set_parent_death_signal",
    "set_subreaper",
    "syscall",
    "take_terminal",
    "unshare",
]

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 22, 23, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1
SECCOMP_MODE_FILTER = 2

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_ACCESS_FS_MAKE_CHAR, LANDLOCK_ACCESS_FS_REFER = 1 << 6, 1 << 13
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL = 1 << 0, 1 << 1
LANDLOCK_RULE_PATH_BENEATH = 1
SCOPE_ABI, REFER_ABI = 6, 2
"""Kernel 6.12 knows scopes, 5.19 knows REFER, 5.13 knows Landlock at all."""

KEY_SPEC_SESSION_KEYRING, KEYCTL_JOIN_SESSION_KEYRING, KEYCTL_REVOKE = -3, 1, 3

# Numbers that are the same on every architecture since the unified table (Linux 5.x).
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
KEY_NUMBERS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}
"""add_key, request_key, keyctl."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """One raw system call; returns what it returns, raises `OSError` with the kernel's errno."""
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(number), *map(_word, arguments)))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _word(value: object) -> object:
    """A register: integers as 64 bits, so that no high bit is lost on the way."""
    return ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF) if isinstance(value, int) else value


def _prctl(option: int, *arguments: object) -> int:
    padded = [*map(_word, arguments), *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    result = int(_libc.prctl(ctypes.c_int(option), *padded))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def set_no_new_privs() -> None:
    """No exec from here on may gain a privilege; what an unprivileged filter needs."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_subreaper() -> None:
    """Orphans of this process's tree, also those that called setsid, become its own children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(signal_number: int) -> None:
    """Be signalled when the starting *thread* ends; only safe where the parent has one thread."""
    _prctl(PR_SET_PDEATHSIG, signal_number)


def set_dumpable() -> None:
    """Be readable by same-uid processes again (a new user namespace clears that), Yama or not."""
    _prctl(PR_SET_DUMPABLE, 1)
    try:
        _prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)
    except OSError:  # EINVAL: no Yama here, so there is nothing to lift
        return


def drop_bounding_set() -> None:
    """Empty the capability bounding set, so that no exec regains one; raises `OSError` (EPERM) for a user.

    By python-prctl where that extra is installed, else by the same prctl calls through ctypes.
    """
    if prctl is None:
        for capability in range(64):
            try:
                if _prctl(PR_CAPBSET_READ, capability):
                    _prctl(PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != 22:  # EINVAL: past the last capability of this kernel
                    raise
    else:
        prctl.capbset.limit()


def load_filter(code: bytes) -> None:
    """Load a classic BPF program as a seccomp filter for this thread."""
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program, len(program)))


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    try:
        return syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict_by_landlock(abi: int) -> None:
    """Enter a Landlock domain that forbids as little as it can, for what every domain brings with it:
    no ptrace and no `/proc/PID/mem` of a process outside, whatever its uid.

    From ABI 6 it also scopes signals and abstract sockets. Before that a domain must handle a file right,
    so it handles making character devices, and allows REFER, which is otherwise denied unasked.
    """
    if abi >= SCOPE_ABI:
        scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL
        ruleset = _ruleset(struct.pack("QQQ", 0, 0, scoped))
    else:
        refer = LANDLOCK_ACCESS_FS_REFER if abi >= REFER_ABI else 0
        ruleset = _ruleset(struct.pack("Q", LANDLOCK_ACCESS_FS_MAKE_CHAR | refer))
        if refer:
            _allow_refer_everywhere(ruleset, refer)
    try:
        syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _ruleset(attributes: bytes) -> int:
    return syscall(LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(attributes), len(attributes), 0)


def _allow_refer_everywhere(ruleset: int, refer: int) -> None:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = struct.pack("=Qi", refer, root)
        rule = ctypes.create_string_buffer(beneath)
        syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(root)


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones."""
    if _libc.unshare(ctypes.c_int(flags)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def make_mounts_private() -> None:
    """Nothing that is mounted from here on reaches the host."""
    _mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)


def mount_unified_cgroup() -> None:
    """A version 2 hierarchy at /sys/fs/cgroup, for this process and its children alone."""
    unshare(CLONE_NEWNS)
    make_mounts_private()
    _mount(b"cgroup2", b"/sys/fs/cgroup", b"cgroup2", 0)


def mount_tmpfs(path: str) -> None:
    """An empty file system over `path`."""
    _mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0)


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), None) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def join_session_keyring() -> None:
    """Start over with an anonymous session keyring that dies with its last process."""
    syscall(_key_number(2), KEYCTL_JOIN_SESSION_KEYRING, None)


def add_key(description: str, payload: bytes) -> int:
    """Plant a `user` key in the session keyring; returns its serial number."""
    arguments = (b"user", description.encode(), payload, len(payload), KEY_SPEC_SESSION_KEYRING)
    return syscall(_key_number(0), *arguments)


def revoke_key(serial: int) -> None:
    """Make a planted key useless, wherever it was copied."""
    syscall(_key_number(2), KEYCTL_REVOKE, serial)


def _key_number(index: int) -> int:
    return KEY_NUMBERS[os.uname().machine][index]


def take_terminal(descriptor: int) -> None:
    """Make the terminal at `descriptor` the controlling one of a session that this process leads."""
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


STATUS_FIELDS = (
    "Uid",
    "Gid",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
)
"""The lines of `/proc/PID/status` that say what a process may do."""


def read_status(who: str = "self") -> dict[str, str]:
    """Those lines, of process or thread `who` (`self`, `1234`, `1234/task/1235`)."""
    with open(f"/proc/{who}/status", encoding="ascii", errors="replace") as file:
        rows = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {name: rows[name].split("\t")[0].strip() for name in STATUS_FIELDS if name in rows}
