"""What a verified licence lets its holder do."""

from dataclasses import dataclass
from datetime import datetime
from typing import final

__all__ = ["Grant", "seal_grant"]

_SEAL = object()


@final
@dataclass(frozen=True, slots=True)
class Grant:
    """A licence that was verified at a moment; made by `licensing.client` only, through `seal_grant`."""

    license_id: str
    plan: str
    entitlements: frozenset[str]
    expires: datetime
    key_id: str
    _seal: object = None

    def __post_init__(self) -> None:
        if self._seal is not _SEAL:
            raise TypeError("a Grant comes from LicenceClient.check, which verifies; it is not made by hand")


def seal_grant(
    *, license_id: str, plan: str, entitlements: frozenset[str], expires: datetime, key_id: str
) -> Grant:
    """For the client that has just verified the pack; the tests' contract names its one caller."""
    return Grant(license_id, plan, entitlements, expires, key_id, _SEAL)
