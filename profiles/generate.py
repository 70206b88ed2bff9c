"""The lists behind the shipped profiles, with their reasons: `python -m holdfast.profiles.generate`.

Each profile is an allow list over a default of EPERM. `strict` is the smallest list that a Python program
still runs under; `standard` adds what compilers, git and test runners need; `standard-net` adds inet sockets.

Left out of all three, on purpose: everything that the five families forbid, io_uring (its opcodes go around
the rules for socket and open), userfaultfd, open_by_handle_at, personality bits, SysV IPC (shared with the
host under `seccomp`), module and kexec calls, clocks, reboot, swap, accounting.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["profiles", "render", "requests_but"]

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
EPERM, ENOSYS = 1, 38
LOW_32 = 0xFFFFFFFF

CLONE_NEW = 0x7E020000
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET; NEWTIME lies in clone's signal byte."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
S_IFMT, S_IFIFO = 0o170000, 0o010000

TIOCSTI, TIOCLINUX = 0x5412, 0x541C

TERMINAL_AND_FILE_REQUESTS = {
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TCSETSW": 0x5403,
    "TIOCGPGRP": 0x540F,
    "TIOCGWINSZ": 0x5413,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
}
"""What the Python runtime and line-oriented programs ask of a descriptor; `strict` lets nothing else through."""

FILES = """
    access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fcntl fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents
    getdents64 link linkat lseek lstat mkdir mkdirat newfstatat open openat openat2 pipe pipe2 pread64 preadv
    preadv2 pwrite64 pwritev pwritev2 read readlink readlinkat readv rename renameat renameat2 rmdir stat
    statfs statx symlink symlinkat truncate umask unlink unlinkat utime utimensat utimes futimesat write writev
""".split()

MEMORY = "brk madvise membarrier mincore mmap mprotect mremap msync munmap memfd_create".split()

WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll
    pselect6 select timerfd_create timerfd_gettime timerfd_settime signalfd signalfd4
""".split()

PROCESSES = """
    arch_prctl exit exit_group fork vfork futex futex_waitv get_robust_list set_robust_list set_tid_address
    rseq kill tgkill tkill wait4 waitid prctl prlimit64 getrlimit setrlimit getrusage sched_yield
    sched_getaffinity sched_setaffinity getcpu restart_syscall capget pause
""".split()

SIGNALS = """
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sigaltstack alarm getitimer setitimer
""".split()

IDENTITY = """
    getpid getppid gettid getpgid getpgrp getsid setsid setpgid getuid geteuid getgid getegid getresuid
    getresgid getgroups uname sysinfo times
""".split()

CLOCKS = "clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time getrandom".split()

SOCKET_CALLS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmsg recvmmsg sendmsg
    sendmmsg sendto setsockopt shutdown
""".split()

DEVELOPER = """
    chown fchown fchownat lchown execveat fgetxattr getxattr lgetxattr flistxattr listxattr llistxattr
    fsetxattr setxattr lsetxattr fremovexattr removexattr lremovexattr getpriority setpriority
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioprio_get ioprio_set mlock mlock2 munlock
    mlockall munlockall pidfd_open pidfd_send_signal readahead sched_get_priority_max sched_get_priority_min
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setattr sched_setparam
    sched_setscheduler sendfile splice tee vmsplice sync sync_file_range syncfs timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime utimensat fchmodat2 cachestat
""".split()
"""What gcc, make, git, pytest and their like ask for beyond a plain Python program."""


def allow(names: Iterable[str], comment: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    """One allow rule, with the sentence that says why."""
    rule: dict[str, Any] = {"names": sorted(set(names)), "action": ALLOW, "comment": comment}
    return rule | ({"args": list(conditions)} if conditions else {})


def equals(index: int, value: int) -> dict[str, Any]:
    """The argument is this value, over all 64 bits."""
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def masked(index: int, mask: int, value: int) -> dict[str, Any]:
    """The argument's bits under `mask` are `value`."""
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def requests_but(*forbidden: int) -> Iterator[tuple[int, int]]:
    """Mask and value pairs that together match each 64-bit number whose low 32 bits are none of `forbidden`.

    An allow list cannot say "every request but these": NE rules are ORed, so two of them let all through,
    and libseccomp drops a deny beside an unconditional allow. So: walk the binary tree of the low 32 bits
    and, wherever a subtree holds no forbidden number, match it whole by its prefix. The high 32 bits stay
    unmatched, because the kernel ignores them.
    """
    prefixes = [(32, 0)]
    while prefixes:
        bits, value = prefixes.pop()
        if not any(number >> bits == value >> bits for number in forbidden):
            yield (LOW_32 >> bits) << bits, value
        elif bits:
            prefixes += [(bits - 1, value | 1 << (bits - 1)), (bits - 1, value)]


def sockets(*families: int) -> Iterator[dict[str, Any]]:
    """`socket` for these families only; netlink only to ask for routes and addresses."""
    for family in families:
        protocol = [equals(2, 0)] if family == AF_NETLINK else []
        yield allow(["socket"], f"address family {family}", equals(0, family), *protocol)
    yield allow(["socketpair"], "pairs exist for AF_UNIX alone", equals(0, AF_UNIX))


def common() -> Iterator[dict[str, Any]]:
    """What all three profiles share."""
    yield allow(FILES, "files: the mount namespace and Landlock say which")
    yield allow(
        [*MEMORY, *WAITING, *CLOCKS, *SIGNALS, *IDENTITY], "memory, waiting, clocks, signals, identity"
    )
    yield allow(PROCESSES, "processes and threads")
    yield allow(["execve"], "the launcher itself must exec the command under the loaded filter")
    yield allow(["clone"], "threads and children, but no new namespace", masked(0, CLONE_NEW, 0))
    yield allow(["personality"], "reading the current personality", equals(0, LOW_32))
    yield {
        "names": ["clone3"],
        "action": ERRNO,
        "errnoRet": ENOSYS,
        "comment": "seccomp cannot look into its struct (CVE-2021-41133); ENOSYS makes libc fall back to clone",
    }
    yield allow(SOCKET_CALLS, "calls on sockets that exist; `socket` says which may")


def profiles() -> dict[str, list[dict[str, Any]]]:
    """The rules of each profile, by the profile's name."""
    listed = [
        allow(["ioctl"], name, masked(1, LOW_32, request))
        for name, request in TERMINAL_AND_FILE_REQUESTS.items()
    ]
    cover = [
        allow(["ioctl"], "every request but TIOCSTI and TIOCLINUX", masked(1, mask, value))
        for mask, value in requests_but(TIOCSTI, TIOCLINUX)
    ]
    developer = [
        allow(DEVELOPER, "compilers, git, test runners"),
        allow(["personality"], "the plain Linux personality", equals(0, 0)),
        allow(["mknod"], "named pipes, no devices", masked(1, S_IFMT, S_IFIFO)),
        allow(["mknodat"], "named pipes, no devices", masked(2, S_IFMT, S_IFIFO)),
    ]
    return {
        "strict": [*common(), *listed, *sockets(AF_UNIX)],
        "standard": [*common(), *developer, *cover, *sockets(AF_UNIX)],
        "standard-net": [*common(), *developer, *cover, *sockets(AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)],
    }


def render(rules: list[dict[str, Any]]) -> str:
    """The file's text: one rule a line where it is short, so that a diff shows the rule that changed."""
    head = {
        "defaultAction": ERRNO,
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
    }
    lines = ",\n".join("  " + json.dumps(rule) for rule in rules)
    return f'{json.dumps(head)[:-1]}, "syscalls": [\n{lines}\n]}}\n'


def main() -> None:
    """Write the three files beside this module."""
    for name, rules in profiles().items():
        Path(__file__).with_name(f"{name}.json").write_text(render(rules), encoding="utf-8")


if __name__ == "__main__":
    main()
