"""Who gets a new control first: the same answer for the same key, in every process, for ever.

A key's bucket does not depend on the percentage, so that whoever was in at 10 % stays in at 50 %; and it
depends on the control, so that the same unlucky few are not first for everything.
"""

import hashlib

__all__ = ["STEPS", "bucket", "in_canary"]

STEPS = (10, 50, 100)
"""The shares, in percent, that a control is let out in."""


def bucket(control: str, tenant: str, key: str) -> int:
    """0..9999, evenly, from a hash that no other process seeds."""
    digest = hashlib.sha256(f"{control}\x1f{tenant}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10_000


def in_canary(percent: float, *, control: str, tenant: str, key: str) -> bool:
    """Whether this request is among the first `percent` of a hundred."""
    return bucket(control, tenant, key) < percent * 100
