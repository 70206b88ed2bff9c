"""First write wins: the role, and what each store must do to play it.

put_first(key, value, now) -> None            this write is the first, and is kept
                           -> the value that is kept, unchanged, for 14 days from its own write
"""

from typing import Protocol, final

__all__ = ["LIFETIME_SECONDS", "DedupStore", "StoreUnavailableError"]

LIFETIME_SECONDS = 14 * 24 * 3600


@final
class StoreUnavailableError(Exception):
    """The store did not answer; nothing is known, so nothing may be accepted."""


class DedupStore(Protocol):
    """A store of first writes. Atomic across threads, processes and, where it is a server, machines."""

    @property
    def waits(self) -> bool:
        """Whether a call waits for another machine, so that a server calls it off its event loop."""

    def put_first(self, key: str, value: str, *, now: float) -> str | None:
        """Keep `value` under `key` unless one is kept already, and answer that one; see the module's head."""

    def ready(self) -> None:
        """Return when the store answers; raise `StoreUnavailableError` otherwise."""

    def close(self) -> None:
        """Let go of descriptors; the store is not used afterwards."""
