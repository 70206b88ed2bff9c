"""The steps before an exec as a tiny program of their own: an ELF file with a list of system calls in it.

    steps -> image(steps, ...) -> Image(elf, names)      standard library only, pure

A Python child would have to be forked, and forking and running Python costs several times what the steps
themselves do. So the steps become data, and forty bytes of code walk them: load the registers, call, go on;
on an error write which call it was and its errno, and end. The program is written to an anonymous file and
started by `posix_spawn`, which copies nothing. x86-64 only; elsewhere the spawner forks, as it does for steps
that are not known here.
"""

import os
import struct
from typing import Any, NamedTuple

import kernel_calls as kernel  # type: ignore[import-not-found,unused-ignore]

__all__ = ["NOTES", "Image", "image"]

NOTES = 900
"""The descriptor on which the program tells of a call that failed; closed by the final exec."""

CODE_BASE, DATA_BASE = 0x400000, 0x600000
PAGE = 0x1000
RECORD = struct.Struct("<8Q")
"""Number, six arguments, and the one errno that is no failure."""

NO_ERRNO = 0
F_SETFD, FD_CLOEXEC, O_PATH_CLOEXEC = 2, 1, 0o12000000
EPERM = 1
TIOCSCTTY = 0x540E

# arch/x86/entry/syscalls/syscall_64.tbl
IOCTL, CLOSE, OPEN, FCNTL, CHDIR, SETSID, PRCTL, EXECVE, RT_SIGACTION = 16, 3, 2, 72, 80, 112, 157, 59, 13


class Image(NamedTuple):
    """A program, and the step that each of its calls belongs to."""

    elf: bytes
    names: tuple[str, ...]


class _Data:
    """The program's data: records first, whatever they point to behind them."""

    def __init__(self, records: int) -> None:
        self.base = DATA_BASE + 16 + records * RECORD.size  # sixteen bytes of scratch come first
        self.bytes = bytearray()

    def put(self, content: bytes) -> int:
        """Store, aligned; returns the address."""
        self.bytes += bytes(-len(self.bytes) % 8)
        address = self.base + len(self.bytes)
        self.bytes += content
        return address

    def text(self, text: str) -> int:
        return self.put(os.fsencode(text) + b"\0")

    def vector(self, texts: list[str]) -> int:
        pointers = [self.text(text) for text in texts]
        return self.put(struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))


def image(
    steps: list[list[Any]], *, filters: dict[int, bytes], taken: set[int], last_capability: int
) -> Image | None:
    """The program for these steps; None when one of them is not known here.

    `filters` holds the decoded code of each filter step by its index, `taken` the descriptor numbers in use.
    """
    if any(step[0] not in _BUILDERS for step in steps):
        return None
    plan: list[tuple[str, Any]] = [("descriptors", _close_notes_on_exec), ("supervision", _supervision)]
    plan.append(("signals", _default_internal_signals))
    plan += [(step[0], (index, step)) for index, step in enumerate(steps)]
    context = _Context(filters, min(set(range(64)) - taken), last_capability)
    counted = _lay_out(plan, context, _Data(0))
    records = _lay_out(plan, context, data := _Data(len(counted)))
    body = bytes(16) + b"".join(
        RECORD.pack(*(word & 0xFFFFFFFFFFFFFFFF for word in row)) for _, row in records
    )
    return Image(_elf(len(records), body + bytes(data.bytes)), tuple(name for name, _ in records))


class _Context(NamedTuple):
    filters: dict[int, bytes]
    free_descriptor: int
    last_capability: int


Row = tuple[int, ...]


def _lay_out(plan: list[tuple[str, Any]], context: _Context, data: _Data) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    for name, what in plan:
        built = what(data) if callable(what) else _BUILDERS[name](what[0], what[1], context, data)
        rows += [(name, row) for row in built]
    return rows


def _row(number: int, *arguments: int, tolerated: int = NO_ERRNO) -> Row:
    return (number, *arguments, *[0] * (6 - len(arguments)), tolerated)


def _close_notes_on_exec(_: _Data) -> list[Row]:
    return [_row(FCNTL, NOTES, F_SETFD, FD_CLOEXEC)]


def _supervision(_: _Data) -> list[Row]:
    """As `spawner._be_command` does: die with the spawner's one thread, and keep one's orphans."""
    return [_row(PRCTL, kernel.PR_SET_PDEATHSIG, 9), _row(PRCTL, kernel.PR_SET_CHILD_SUBREAPER, 1)]


def _default_internal_signals(data: _Data) -> list[Row]:
    """glibc's posix_spawn leaves the two that its threads use among themselves ignored; a fork does not."""
    action = data.put(bytes(32))
    return [_row(RT_SIGACTION, number, action, 0, 8) for number in (32, 33)]


def _session(_: int, _step: list[Any], _context: _Context, _data: _Data) -> list[Row]:
    return [_row(SETSID)]


def _terminal(_: int, step: list[Any], _context: _Context, _data: _Data) -> list[Row]:
    return [_row(IOCTL, step[1], TIOCSCTTY, 0)]


def _directory(_: int, step: list[Any], _context: _Context, data: _Data) -> list[Row]:
    return [_row(CHDIR, data.text(step[1]))]


def _no_new_privs(_: int, _step: list[Any], _context: _Context, _data: _Data) -> list[Row]:
    return [_row(PRCTL, kernel.PR_SET_NO_NEW_PRIVS, 1)]


def _bounding_set(_: int, _step: list[Any], context: _Context, _data: _Data) -> list[Row]:
    """One call a capability; an ordinary user may not, which is told and no failure."""
    drop = kernel.PR_CAPBSET_DROP
    return [_row(PRCTL, drop, number, tolerated=EPERM) for number in range(context.last_capability + 1)]


def _landlock(_: int, step: list[Any], context: _Context, data: _Data) -> list[Row]:
    """As `kernel_calls.restrict_by_landlock`; the lowest free descriptor is the ruleset's, the next the root's."""
    ruleset, root = context.free_descriptor, context.free_descriptor + 1
    if step[1] >= kernel.SCOPE_ABI:
        scoped = kernel.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | kernel.LANDLOCK_SCOPE_SIGNAL
        attributes, refer = struct.pack("<QQQ", 0, 0, scoped), 0
    else:
        refer = kernel.LANDLOCK_ACCESS_FS_REFER if step[1] >= kernel.REFER_ABI else 0
        attributes = struct.pack("<Q", kernel.LANDLOCK_ACCESS_FS_MAKE_CHAR | refer)
    rows = [_row(kernel.LANDLOCK_CREATE_RULESET, data.put(attributes), len(attributes), 0)]
    if refer:
        beneath = data.put(struct.pack("<Qi", refer, root))
        rows += [
            _row(OPEN, data.text("/"), O_PATH_CLOEXEC),
            _row(kernel.LANDLOCK_ADD_RULE, ruleset, kernel.LANDLOCK_RULE_PATH_BENEATH, beneath, 0),
            _row(CLOSE, root),
        ]
    return [*rows, _row(kernel.LANDLOCK_RESTRICT_SELF, ruleset, 0), _row(CLOSE, ruleset)]


def _filter(index: int, _step: list[Any], context: _Context, data: _Data) -> list[Row]:
    code = context.filters[index]
    program = data.put(struct.pack("<HxxxxxxQ", len(code) // 8, data.put(code)))
    return [_row(PRCTL, kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER, program)]


def _execute(_: int, step: list[Any], _context: _Context, data: _Data) -> list[Row]:
    argv, environment = step[1], step[2]
    words = [f"{name}={value}" for name, value in environment.items()]
    path = _found(argv[0], environment.get("PATH", os.defpath))
    return [_row(EXECVE, data.text(path), data.vector(argv), data.vector(words))]


def _found(name: str, path: str) -> str:
    """The file that execvp would take; one that is not there keeps its name, and the kernel says ENOENT."""
    if "/" in name:
        return name
    candidates = [os.path.join(folder or ".", name) for folder in path.split(":")]  # noqa: PTH118 - no pathlib here
    return next((c for c in candidates if os.access(c, os.X_OK) and not os.path.isdir(c)), "/" + name)  # noqa: PTH112


_BUILDERS = {
    "session": _session,
    "terminal": _terminal,
    "directory": _directory,
    "no_new_privs": _no_new_privs,
    "bounding_set": _bounding_set,
    "landlock": _landlock,
    "filter": _filter,
    "execute": _execute,
}


def _code(records: int) -> bytes:
    """Walk the records.

    r12 = record, r13 = count, r14 = index
    next:  if r14 == r13: exit(126);  load rax, rdi, rsi, rdx, r10, r8, r9;  syscall
           if rax > -4096: write (index, errno) to NOTES; unless errno is the tolerated one: exit(126)
           r12 += 64; r14 += 1; goto next
    """
    head = (
        b"\x49\xbc" + struct.pack("<Q", DATA_BASE + 16)  # mov r12, records
        + b"\x49\xbd" + struct.pack("<Q", records)  # mov r13, count
        + b"\x4d\x31\xf6"  # xor r14, r14
    )  # fmt: skip
    call = (
        b"\x49\x8b\x04\x24"  # mov rax, [r12]
        b"\x49\x8b\x7c\x24\x08"  # mov rdi, [r12+8]
        b"\x49\x8b\x74\x24\x10"  # mov rsi, [r12+16]
        b"\x49\x8b\x54\x24\x18"  # mov rdx, [r12+24]
        b"\x4d\x8b\x54\x24\x20"  # mov r10, [r12+32]
        b"\x4d\x8b\x44\x24\x28"  # mov r8, [r12+40]
        b"\x4d\x8b\x4c\x24\x30"  # mov r9, [r12+48]
        b"\x0f\x05"  # syscall
        b"\x48\x3d\x01\xf0\xff\xff"  # cmp rax, -4095
    )
    advance = b"\x49\x83\xc4\x40\x49\xff\xc6"  # add r12, 64; inc r14
    tell = (
        b"\x48\xf7\xd8" b"\x48\x89\xc3"  # neg rax; mov rbx, rax
        b"\x48\xbe" + struct.pack("<Q", DATA_BASE)  # mov rsi, scratch
        + b"\x44\x89\x36" b"\x89\x5e\x04"  # mov [rsi], r14d; mov [rsi+4], ebx
        + b"\xbf" + struct.pack("<I", NOTES)  # mov edi, NOTES
        + b"\xba\x08\x00\x00\x00" b"\xb8\x01\x00\x00\x00" b"\x0f\x05"  # edx = 8; eax = write; syscall
        + b"\x49\x3b\x5c\x24\x38"  # cmp rbx, [r12+56]
    )  # fmt: skip
    leave = b"\xbf\x7e\x00\x00\x00\xb8\xe7\x00\x00\x00\x0f\x05"  # edi = 126; eax = exit_group; syscall
    check = b"\x4d\x39\xee"  # cmp r14, r13
    # Jumps are relative to the end of their own instruction; all of the code is below 128 bytes apart.
    loop = len(check) + 2 + len(call) + 2 + len(advance) + 2
    to_leave = len(call) + 2 + len(advance) + 2 + len(tell) + 2
    return (
        head + check + b"\x74" + _near(to_leave)  # je leave
        + call + b"\x73" + _near(len(advance) + 2)  # jae tell
        + advance + b"\xeb" + _near(-loop)  # jmp next
        + tell + b"\x74" + _near(-(len(tell) + 2 + 2 + len(advance)))  # je advance
        + leave
    )  # fmt: skip


def _near(distance: int) -> bytes:
    return struct.pack("<b", distance)


def _elf(records: int, data: bytes) -> bytes:
    """Two segments: code that cannot be written, data that cannot be executed."""
    code = _code(records)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        2, 62, 1, CODE_BASE + PAGE, 64, 0, 0, 64, 56, 2, 0, 0, 0,
    )  # fmt: skip
    read_execute, read_write, load = 5, 6, 1
    segments = struct.pack(
        "<IIQQQQQQ", load, read_execute, PAGE, CODE_BASE + PAGE, CODE_BASE + PAGE, len(code), len(code), PAGE
    ) + struct.pack("<IIQQQQQQ", load, read_write, 2 * PAGE, DATA_BASE, DATA_BASE, len(data), len(data), PAGE)
    return (header + segments).ljust(PAGE, b"\0") + code.ljust(PAGE, b"\0") + data
