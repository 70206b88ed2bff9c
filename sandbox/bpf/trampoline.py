"""A tiny ELF that this project writes itself: it makes whatever call its tracer puts into its registers.

    start:   read(0, stack, 1); exit(0)      waits on a pipe, so that it ends when its parent does
    native:  syscall;  int3                   x86-64 and x32 calls
    compat:  int 0x80; int3                   i386 calls, with all 64 bits of the registers

A real binary and not Python: nothing runs in it between two calls, so the filter under test sees the call
in question and no other, and the replayed call comes from a known address.
"""

import struct

from holdfast.sandbox.bpf.abi import Abi

__all__ = ["BUFFER", "BUFFER_BYTES", "ENTRY", "RETURN_ADDRESS", "trampoline_elf"]

BASE = 0x40_0000
CODE = BASE + 0x1000
BUFFER = BASE + 0x10_0000
"""Writable memory, for the filters that are installed."""
BUFFER_BYTES = 0x1_0000

START = bytes.fromhex(
    "31c0"  # xor eax, eax        read
    "31ff"  # xor edi, edi        standard input
    "4889e6"  # mov rsi, rsp
    "ba01000000"  # mov edx, 1
    "0f05"  # syscall
    "b83c000000"  # mov eax, 60   exit
    "31ff"  # xor edi, edi
    "0f05"  # syscall
)
NATIVE, COMPAT = bytes.fromhex("0f05cc"), bytes.fromhex("cd80cc")

_NATIVE_AT = CODE + len(START)
_COMPAT_AT = _NATIVE_AT + len(NATIVE)
ENTRY = {Abi.X86_64: _NATIVE_AT, Abi.X32: _NATIVE_AT, Abi.I386: _COMPAT_AT}
"""Where to point the instruction pointer for a call by each ABI."""
RETURN_ADDRESS = {abi: entry + 2 for abi, entry in ENTRY.items()}
"""What `seccomp_data.instruction_pointer` then reads."""

PT_LOAD, READ_EXECUTE, READ_WRITE = 1, 5, 6
ET_EXEC, EM_X86_64 = 2, 62
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def trampoline_elf() -> bytes:
    """The whole file: header, two segments (code, and zeroed memory), code."""
    code = START + NATIVE + COMPAT
    header = HEADER.pack(
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        ET_EXEC,
        EM_X86_64,
        1,
        CODE,
        HEADER.size,
        0,
        0,
        HEADER.size,
        SEGMENT.size,
        2,
        0,
        0,
        0,
    )
    text = SEGMENT.pack(PT_LOAD, READ_EXECUTE, 0x1000, CODE, CODE, len(code), len(code), 0x1000)
    memory = SEGMENT.pack(PT_LOAD, READ_WRITE, 0, BUFFER, BUFFER, 0, BUFFER_BYTES, 0x1000)
    return (header + text + memory).ljust(0x1000, b"\0") + code
