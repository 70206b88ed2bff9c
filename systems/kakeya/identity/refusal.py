"""Why a request has no identity; the value is what clients and metrics read."""

from enum import Enum
from typing import final

__all__ = ["IdentityRefusedError", "Refusal"]


@final
class Refusal(Enum):
    """One word per reason; none of them says what would have been right."""

    NO_GATEWAY = "no_gateway"
    LOOKALIKE_HEADER = "lookalike_header"
    DUPLICATE_HEADER = "duplicate_header"
    MALFORMED_HEADER = "malformed_header"
    BAD_STAMP = "bad_stamp"
    STALE_STAMP = "stale_stamp"
    REPLAYED_STAMP = "replayed_stamp"
    WINDOW_FULL = "replay_window_full"
    NO_PAYLOAD = "no_payload"
    MALFORMED_PAYLOAD = "malformed_payload"
    BAD_ISSUER = "bad_issuer"
    BAD_AUDIENCE = "bad_audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NO_TENANT = "no_tenant"
    TENANT_MISMATCH = "tenant_mismatch"
    MALFORMED_TOKEN = "malformed_token"  # noqa: S105 - a reason, not a secret
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    ALGORITHM_REFUSED = "algorithm_refused"


@final
class IdentityRefusedError(Exception):
    """The request is refused; `where` names the header or claim at fault, never its value."""

    def __init__(self, reason: Refusal, where: str) -> None:
        super().__init__(f"identity refused: {reason.value} at `{where}`")
        self.reason = reason
        self.where = where
