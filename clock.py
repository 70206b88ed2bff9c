"""The one door to time: what may be waited for, measured or stamped goes through here.

A lint rule bans `time.time` and `time.sleep` everywhere else, because a sleep is a race that has not
been lost yet, and because a decision that reads the clock by itself cannot be tested. Functions that
decide take `now` as a value; only the thin modules that touch the world call this one.
"""

import os
import select
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

__all__ = ["DeadlineExceededError", "monotonic", "read_before", "utc_now", "wait_until"]

T = TypeVar("T")

monotonic = time.monotonic
"""Seconds that never go back; for deadlines and durations only."""


class DeadlineExceededError(TimeoutError):
    """A condition did not come true in time; says which one and how long was waited."""

    def __init__(self, condition: str, seconds: float) -> None:
        super().__init__(f"{condition} did not happen within {seconds:g} s")
        self.condition = condition
        self.seconds = seconds


def utc_now() -> datetime:
    """The wall clock, in UTC; for stamps in records, never for deadlines."""
    return datetime.now(UTC)


def wait_until(condition: Callable[[], T | None], *, what: str, seconds: float, every: float = 0.005) -> T:
    """Poll `condition` until it answers something true, and return that.

    For conditions that no descriptor announces (a line in `/proc`); what a descriptor does announce is
    waited for with poll. Raises `DeadlineExceededError` naming `what`.
    """
    deadline = monotonic() + seconds
    while not (answer := condition()):
        if monotonic() > deadline:
            raise DeadlineExceededError(what, seconds)
        time.sleep(every)
    return answer


def read_before(descriptor: int, size: int, deadline: float, *, what: str) -> bytes:
    """Read what a descriptor has, waiting until `deadline` (monotonic) at most; b"" at its end."""
    left = max(0.0, deadline - monotonic())
    if not select.select([descriptor], [], [], left)[0]:
        raise DeadlineExceededError(what, left)
    return os.read(descriptor, size)
