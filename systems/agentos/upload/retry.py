"""What an answer means, and how long to wait: pure.

answer -> Accepted       the rows may go
        | TryLater       nothing is known to be wrong with them: wait, send them again under the same keys
        | TooLarge       halve the batch
        | Halt           somebody must act (key, address, licence): stop, keep everything
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, final

from holdfast.systems.agentos.strict_json import parse_line

__all__ = [
    "Accepted",
    "Halt",
    "Policy",
    "Rejected",
    "TooLarge",
    "TryLater",
    "Verdict",
    "classify_answer",
    "delay",
]


@final
@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that the CCC read and will never take."""

    key: str
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Accepted:
    """Every row of the batch is accounted for: new there, there before, or rejected one by one."""

    new: int
    duplicates: int
    rejected: tuple[Rejected, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class TryLater:
    """Passing trouble."""

    reason: str
    after: float | None = None
    """Seconds that the server asked for."""


@final
@dataclass(frozen=True, slots=True)
class TooLarge:
    """The batch as a whole is too much."""

    reason: str


@final
@dataclass(frozen=True, slots=True)
class Halt:
    """Trying again as things are cannot help."""

    reason: str


Verdict = Accepted | TryLater | TooLarge | Halt


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """How patient one drain is."""

    batch: int = 500
    tries: int = 6
    """Of one batch, before the drain ends and leaves the rest for the next."""
    base: float = 0.2
    cap: float = 30.0
    """The most seconds that one wait lasts; a server that asks for more ends the drain."""


def delay(tried: int, policy: Policy, dice: random.Random) -> float:
    """Seconds to wait after the `tried`-th failure: exponential, capped, with full jitter
    (uniform from 0), so that clients that failed together do not come back together."""
    return dice.uniform(0.0, min(policy.cap, policy.base * 2.0 ** min(tried - 1, 30)))


def retry_after(value: str | None, now: datetime) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3) in seconds: a count or an HTTP date; None when it is neither."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:12])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def classify_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, keys: tuple[str, ...], now: datetime
) -> Verdict:
    """What the answer to a batch with these row keys means."""
    after = retry_after(headers.get("retry-after"), now)
    if status == 200:
        return _classify_ok(headers, body, keys)
    if status == 413:
        return TooLarge("the CCC finds the batch too large (413)")
    if status in {408, 425, 429} or status >= 500:
        return TryLater(f"the CCC answered {status}", after)
    if status in {401, 403}:
        return Halt(f"the CCC refused the key ({status}); check the key file")
    if 300 <= status < 400:
        return Halt(
            f"the CCC redirects ({status}), and the key is not taken elsewhere; set the address itself"
        )
    return Halt(f"the CCC answered {status}; check the address and the versions of both sides")


def _classify_ok(headers: Mapping[str, str], body: bytes, keys: tuple[str, ...]) -> Verdict:
    if "json" not in headers.get("content-type", ""):
        kind = headers.get("content-type", "no type")[:60]
        return Halt(
            f"what answers there speaks `{kind}`, not JSON; is the address a CCC, and no proxy's page?"
        )
    answer = parse_line(body)
    counts = _counts(answer, keys) if answer else None
    if counts is None:
        return TryLater("the CCC's answer was cut short or has another shape")
    if counts.new + counts.duplicates + len(counts.rejected) != len(keys):
        return TryLater(
            f"the CCC accounts for {counts.new + counts.duplicates + len(counts.rejected)} of {len(keys)} rows"
        )
    return counts


def _counts(answer: dict[str, Any], keys: tuple[str, ...]) -> Accepted | None:
    new, duplicates, rejected = (
        answer.get("accepted"),
        answer.get("duplicates"),
        answer.get("rejected", []),
    )
    if type(new) is not int or type(duplicates) is not int or min(new, duplicates) < 0:
        return None
    if not isinstance(rejected, list):
        return None
    known, found = set(keys), []
    for row in rejected:
        # A key that was not sent, or comes twice, would let a wrong sum come out right.
        if not isinstance(row, dict) or row.get("key") not in known:
            return None
        known.discard(row["key"])
        found.append(Rejected(row["key"], str(row.get("reason", "no reason given"))[:300]))
    return Accepted(new, duplicates, tuple(found))
