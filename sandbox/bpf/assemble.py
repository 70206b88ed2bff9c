"""Profile -> the bytes of its filter, by libseccomp.

Compiled in the parent and handed over as bytes: importing pyseccomp looks for the library with ldconfig,
which no sandboxed child could do, and what was handed over can be hashed, decoded and proven.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

from holdfast.sandbox.profile import Action, Profile, Rule
from holdfast.sandbox.refusal import BadInputError, CannotConfineError

__all__ = ["Assembled", "assemble"]

OPTIMIZE_BINARY_TREE = 2
"""CTL_OPTIMIZE: a binary tree over the numbers, so that the cost is flat in the count of rules."""

INSTRUCTION_BYTES = 8

_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}


@final
@dataclass(frozen=True, slots=True)
class Assembled:
    """A filter ready to load."""

    code: bytes
    """`struct sock_filter[]`, eight bytes an instruction, in the machine's byte order."""
    unknown: tuple[str, ...]
    """Allowed names that this libseccomp does not know; leaving them out only tightens."""

    @property
    def instructions(self) -> int:
        """How many instructions the kernel loads."""
        return len(self.code) // INSTRUCTION_BYTES


@lru_cache(maxsize=32)
def assemble(profile: Profile) -> Assembled:
    """Compile; raises `BadInputError` for names that cannot be dropped, `CannotConfineError` without libseccomp."""
    seccomp = _libseccomp()
    native = seccomp.system_arch()
    program = seccomp.SyscallFilter(_action(seccomp, profile.default_action, profile.default_errno))
    program.set_attr(seccomp.Attr.CTL_OPTIMIZE, OPTIMIZE_BINARY_TREE)
    # A call by a foreign ABI is an attempt to slip past the numbers that were meant: no errno, no second try.
    program.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    # INVARIANT: architectures before rules; libseccomp leaves one that is added later without any rule.
    for name in profile.architectures:
        _add_architecture(program, profile, name, native)
    unknown = [name for rule in profile.rules for name in _add_rule(seccomp, program, profile, rule, native)]
    return Assembled(_export(program), tuple(dict.fromkeys(unknown)))


def _add_architecture(program: Any, profile: Profile, name: str, native: int) -> None:
    token = _ARCHITECTURES.get(name)
    if token is None:
        raise BadInputError(
            f"{profile.path}: architecture `{name}` is not known here",
            hint=f"one of {', '.join(_ARCHITECTURES)}",
        )
    # A profile for several machines lists each; those of another machine have no meaning on this one.
    if token != native and _same_machine(token, native) and not program.exist_arch(token):
        program.add_arch(token)


def _same_machine(token: int, native: int) -> bool:
    return any(
        {token, native} <= family
        for family in ({0xC000003E, 0x40000003, 0x4000003E}, {0xC00000B7, 0x40000028})
    )


def _add_rule(seccomp: Any, program: Any, profile: Profile, rule: Rule, native: int) -> list[str]:
    """Add one rule for each of its names; return the names that this libseccomp does not know."""
    unknown = []
    arguments = [
        seccomp.Arg(c.index, getattr(seccomp, c.operator.name), c.value, c.value_two) for c in rule.conditions
    ]
    default = profile.default_errno if rule.errno is None else rule.errno
    for name in rule.names:
        if _is_unknown(seccomp, native, name):
            if rule.action is not Action.ALLOW:
                raise BadInputError(
                    f"{profile.path}: this libseccomp does not know `{name}`, which the profile denies",
                    hint="a denial cannot be left out; update libseccomp or deny by default",
                )
            unknown.append(name)
            continue
        program.add_rule(_action(seccomp, rule.action, default), name, *arguments)
    return unknown


def _is_unknown(seccomp: Any, native: int, name: str) -> bool:
    try:
        return bool(seccomp.resolve_syscall(native, name) == NR_SCMP_ERROR)
    except (ValueError, OSError):
        return True


NR_SCMP_ERROR = -1


def _action(seccomp: Any, action: Action, code: int) -> int:
    match action:
        case Action.ALLOW:
            return int(seccomp.ALLOW)
        case Action.ERRNO:
            return int(seccomp.ERRNO(code))
        case Action.KILL | Action.KILL_THREAD:
            return int(seccomp.KILL_THREAD)
        case Action.KILL_PROCESS:
            return int(seccomp.KILL_PROCESS)
        case Action.TRAP:
            return int(seccomp.TRAP)
        case Action.LOG:
            return int(seccomp.LOG)


def _export(program: Any) -> bytes:
    """`seccomp_export_bpf` writes to a descriptor; an anonymous file takes it."""
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _libseccomp() -> Any:
    """pyseccomp, imported late: `find_library` costs 25 ms that a `none` run need not pay."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise CannotConfineError(
            f"libseccomp cannot be used here: {error}", hint="apt-get install libseccomp2"
        ) from None
    return pyseccomp
