"""The anti-replay window of RFC 6479 over nonces: any order within the window, no nonce twice.

A ring of words, one more than the window needs; the highest nonce moves the ring forward and clears the
words that it passes, so nothing is ever shifted. A nonce left of the window counts as seen.
"""

from typing import Final, final

__all__ = ["WINDOW", "ReplayWindow"]

WORD: Final = 64
WORDS: Final = 32
WINDOW: Final = (WORDS - 1) * WORD
"""How far behind the highest nonce a first use may come."""


@final
class ReplayWindow:
    """Which nonces of one peer were used; fixed memory."""

    __slots__ = ("_highest", "_ring")

    def __init__(self) -> None:
        self._highest = 0
        self._ring = [0] * WORDS

    def seen(self, nonce: int) -> bool:
        """Whether `nonce` was used, or is too old to tell; nonces count from 1."""
        if nonce < 1 or nonce + WINDOW <= self._highest:
            return True
        if nonce > self._highest:
            return False
        return bool(self._ring[nonce // WORD % WORDS] >> nonce % WORD & 1)

    def use(self, nonce: int) -> bool:
        """Mark `nonce`; False, and nothing changes, when it was seen."""
        if self.seen(nonce):
            return False
        word = nonce // WORD
        if nonce > self._highest:
            passed = word - self._highest // WORD
            for step in range(min(passed, WORDS)):
                self._ring[(word - step) % WORDS] = 0
            self._highest = nonce
        self._ring[word % WORDS] |= 1 << nonce % WORD
        return True
