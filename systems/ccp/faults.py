"""What can go wrong, in the words that a client or a person is told.

* `ConfigError`: the surroundings are wrong (environment, policy, folder, port); `ccp` exits 64.
* `Refusal`: one request is answered by the proxy itself, in the Anthropic error shape.
* `CredentialLeakError`: our own fault; a secret was about to be written to a foreign origin.
"""

from typing import final

import msgspec

__all__ = ["ConfigError", "CredentialLeakError", "Refusal", "error_body"]

_KINDS = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    414: "request_too_large",
    417: "invalid_request_error",
    431: "request_too_large",
    501: "invalid_request_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    505: "invalid_request_error",
}
"""Status -> `error.type`, from the published list of the API's error types."""


class ConfigError(Exception):
    """Bad surroundings: one line that names the object and what to do; exit 64, never a traceback."""


class CredentialLeakError(Exception):
    """A secret met an origin that it is not bound to; the connection writes nothing."""


@final
class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """The request is answered here and goes no further; `close` ends the client's connection after it."""

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close

    @property
    def kind(self) -> str:
        """The Anthropic error type that clients switch on."""
        return _KINDS[self.status]


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """The refusal in the API's own error shape, so that SDKs raise their usual exceptions."""
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": refusal.kind, "message": f"ccp: {refusal.message}"},
            "request_id": request_id,
        }
    )
