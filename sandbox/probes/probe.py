"""The type of a probe, and the words its parts are made of."""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

__all__ = ["DENIALS", "FIVE", "Field", "Level", "Probe", "and_then", "effect", "number", "reach"]

FIVE = ("mount", "unshare", "perf_bpf", "ptrace_keyctl", "tiocsti")

DENIALS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""Errnos by which a sandbox says no to any call. ENOENT, exit 127 and a time-out never are a denial."""

Field = Mapping[str, Any]
"""What the stage planted and the attempt may use: `key`, `neighbour`, `folder`, ..."""

VARIANT = os.uname().machine


@final
class Level(Enum):
    """How far an attempt goes."""

    REACH = "reach"
    """Bogus arguments and no effect: does the kernel code behind the call answer at all?"""
    EFFECT = "effect"
    """The act itself."""


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt at an act."""

    family: str
    act: str
    level: Level
    detail: str
    """Tells the attempts of one act and level apart: the call, the descriptor, the flag."""
    attempt: Callable[[Field], str]
    """Returns evidence when the act succeeded; raises `OSError` with the kernel's errno when it did not."""
    reached_by: frozenset[int] = frozenset()
    """Reach only: errnos that nothing but the code behind the call gives for these arguments."""
    denied_by: frozenset[int] = DENIALS
    """Errnos that are a denial of this act."""
    planted: str | None = None
    """Effect only: the name of the planted secret that the evidence must equal; the agent never knows it."""
    variant: str = VARIANT

    @property
    def id(self) -> str:
        """`mount.classic/effect/mount-tmpfs/x86_64`."""
        return f"{self.act}/{self.level.value}/{self.detail}/{self.variant}"


def reach(
    family: str,
    act: str,
    detail: str,
    call: Callable[[], object],
    *errnos: int,
    denied_by: frozenset[int] = DENIALS,
) -> Probe:
    """A reach probe: `call` has bogus arguments; `errnos` show that the kernel's own code looked at them."""

    def attempt(_: Field) -> str:
        call()
        return "the call returned"

    return Probe(family, act, Level.REACH, detail, attempt, frozenset(errnos), denied_by)


def effect(
    family: str,
    act: str,
    detail: str,
    attempt: Callable[[Field], str],
    *,
    denied_by: frozenset[int] = DENIALS,
    planted: str | None = None,
) -> Probe:
    """An effect probe: `attempt` does the act and returns what shows it."""
    return Probe(family, act, Level.EFFECT, detail, attempt, frozenset(), denied_by, planted)


# System call numbers, from the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h (aarch64). From 424 up they are the same everywhere.
_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "mount": 165,
        "umount2": 166,
        "unshare": 272,
        "clone": 56,
        "setns": 308,
        "perf_event_open": 298,
        "bpf": 321,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "keyctl": 250,
        "add_key": 248,
        "request_key": 249,
        "ioctl": 16,
    },
    "aarch64": {
        "mount": 40,
        "umount2": 39,
        "unshare": 97,
        "clone": 220,
        "setns": 268,
        "perf_event_open": 241,
        "bpf": 280,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "keyctl": 219,
        "add_key": 217,
        "request_key": 218,
        "ioctl": 29,
    },
}
_UNIFIED: Mapping[str, int] = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "mount_setattr": 442,
}


def and_then(done: str, *later: Callable[[], object]) -> str:
    """Evidence of an act that is done; what fails after it is told, and is never a denial of the act."""
    for step in later:
        try:
            step()
        except OSError as error:
            return f"{done}; after it: {error.strerror}"
    return done


def number(name: str) -> int:
    """The number of a call on this machine."""
    return _UNIFIED[name] if name in _UNIFIED else _NUMBERS[VARIANT][name]
