"""The few ptrace requests that reading filters and replaying calls need, by ctypes.

Every request must come from the thread that attached. Errors are `OSError` with the kernel's number; what
they mean depends on the request, so callers translate them.
"""

import ctypes
import os
import struct
from dataclasses import dataclass, fields, replace
from typing import final

__all__ = [
    "EVENT_SECCOMP",
    "EVENT_STOP",
    "OPTION_EXITKILL",
    "OPTION_SUSPEND_SECCOMP",
    "OPTION_TRACESECCOMP",
    "Registers",
    "detach",
    "get_filter",
    "get_registers",
    "interrupt",
    "resume",
    "seize",
    "set_options",
    "set_registers",
]

PTRACE_CONT = 7
PTRACE_GETREGS, PTRACE_SETREGS = 12, 13
PTRACE_DETACH = 17
PTRACE_SETOPTIONS = 0x4200
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
PTRACE_SECCOMP_GET_FILTER = 0x420C

OPTION_TRACESECCOMP = 1 << 7
OPTION_EXITKILL = 1 << 20
OPTION_SUSPEND_SECCOMP = 1 << 21
EVENT_SECCOMP, EVENT_STOP = 7, 128
WORD = 0xFFFF_FFFF_FFFF_FFFF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@final
@dataclass(frozen=True, slots=True)
class Registers:
    """x86-64's `struct user_regs_struct`, in its order."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int

    def with_(self, **changes: int) -> "Registers":
        """A copy with some registers changed; negative numbers wrap."""
        return replace(self, **{name: value & WORD for name, value in changes.items()})


_REGISTERS = struct.Struct(f"<{len(fields(Registers))}Q")


def _ptrace(request: int, pid: int, address: int | None = None, data: object = None) -> int:
    result: int = _libc.ptrace(request, pid, address, data)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def seize(tid: int, options: int = 0) -> None:
    """Attach without stopping it and without a signal."""
    _ptrace(PTRACE_SEIZE, tid, None, options)


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop; `waitpid` then reports `EVENT_STOP`."""
    _ptrace(PTRACE_INTERRUPT, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped thread go on untraced, delivering `signal` if it was stopped by one."""
    _ptrace(PTRACE_DETACH, tid, None, signal)


def resume(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run to its next stop."""
    _ptrace(PTRACE_CONT, tid, None, signal)


def set_options(tid: int, options: int) -> None:
    """Replace the options of a stopped thread."""
    _ptrace(PTRACE_SETOPTIONS, tid, None, options)


def get_registers(tid: int) -> Registers:
    """The registers of a stopped thread."""
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    _ptrace(PTRACE_GETREGS, tid, None, ctypes.addressof(buffer))
    return Registers(*_REGISTERS.unpack(buffer.raw))


def set_registers(tid: int, registers: Registers) -> None:
    """Put registers into a stopped thread."""
    packed = _REGISTERS.pack(*(getattr(registers, field.name) for field in fields(registers)))
    buffer = ctypes.create_string_buffer(packed, len(packed))
    _ptrace(PTRACE_SETREGS, tid, None, ctypes.addressof(buffer))


def get_filter(tid: int, index: int) -> bytes:
    """The filter at `index` of a stopped thread, the oldest being 0.

    EACCES: we are no CAP_SYS_ADMIN of the first user namespace, or under a filter ourselves. EINVAL: no
    filter mode. ENOENT: no filter at this index. EMEDIUMTYPE: the kernel did not keep its classic form.
    """
    count = _ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, None)
    buffer = ctypes.create_string_buffer(count * 8)
    _ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw
