"""The gateway's stamp where the connection itself proves nothing: HMAC over time, nonce and payload.

    signature = hex(HMAC-SHA-256(key, "kakeya-stamp/1" LF time LF nonce LF payload))

A stamp is good once, and only while its time is within the window. What is remembered is bounded: past
`capacity` nonces the window is full and refuses, since forgetting one would let it be played again.
"""

import hashlib
import hmac
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from holdfast.systems.kakeya.identity.refusal import IdentityRefusedError, Refusal

__all__ = ["ReplayWindow", "Stamp", "check_stamp", "sign_stamp"]

_NONCE = re.compile("[A-Za-z0-9_-]{16,64}")
_TIME = re.compile("[0-9]{1,11}")
_SIGNATURE = re.compile("[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True)
class Stamp:
    """The four header values, as they came."""

    time: str
    nonce: str
    payload: str
    signature: str


@final
@dataclass(slots=True)
class ReplayWindow:
    """The nonces of stamps accepted in the last `seconds`; one instance a process.

    `opened` is the process's start: older stamps may have been used with the process before, so they are stale.
    """

    seconds: float
    opened: float
    capacity: int = 200_000
    _seen: set[str] = field(default_factory=set)
    _expiries: deque[tuple[float, str]] = field(default_factory=deque)

    def admit(self, nonce: str, stamped: float, now: float) -> None:
        """Remember `nonce`, or refuse it; `stamped` is the time that the gateway wrote."""
        if abs(now - stamped) > self.seconds or stamped < int(self.opened):
            raise IdentityRefusedError(Refusal.STALE_STAMP, "x-gateway-time")
        while self._expiries and self._expiries[0][0] < now:
            self._seen.discard(self._expiries.popleft()[1])
        if nonce in self._seen:
            raise IdentityRefusedError(Refusal.REPLAYED_STAMP, "x-gateway-nonce")
        if len(self._seen) >= self.capacity:
            raise IdentityRefusedError(Refusal.WINDOW_FULL, "x-gateway-nonce")
        self._seen.add(nonce)
        # A stamp may be ahead of our clock by one window, and stays fresh one window past its own time.
        self._expiries.append((now + 2 * self.seconds, nonce))


def sign_stamp(key: bytes, time: str, nonce: str, payload: str) -> str:
    """What the gateway writes into `x-gateway-signature`."""
    message = f"kakeya-stamp/1\n{time}\n{nonce}\n{payload}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def check_stamp(stamp: Stamp, keys: Iterable[bytes], window: ReplayWindow, *, now: float) -> None:
    """Form, then signature, then freshness: only a genuine stamp may take room in the window."""
    for name, value, form in (
        ("x-gateway-time", stamp.time, _TIME),
        ("x-gateway-nonce", stamp.nonce, _NONCE),
        ("x-gateway-signature", stamp.signature, _SIGNATURE),
    ):
        if not form.fullmatch(value):
            raise IdentityRefusedError(Refusal.BAD_STAMP, name)
    good = [
        hmac.compare_digest(sign_stamp(key, stamp.time, stamp.nonce, stamp.payload), stamp.signature)
        for key in keys
    ]
    if not any(good):
        raise IdentityRefusedError(Refusal.BAD_STAMP, "x-gateway-signature")
    window.admit(stamp.nonce, float(stamp.time), now)
