"""What can go wrong, as values that say whose fault it is, which object, and what to do."""

from typing import ClassVar

__all__ = ["AdapterError", "BadInputError", "RefusedError", "StoreError"]


class AdapterError(Exception):
    """Anything the user is told in one line; `status` is the command's exit status."""

    status: ClassVar[int] = 64


class BadInputError(AdapterError):
    """A file, an argument or an event that cannot be used as it is."""


class RefusedError(AdapterError):
    """A licence or a tier says no; nothing was written and nothing was sent."""


class StoreError(AdapterError):
    """The data folder cannot take or give what it should: full, read-only, in use, not ours."""
