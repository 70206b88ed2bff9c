"""Ask the real kernel what a stack of filters does to a call, without the call ever executing.

Beneath the filters under test lies one more that answers RET_TRACE to every call. Whatever the filters
deny is denied, because ERRNO, TRAP and KILL win over TRACE; whatever they allow stops in the tracer before
it runs, and the tracer takes the call away (number -1). The child is the trampoline ELF: it makes one call,
the one in its registers. Should the tracer die, the kernel kills the child (EXITKILL), and a call that meets
RET_TRACE with no tracer fails with ENOSYS: there is no moment at which a call that is asked about can run.

What ranks above TRACE cannot be told apart here: ALLOW, LOG, and the unknown actions between them, which
the kernel would kill for. They all read `PASSED`.

Only `prctl` (no new privileges, no core dump) and `seccomp(SECCOMP_SET_MODE_FILTER)` are ever let through, to load the
filters, before the first question. As CAP_SYS_ADMIN the filters are suspended meanwhile
(PTRACE_O_SUSPEND_SECCOMP), so that any stack can be rebuilt; without it, a filter that denies `seccomp`
must be the last.
"""

import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import final

from holdfast.sandbox.bpf import ptrace
from holdfast.sandbox.bpf.abi import UNFILTERED, Abi
from holdfast.sandbox.bpf.action import TRACE
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import Instruction, encode
from holdfast.sandbox.bpf.trampoline import BUFFER, ENTRY, trampoline_elf

__all__ = ["Answer", "Cage", "CannotReplayError", "Fate", "obstacle"]

SYS_PRCTL, SYS_SECCOMP = 157, 317
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
SECCOMP_SET_MODE_FILTER = 1
RETURN_TRACE = encode([Instruction(0x06, 0, 0, TRACE)])
SOCK_FPROG = struct.Struct("<HxxxxxxQ")
CPU_SECONDS = 5
OPTIONS = ptrace.OPTION_EXITKILL | ptrace.OPTION_TRACESECCOMP


@final
class CannotReplayError(Exception):
    """This machine cannot make the call, or may not trace; `str()` says which."""


def obstacle() -> str | None:
    """Why nothing can be replayed from this process, or None."""
    if platform.machine() != "x86_64":
        return f"replay is written for x86-64, this machine is {platform.machine()}"
    if "\nSeccomp:\t0\n" not in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"):
        return "this process is under a filter of its own, which would answer as well"
    return None


@final
class Fate(Enum):
    """What became of a call."""

    PASSED = "passed"
    """TRACE or above: stopped behind the filters, and taken away."""
    FAILED = "failed"
    """Answered with an error number, without executing."""
    TRAPPED = "trapped"
    """SIGSYS, with the filter's data."""
    KILLED = "killed"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A call's fate as the kernel decided it."""

    fate: Fate
    errno: int = 0
    """Of `FAILED`; 0 when the filter answered ERRNO(0)."""


@final
class Cage:
    """A child under a stack of filters, to be asked; a context manager. x86-64 only."""

    def __init__(self, oldest_first: Sequence[bytes]) -> None:
        self.filters = tuple(oldest_first)
        self._pid = 0
        self._pipe = -1
        self._elf = -1

    def __enter__(self) -> "Cage":
        if why := obstacle():
            raise CannotReplayError(why)
        self._elf = os.memfd_create("holdfast-trampoline", os.MFD_CLOEXEC)
        os.write(self._elf, trampoline_elf())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._discard()
        os.close(self._elf)

    def ask(self, abi: Abi, call: Call) -> Answer:
        """What the kernel does with this call; a child that it kills is replaced at the next question.

        Raises `CannotReplayError` for what cannot be asked here, a foreign machine's call among it.
        """
        if abi not in ENTRY:
            raise CannotReplayError(f"an {abi.value} call cannot be made on {platform.machine()}")
        if (abi, call.nr) in UNFILTERED:
            # SAFETY: no filter would see it, so nothing could take it away.
            raise CannotReplayError(
                f"number {call.nr} is the kernel's own probe trampoline, which no filter sees"
            )
        if not self._pid:
            self._start()
        return self._make(abi, call)

    def _start(self) -> None:
        """A fresh child, with every filter loaded."""
        reading, self._pipe = os.pipe()
        try:
            self._spawn(reading)
            self._attach()
            self._load()
        except BaseException:
            self._discard()
            raise
        finally:
            os.close(reading)

    def _spawn(self, standard_input: int) -> None:
        actions = [(os.POSIX_SPAWN_DUP2, standard_input, 0), (os.POSIX_SPAWN_CLOSE, self._pipe)]
        try:
            self._pid = os.posix_spawn(
                f"/proc/self/fd/{self._elf}", ["holdfast-trampoline"], {}, file_actions=actions
            )
        except OSError as error:  # vm.memfd_noexec, a limit on processes
            raise CannotReplayError(f"cannot start a child to replay in: {error.strerror}") from None

    def _attach(self) -> None:
        try:
            ptrace.seize(self._pid, OPTIONS)
        except PermissionError as error:
            raise CannotReplayError(f"may not trace a child of our own: {error.strerror}") from None
        resource.prlimit(self._pid, resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        ptrace.interrupt(self._pid)
        self._wait_stop()

    def _load(self) -> None:
        """Load the tracing filter, then those under test, each over the ones before.

        The memory is opened before the child stops being dumpable, which would keep an ordinary user out.
        """
        suspended = self._suspend()
        with open(f"/proc/{self._pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - a device, not a file
            self._really(SYS_PRCTL, PR_SET_NO_NEW_PRIVS, 1)
            self._really(SYS_PRCTL, PR_SET_DUMPABLE, 0)  # a child that a filter kills leaves no core behind
            for position, code in enumerate((RETURN_TRACE, *self.filters)):
                memory.seek(BUFFER)
                memory.write(SOCK_FPROG.pack(len(code) // 8, BUFFER + SOCK_FPROG.size) + code)
                if result := self._really(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, BUFFER):
                    name = errno.errorcode.get(-result, str(result))
                    raise CannotReplayError(
                        f"filter {position} of {len(self.filters)} could not be loaded: {name}"
                    )
        if suspended:
            ptrace.set_options(self._pid, OPTIONS)

    def _suspend(self) -> bool:
        try:
            ptrace.set_options(self._pid, OPTIONS | ptrace.OPTION_SUSPEND_SECCOMP)
        except OSError:
            return False  # no CAP_SYS_ADMIN, or under a filter ourselves
        return True

    def _really(self, number: int, *args: int) -> int:
        """Make a call of our own and let it execute; only for loading."""
        padded = (*args, *[0] * (6 - len(args)))
        ptrace.set_registers(self._pid, self._aimed(Abi.X86_64, number, padded))
        ptrace.resume(self._pid)
        try:
            if (stop := self._wait_stop()) >> 8 == ptrace.EVENT_SECCOMP:
                ptrace.resume(self._pid)
                stop = self._wait_stop()
        except ChildProcessError:
            stop = signal.SIGSYS
        if stop != signal.SIGTRAP:
            raise CannotReplayError("a filter under test does not let the next one be loaded")
        result = ptrace.get_registers(self._pid).rax
        return result - (1 << 64) if result >> 63 else result

    def _make(self, abi: Abi, call: Call) -> Answer:
        """The call in question, followed to the stop after it."""
        ptrace.set_registers(self._pid, self._aimed(abi, call.nr, call.args))
        ptrace.resume(self._pid)
        fate = None
        while True:
            try:
                stop = self._wait_stop()
            except ChildProcessError:
                return Answer(Fate.KILLED)
            if stop >> 8 == ptrace.EVENT_SECCOMP:
                fate = Answer(Fate.PASSED)
                # SAFETY: the call is taken away here, before the kernel looks it up.
                ptrace.set_registers(self._pid, ptrace.get_registers(self._pid).with_(orig_rax=-1))
            elif stop == signal.SIGSYS:
                fate = Answer(Fate.TRAPPED)
            elif stop == signal.SIGTRAP:
                result = ptrace.get_registers(self._pid).rax
                return fate or Answer(Fate.FAILED, -result & 0xFFFF)
            else:
                self._discard()
                raise CannotReplayError(f"this kernel does not answer {abi.value} calls (signal {stop})")
            ptrace.resume(self._pid)

    def _aimed(self, abi: Abi, number: int, args: Sequence[int]) -> ptrace.Registers:
        """Registers that make the call as soon as the child goes on."""
        order = (
            ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
            if abi is Abi.I386
            else ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        )
        # orig_rax = -1: the stop is not taken for an interrupted call that is to be restarted
        registers = ptrace.get_registers(self._pid).with_(orig_rax=-1, rax=number, rip=ENTRY[abi])
        return registers.with_(**dict(zip(order, args, strict=True)))

    def _wait_stop(self) -> int:
        """The child's next stop: a signal, with an event above it; raises `ChildProcessError` when it is dead."""
        pid = self._pid
        _, status = os.waitpid(pid, 0)
        if os.WIFSTOPPED(status):
            return status >> 8
        self._pid = 0
        self._discard()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
            raise ChildProcessError("killed by a filter")
        raise CannotReplayError(f"the child ended by itself, with status {status}")

    def _discard(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            while os.WIFSTOPPED(os.waitpid(self._pid, 0)[1]):
                pass  # a stop that was still to be reported
            self._pid = 0
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
