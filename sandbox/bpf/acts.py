"""The catalogue of forbidden acts, as sets of calls: what must not pass, by any ABI and with any arguments.

Only what the kernel reads is a condition: an `int` or `unsigned int` parameter is its low 32 bits, so the
high half stays free and a rule that compares all 64 is found out. Parameters behind pointers are out of a
filter's sight; an act that needs one is the whole call (`clone3`), and an act that is nothing but a path or
a state is listed in `OUT_OF_SIGHT` with the reason, so that it reads `cannot_tell` and never `proven`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.attempt import Attempt, Bits
from holdfast.sandbox.refusal import BadInputError

__all__ = ["ACTS", "FIVE", "OUT_OF_SIGHT", "Act", "find_acts"]

LOW = 0xFFFF_FFFF
WIDE = 0xFFFF_FFFF_FFFF_FFFF

NEWTIME = 0x80
NAMESPACES = 0x7E02_0000
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (include/uapi/linux/sched.h)."""

TIOCSCTTY, TIOCSTI, TIOCLINUX = 0x540E, 0x5412, 0x541C
AF_PACKET, AF_ALG, AF_VSOCK = 17, 38, 40
SYS_SOCKET, SYS_CONNECT, SYS_SOCKETPAIR = 1, 3, 8
ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, QUERY_PERSONALITY = 0x4_0000, 0x40_0000, 0xFFFF_FFFF

FIVE = ("mount", "unshare", "perf_bpf", "ptrace_keyctl", "tiocsti")
"""The families that `holdfast deny` attacks by default."""


@final
@dataclass(frozen=True, slots=True)
class Act:
    """One forbidden thing, and every call that does it."""

    id: str
    family: str
    attempts: tuple[Attempt, ...]


def _calls(*names: str) -> tuple[Attempt, ...]:
    """These calls, whatever their arguments."""
    return tuple(Attempt(name) for name in names)


def _low_word(name: str, index: int, *values: int, only: Abi | None = None) -> tuple[Attempt, ...]:
    """A call whose argument, read as 32 bits, is one of these values."""
    return tuple(Attempt(name, (Bits(index, LOW, value),), only) for value in values)


def _catalogue() -> Iterable[Act]:
    yield Act("mount.classic", "mount", _calls("mount", "umount", "umount2"))
    yield Act(
        "mount.newapi",
        "mount",
        _calls(
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "open_tree_attr",
        ),
    )
    # unshare(2) takes an unsigned long and refuses unknown bits: with a high bit set it is no act.
    unshared = (Bits(0, WIDE & ~LOW, 0), Bits(0, NAMESPACES | NEWTIME, 0, differ=True))
    yield Act("ns.unshare", "unshare", (Attempt("unshare", unshared),))
    # clone(2) takes lower_32_bits(clone_flags); its lowest byte is the exit signal, so NEWTIME is not in it.
    yield Act("ns.clone", "unshare", (Attempt("clone", (Bits(0, NAMESPACES, 0, differ=True),)),))
    yield Act("ns.clone3", "unshare", _calls("clone3"))
    yield Act("ns.setns", "unshare", _calls("setns"))
    yield Act("ns.pivot_root", "root", _calls("pivot_root"))
    yield Act("ns.chroot", "root", _calls("chroot"))
    yield Act("perf.open", "perf_bpf", _calls("perf_event_open"))
    yield Act("bpf.cmd", "perf_bpf", _calls("bpf"))
    yield Act("ptrace", "ptrace_keyctl", _calls("ptrace"))
    yield Act("process_vm", "ptrace_keyctl", _calls("process_vm_readv", "process_vm_writev"))
    yield Act("pidfd_getfd", "process", _calls("pidfd_getfd"))
    yield Act("kcmp", "process", _calls("kcmp"))
    yield Act("keyring.keyctl", "ptrace_keyctl", _calls("keyctl"))
    yield Act("keyring.add_key", "ptrace_keyctl", _calls("add_key"))
    yield Act("keyring.request_key", "ptrace_keyctl", _calls("request_key"))
    yield Act("tty.sti", "tiocsti", _low_word("ioctl", 1, TIOCSTI))
    yield Act("tty.linux", "tiocsti", _low_word("ioctl", 1, TIOCLINUX))
    yield Act("tty.sctty", "tty", _low_word("ioctl", 1, TIOCSCTTY))
    yield Act("uring", "uring", _calls("io_uring_setup", "io_uring_enter", "io_uring_register"))
    yield Act("uffd", "uffd", _calls("userfaultfd"))
    yield Act("handle.open", "handle", _calls("open_by_handle_at"))
    yield Act("handle.name", "handle", _calls("name_to_handle_at"))
    changes = Bits(0, LOW, QUERY_PERSONALITY, differ=True)
    for name, bit in (("no_randomize", ADDR_NO_RANDOMIZE), ("read_implies_exec", READ_IMPLIES_EXEC)):
        bits = (changes, Bits(0, bit, bit))
        yield Act(f"personality.{name}", "personality", (Attempt("personality", bits),))
    yield Act(
        "sock.inherited", "sock", _calls("connect") + _low_word("socketcall", 0, SYS_CONNECT, only=Abi.I386)
    )
    # The families stand behind a pointer in i386's socketcall: there the whole call is the act.
    yield Act(
        "sock.family",
        "sock",
        _low_word("socket", 0, AF_ALG, AF_VSOCK, AF_PACKET)
        + _low_word("socketpair", 0, AF_ALG, AF_VSOCK, AF_PACKET)
        + _low_word("socketcall", 0, SYS_SOCKET, SYS_SOCKETPAIR, only=Abi.I386),
    )
    yield Act("kernel.module", "kernel", _calls("init_module", "finit_module", "delete_module"))
    yield Act("kernel.kexec", "kernel", _calls("kexec_load", "kexec_file_load"))
    yield Act("kernel.io", "kernel", _calls("iopl", "ioperm"))
    yield Act("kernel.swap", "kernel", _calls("swapon", "swapoff"))
    yield Act("kernel.acct", "kernel", _calls("acct"))
    yield Act("kernel.syslog", "kernel", _calls("syslog"))
    yield Act("kernel.reboot", "kernel", _calls("reboot"))
    yield Act("abi.i386", "abi", (Attempt(only=Abi.I386),))
    yield Act("abi.x32", "abi", (Attempt(only=Abi.X32),))


ACTS: Mapping[str, Act] = {act.id: act for act in _catalogue()}
"""Every act a filter can be asked about, by id."""

_BY_PATH = "what it opens is named by a path, which a filter cannot read"

OUT_OF_SIGHT: Mapping[str, str] = {
    "procmem.read": f"/proc/PID/mem: {_BY_PATH}; Landlock or a pid namespace holds it",
    "uffd.device": f"/dev/userfaultfd: {_BY_PATH}; keep it out of the sandbox's /dev",
    "reach.unix": f"a socket in the file system: {_BY_PATH}; Landlock or a mount namespace holds it",
    "reach.abstract": "a socket's abstract name stands behind a pointer, which a filter cannot follow; a network namespace holds it",
    "reach.home": f"a file: {_BY_PATH}; Landlock or a mount namespace holds it",
    "reach.environment": "the environment is memory, not a call; the launcher clears it",
    "state": "credentials, leaked descriptors and namespaces are state, not calls; probes and `/proc` show them",
}
"""Acts of the probe catalogue that no filter can forbid, with the reason."""


def find_acts(ids: Iterable[str] | None) -> tuple[Act, ...]:
    """Acts by id or by family, in the catalogue's order, all for None; raises `BadInputError` for other words."""
    if ids is None:
        return tuple(ACTS.values())
    wanted = tuple(ids)
    families = {act.family for act in ACTS.values()}
    for word in wanted:
        if word not in ACTS and word not in families:
            raise BadInputError(
                f"unknown act or family `{word}`",
                hint=f"families: {', '.join(sorted(families))}; acts: {', '.join(ACTS)}",
            )
    return tuple(act for act in ACTS.values() if {act.id, act.family} & set(wanted))
