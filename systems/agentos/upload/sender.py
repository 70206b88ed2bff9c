"""Empty the outbox through a channel, as far as the CCC lets us.

    head of the queue -> one request -> verdict -> settle | wait and repeat | halve | stop

One row is always in exactly one of: pending, sent, set aside. A stop for whatever reason leaves it pending.
"""

import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never, final

from holdfast.clock import utc_now
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.outbox import Kind, Outbox, Row, SetAside
from holdfast.systems.agentos.upload.retry import Accepted, Halt, Policy, TooLarge, TryLater, delay

__all__ = ["Drained", "drain"]


@final
@dataclass(slots=True)
class Drained:
    """What one drain did."""

    sent: int = 0
    duplicates: int = 0
    set_aside: int = 0
    retries: int = 0
    stopped: str | None = None
    """Why it ended with rows still pending; None when none is."""


def drain(
    outbox: Outbox,
    channel: Channel,
    log: Path,
    *,
    policy: Policy | None = None,
    dice: random.Random | None = None,
    stop: threading.Event | None = None,
) -> Drained:
    """Take in the log and send what this channel may send, until nothing is left or nothing helps.

    `stop` ends it between two requests; waits are cut short by it.
    """
    run = _Run(outbox, channel, policy or Policy(), dice or random.SystemRandom(), stop or threading.Event())
    outbox.catch_up(log, now=utc_now())
    done = run.drain()
    outbox.note(done.stopped)
    return done


@final
@dataclass(slots=True)
class _Run:
    outbox: Outbox
    channel: Channel
    policy: Policy
    dice: random.Random
    stop: threading.Event
    tried: int = 0

    def drain(self) -> Drained:
        done, size = Drained(), self.policy.batch
        while rows := self.outbox.head(self.channel.kinds, size):
            if self.stop.is_set():
                done.stopped = "it was asked to stop"
                return done
            batch = rows[:1] if rows[0].kind is Kind.METRICS else rows
            match self.channel.send(batch):
                case Accepted() as answer:
                    self._settle(batch, answer, done)
                    self.tried, size = 0, self.policy.batch
                case TooLarge(reason) if len(batch) == 1:
                    self._settle(batch, Accepted(0, 0), done, refused=reason)
                case TooLarge():
                    size = len(batch) // 2
                case Halt(reason):
                    done.stopped = reason
                    return done
                case TryLater() as later:
                    done.retries += 1
                    if not self._wait(later):
                        done.stopped = later.reason
                        return done
                case never:
                    assert_never(never)
        return done

    def _settle(
        self, rows: tuple[Row, ...], answer: Accepted, done: Drained, *, refused: str | None = None
    ) -> None:
        aside = [SetAside(one.key, one.reason) for one in answer.rejected]
        if refused is not None:
            aside = [SetAside(row.key, refused) for row in rows]
        self.outbox.settle(rows, duplicates=answer.duplicates, set_aside=aside)
        done.sent += len(rows) - len(aside)
        done.duplicates += answer.duplicates
        done.set_aside += len(aside)

    def _wait(self, later: TryLater) -> bool:
        """Wait before the next try; False when there shall be none."""
        self.tried += 1
        if self.tried >= self.policy.tries or (later.after or 0.0) > self.policy.cap:
            return False
        seconds = delay(self.tried, self.policy, self.dice)
        return not self.stop.wait(max(seconds, later.after or 0.0))
