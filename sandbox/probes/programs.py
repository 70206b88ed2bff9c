"""Programs of one system call each, which the project writes itself: an ELF file, byte by byte, no compiler.

    write_program(path, "i386", number, arguments)      32-bit: `int 0x80`, then a far jump to tell in 64-bit mode
    call_in_program(folder, "i386", number, arguments)  run it as a child -> what the kernel returned

The result is told by x86-64 calls, which any filter must allow to a program, so a filter that answers the
other ABI with an errno is heard too, not only one that kills. Since it is exec'd, it also shows that what
holds before `execve` holds after it. Layout: System V ABI, Intel 386 and AMD64 supplements.
"""

import errno
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

__all__ = ["ABIS", "call_in_program", "write_program"]

BASE = 0x0804_8000
"""Where the file is mapped; below 2 GiB, so that both modes can name every address in 32 bits."""
USER_CODE_64 = 0x33
"""The kernel's selector of 64-bit user code (__USER_CS)."""
EM_386, EM_X86_64 = 3, 62
RESULT_BYTES = 8

ABIS = ("i386", "x86_64", "x32") if os.uname().machine == "x86_64" else ()
"""What a program can be written for on this machine."""

WIDE, NARROW = 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF


def write_program(path: Path, abi: str, number: int, arguments: tuple[int, ...]) -> None:
    """An executable file that makes the call, writes the result to descriptor 1 and exits."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    narrow = abi == "i386"
    header = 52 + 32 if narrow else 64 + 56
    call = _narrow_call(number, padded) if narrow else _wide_call(number, padded)
    code_at = BASE + header
    size = len(call(0, 0)) + len(_tail(0))
    result = code_at + size
    code = call(result, code_at + len(call(0, 0))) + _tail(result)
    content = _header(narrow, code_at, header + size + RESULT_BYTES) + code + bytes(RESULT_BYTES)
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o700)
        file.write(content)


def _narrow_call(number: int, arguments: tuple[int, ...]) -> Callable[[int, int], bytes]:
    # mov eax..ebp, imm32; int 0x80; cdq; mov [result], eax; mov [result+4], edx; jmp far 0x33:tail
    loads = b"".join(
        bytes([opcode]) + struct.pack("<I", value & NARROW)
        for opcode, value in zip(b"\xb8\xbb\xb9\xba\xbe\xbf\xbd", (number, *arguments), strict=True)
    )
    return lambda result, tail: (
        loads
        + b"\xcd\x80\x99\xa3"
        + struct.pack("<I", result)
        + b"\x89\x15"
        + struct.pack("<I", result + 4)
        + b"\xea"
        + struct.pack("<IH", tail, USER_CODE_64)
    )


def _wide_call(number: int, arguments: tuple[int, ...]) -> Callable[[int, int], bytes]:
    # movabs rax, rdi, rsi, rdx, r10, r8, r9; syscall; mov [result], rax
    registers = (b"\x48\xb8", b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
    loads = b"".join(
        register + struct.pack("<Q", value & WIDE)
        for register, value in zip(registers, (number, *arguments), strict=True)
    )
    return lambda result, _: loads + b"\x0f\x05\x48\x89\x04\x25" + struct.pack("<I", result)


def _tail(result: int) -> bytes:
    """write(1, result, 8); exit_group(0); ud2."""
    write = b"\xb8\x01\0\0\0\xbf\x01\0\0\0\xbe" + struct.pack("<I", result) + b"\xba\x08\0\0\0\x0f\x05"
    return write + b"\xb8\xe7\0\0\0\x31\xff\x0f\x05\x0f\x0b"


def _header(narrow: bool, entry: int, size: int) -> bytes:
    """The file header and one segment, readable, writable and executable."""
    ident = b"\x7fELF" + bytes([1 if narrow else 2, 1, 1]) + bytes(9)
    machine = EM_386 if narrow else EM_X86_64
    if narrow:
        head = struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        return ident + head + struct.pack("<8I", 1, 0, BASE, BASE, size, size, 7, 0x1000)
    head = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return ident + head + struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size, 0x1000)


def call_in_program(folder: str, abi: str, number: int, arguments: tuple[int, ...]) -> int:
    """Write, run, hear the result; raises `OSError` with the kernel's errno, dies of the signal that it died of."""
    path = Path(folder) / f"call-{os.getpid()}"
    write_program(path, abi, number, arguments)
    try:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_program(path, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            told = file.read()
        _, status = os.waitpid(pid, 0)
    finally:
        path.unlink()
    if os.WIFSIGNALED(status):
        # The same end as the program's, so that the harness hears of the filter's own signal.
        os.kill(os.getpid(), os.WTERMSIG(status))
        signal.pause()
    if os.WEXITSTATUS(status) or len(told) != RESULT_BYTES:
        code = os.WEXITSTATUS(status)
        raise OSError(errno.ENOSYS if code == errno.ENOEXEC else code or errno.EIO, f"no {abi} program runs")
    result = int(struct.unpack("<q", told)[0])
    if -4096 < result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _be_program(path: Path, writer: int) -> NoReturn:
    try:
        os.dup2(writer, 1)
        os.execv(path, [str(path)])  # noqa: S606 - a program that was written a moment ago, no shell
    except OSError as error:
        os._exit(error.errno or 255)
    finally:
        os._exit(255)
