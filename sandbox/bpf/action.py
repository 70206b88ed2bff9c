"""What a filter answers: the 32-bit return value, and how the kernel combines and carries it out.

The high half is the action, the low half its data. Of several filters the smallest action *as a signed
number* wins, newest filter first, so that the newest one's data stands on a tie
(`seccomp_run_filters`, kernel/seccomp.c). An action that the kernel does not know kills the process.
"""

from enum import Enum
from typing import final

__all__ = ["ALLOW", "Action", "Grip", "classify_action", "combine", "describe", "effect", "grip"]

KILL_PROCESS = 0x8000_0000
KILL_THREAD = 0x0000_0000
TRAP = 0x0003_0000
ERRNO = 0x0005_0000
USER_NOTIF = 0x7FC0_0000
TRACE = 0x7FF0_0000
LOG = 0x7FFC_0000
ALLOW = 0x7FFF_0000
ACTION_MASK = 0xFFFF_0000
DATA_MASK = 0x0000_FFFF
MAX_ERRNO = 4095


@final
class Action(Enum):
    """What the kernel does with the call."""

    KILL_PROCESS = KILL_PROCESS
    KILL_THREAD = KILL_THREAD
    TRAP = TRAP
    ERRNO = ERRNO
    USER_NOTIF = USER_NOTIF
    TRACE = TRACE
    LOG = LOG
    ALLOW = ALLOW


@final
class Grip(Enum):
    """Who has the call in hand once the filters have answered; from the tightest to the loosest."""

    DENIED = 0
    """The kernel refuses it or kills the caller: it does not execute."""
    HANDED_OVER = 1
    """A tracer or a supervisor decides (`TRACE`, `USER_NOTIF`): the filter alone does not say."""
    EXECUTES = 2
    """`ALLOW` or `LOG`."""


GRIPS = {
    Action.ALLOW: Grip.EXECUTES,
    Action.LOG: Grip.EXECUTES,
    Action.TRACE: Grip.HANDED_OVER,
    Action.USER_NOTIF: Grip.HANDED_OVER,
}


def classify_action(value: int) -> Action:
    """The action of a return value; an unknown one is what the kernel makes of it, `KILL_PROCESS`."""
    try:
        return Action(value & ACTION_MASK)
    except ValueError:
        return Action.KILL_PROCESS


def grip(value: int) -> Grip:
    """Who decides after this return value."""
    return GRIPS.get(classify_action(value), Grip.DENIED)


def effect(value: int) -> int:
    """The return value with what nobody can observe removed: two values with one effect are equal here."""
    action = classify_action(value)
    number: int = action.value
    match action:
        case Action.ERRNO:
            return ERRNO | min(value & DATA_MASK, MAX_ERRNO)
        case Action.TRAP | Action.TRACE:
            return number | value & DATA_MASK
        case _:
            return number


def combine(newest_first: list[int]) -> int:
    """What the kernel acts on when these filters answered; `ALLOW` when there is none."""
    kept = ALLOW
    for value in newest_first:
        if _signed(value & ACTION_MASK) < _signed(kept & ACTION_MASK):
            kept = value
    return kept


def describe(value: int) -> str:
    """A return value as a person reads it (`ERRNO(1)`)."""
    action = classify_action(value)
    if value & ACTION_MASK != action.value:
        return f"KILL_PROCESS (unknown action 0x{value:08x})"
    return (
        f"{action.name}({value & DATA_MASK})"
        if action in {Action.ERRNO, Action.TRAP, Action.TRACE}
        else action.name
    )


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word
