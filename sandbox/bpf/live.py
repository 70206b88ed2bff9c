"""Read the filters that a running process is under, out of the kernel, and leave the process unharmed.

Each thread is seized (no signal, no stop), interrupted, asked, and let go. Filters belong to threads, so
every thread is read: a process is proven only when each distinct stack in it is. What the reader needs is
CAP_SYS_ADMIN in the first user namespace and no filter of its own (ptrace(2), PTRACE_SECCOMP_GET_FILTER).

What a stopped thread may notice: a system call that signal(7) lists as never restarted (`epoll_wait`,
`poll` with a timeout, ...) can return EINTR, as it may at any stop and continue.
"""

import errno
import os
from pathlib import Path
from typing import final

from holdfast.clock import DeadlineExceededError, wait_until
from holdfast.sandbox.bpf import ptrace
from holdfast.sandbox.refusal import BadInputError, SandboxError

__all__ = ["CannotReadError", "Stack", "read_live"]

Stack = tuple[bytes, ...]
"""The filters of one thread, oldest first; empty when it is under none."""

WAIT_ALL = 0x4000_0000
"""__WALL: threads other than a group's first are waited for too."""
PASSES = 8
STOP_SECONDS = 5.0


@final
class CannotReadError(SandboxError):
    """The filters could not be read; nothing may be concluded from that but `cannot_tell`."""


def read_live(pid: int) -> tuple[Stack, ...]:
    """The distinct stacks among a process's threads, in the order first met.

    Raises `BadInputError` when there is no such process, `CannotReadError` when its filters stay hidden.
    """
    stacks: dict[int, Stack] = {}
    # A thread that starts meanwhile is under its parent's filters, but it may add its own: go on until none is new.
    for _ in range(PASSES):
        fresh = _threads(pid) - stacks.keys()
        if not fresh:
            return tuple(dict.fromkeys(stacks.values()))
        for tid in sorted(fresh):
            try:
                stacks[tid] = _read_thread(tid)
            except ProcessLookupError:
                continue  # this thread has ended; the next pass sees who is left
    raise CannotReadError(f"process {pid} starts threads faster than their filters can be read")


def _threads(pid: int) -> set[int]:
    try:
        return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        raise BadInputError(f"no process {pid}", hint="it may have ended; check with `ps`") from None
    except PermissionError:
        raise CannotReadError(f"may not look at process {pid}") from None


def _read_thread(tid: int) -> Stack:
    status = _status(tid)
    match status.get("Seccomp"):
        case "0":  # SECCOMP_MODE_DISABLED
            return ()
        case "1":  # SECCOMP_MODE_STRICT
            raise CannotReadError(f"thread {tid} is in strict mode, which has no filter to read")
        case None:
            raise CannotReadError(f"the kernel does not say whether thread {tid} is filtered")
        case _:
            pass
    stack = _fetch(tid)
    expected = status.get("Seccomp_filters")
    if expected is not None and int(expected) != len(stack):
        raise CannotReadError(f"thread {tid} has {expected} filters, of which {len(stack)} could be read")
    return stack


def _status(tid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{tid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise ProcessLookupError(tid) from None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _fetch(tid: int) -> Stack:
    """Seize, stop, read, let go."""
    try:
        ptrace.seize(tid)
    except PermissionError as error:
        raise CannotReadError(
            f"may not trace thread {tid}: {error.strerror}", hint="another tracer, Yama, or no CAP_SYS_PTRACE"
        ) from None
    signal = 0
    try:
        ptrace.interrupt(tid)
        status = _wait_stop(tid)
        # The stop is ours (EVENT_STOP), or a signal's that came first and is handed on as it was.
        signal = 0 if status >> 16 else os.WSTOPSIG(status)
        return _filters(tid)
    finally:
        try:
            ptrace.detach(tid, signal)
        except ProcessLookupError:
            pass  # killed meanwhile; nothing is left to let go


def _wait_stop(tid: int) -> int:
    """The status of its stop; raises `ProcessLookupError` when it ended instead."""

    def reported() -> tuple[int, int] | None:
        found = os.waitpid(tid, WAIT_ALL | os.WNOHANG)
        return found if found[0] else None

    try:
        _, status = wait_until(reported, what=f"a stop of thread {tid}", seconds=STOP_SECONDS, every=0.0005)
    except DeadlineExceededError as late:
        raise CannotReadError(str(late), hint="it may sleep in the kernel, uninterruptibly") from None
    if not os.WIFSTOPPED(status):
        raise ProcessLookupError(tid)
    return status


def _filters(tid: int) -> Stack:
    stack: list[bytes] = []
    while True:
        try:
            stack.append(ptrace.get_filter(tid, len(stack)))
        except OSError as error:
            match error.errno:
                case errno.ENOENT:
                    return tuple(stack)
                case errno.EACCES:
                    why = "reading filters needs CAP_SYS_ADMIN outside every user namespace, and no filter of one's own"
                case errno.EMEDIUMTYPE:
                    why = "the kernel holds a filter that was not made of classic BPF"
                case errno.EIO | errno.EINVAL:
                    why = "this kernel cannot hand filters out (CONFIG_CHECKPOINT_RESTORE)"
                case _:
                    why = error.strerror or "unknown error"
            raise CannotReadError(f"the filters of thread {tid} stay hidden: {why}") from None
