"""How a capability token stands with regard to one request at one instant."""

from dataclasses import dataclass
from enum import Enum
from typing import final

from holdfast.systems.kernel.request import Request

__all__ = ["Standing", "TokenCheck"]


@final
class Standing(Enum):
    """The first check that failed, in the order in which they are made; or `VALID`."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    REPLAYED = "replayed"
    REVOKED = "revoked"
    EXHAUSTED = "exhausted"
    OTHER_CONTAINER = "other_container"
    OTHER_PEER = "other_peer"
    OTHER_SYSCALL = "other_syscall"
    OTHER_PATH = "other_path"
    VALID = "valid"


@final
@dataclass(frozen=True, slots=True)
class TokenCheck:
    """The result of checking a token; good for that request and that instant alone."""

    standing: Standing
    request: Request
    now: int
    token_id: bytes | None = None

    def refuse_misuse(self, request: Request, now: int) -> None:
        """Raises `ValueError` when this check was made for something else: our own fault, never a caller's."""
        if request is not self.request or now != self.now:
            raise ValueError("a token check serves only the request and the instant that it was made for")
