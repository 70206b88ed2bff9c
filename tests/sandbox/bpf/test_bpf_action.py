"""How answers of several filters become one; the kernel's own order, ties and unknown values included."""

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.action import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRACE,
    TRAP,
    USER_NOTIF,
    Action,
    Grip,
    classify_action,
    combine,
    describe,
    effect,
    grip,
)
from holdfast.sandbox.bpf.cage import Answer, Cage, Fate
from holdfast.sandbox.bpf.call import Call

from .filters_of_tests import asks_the_kernel, program

FROM_TIGHT_TO_LOOSE = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW]


@pytest.mark.parametrize("index", range(len(FROM_TIGHT_TO_LOOSE) - 1))
def test_the_tighter_action_wins_in_either_order(index: int) -> None:
    tight, loose = FROM_TIGHT_TO_LOOSE[index : index + 2]
    assert combine([tight, loose]) == combine([loose, tight]) == tight


def test_the_newest_filter_gives_its_data_on_a_tie() -> None:
    assert combine([ERRNO | 13, ERRNO | 1]) == ERRNO | 13


def test_no_filter_allows() -> None:
    assert combine([]) == ALLOW


def test_an_unknown_action_kills_but_does_not_outrank_a_known_smaller_one() -> None:
    unknown = 0x7FFD_0000
    assert classify_action(unknown) is Action.KILL_PROCESS
    assert grip(combine([unknown, ALLOW])) is Grip.DENIED
    assert grip(combine([unknown, LOG])) is Grip.EXECUTES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ALLOW, Grip.EXECUTES),
        (ALLOW | 7, Grip.EXECUTES),
        (LOG, Grip.EXECUTES),
        (TRACE | 1, Grip.HANDED_OVER),
        (USER_NOTIF, Grip.HANDED_OVER),
        (ERRNO, Grip.DENIED),
        (TRAP, Grip.DENIED),
        (KILL_THREAD, Grip.DENIED),
        (KILL_PROCESS, Grip.DENIED),
    ],
)
def test_who_has_the_call_in_hand(value: int, expected: Grip) -> None:
    assert grip(value) is expected


def test_values_that_nobody_can_tell_apart_have_one_effect() -> None:
    assert effect(ALLOW | 5) == effect(ALLOW)
    assert effect(ERRNO | 4095) == effect(ERRNO | 0xFFFF)
    assert effect(ERRNO | 1) != effect(ERRNO | 2)
    assert effect(0x1234_0000) == effect(KILL_PROCESS | 3)


def test_words_for_people() -> None:
    assert describe(ERRNO | 38) == "ERRNO(38)"
    assert describe(ALLOW) == "ALLOW"
    assert describe(0x0001_0000) == "KILL_PROCESS (unknown action 0x00010000)"


STACKS: dict[str, tuple[tuple[int, ...], Answer]] = {
    "newest errno stands": ((ERRNO | 1, ERRNO | 13), Answer(Fate.FAILED, 13)),
    "older trap wins": ((TRAP, ERRNO | 13), Answer(Fate.TRAPPED)),
    "newer kill wins": ((TRAP, KILL_PROCESS), Answer(Fate.KILLED)),
    "unknown kills": ((0x7FD0_0000, ALLOW), Answer(Fate.KILLED)),
    "a smaller known action beats unknown": ((0x7FD0_0000, USER_NOTIF), Answer(Fate.FAILED, 38)),
    "errno 0": ((ERRNO,), Answer(Fate.FAILED, 0)),
    "errno is capped": ((ERRNO | 0xFFFF,), Answer(Fate.FAILED, 4095)),
    "no supervisor listens": ((USER_NOTIF, ALLOW), Answer(Fate.FAILED, 38)),
}


@asks_the_kernel
@pytest.mark.parametrize(("answers", "fate"), STACKS.values(), ids=STACKS.keys())
def test_the_kernel_combines_as_it_is_written_here(answers: tuple[int, ...], fate: Answer) -> None:
    """Each filter answers to getpid alone, so that the next can be loaded by anyone."""
    stack = [program("ld [k] 0", "jeq #k 39 0 1", f"ret #k {value}", f"ret #k {ALLOW}") for value in answers]
    with Cage(stack) as cage:
        assert cage.ask(Abi.X86_64, Call(Abi.X86_64.arch, 39)) == fate
