"""The usage log: one JSON line a request, no bodies, no secrets (schema `docs/schemas/ccp-usage-1.json`).

The line is written by one `write` before the last byte of the answer leaves, so a request whose last byte
a client has got is in the log, once, whatever happens to this process afterwards.
"""

import os
from pathlib import Path
from typing import final

import msgspec

from holdfast.systems.ccp.faults import ConfigError

__all__ = ["UsageLine", "UsageLog"]


class UsageLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One request. Fields are added, never renamed."""

    schema: str = "ccp.usage/1"
    ts: str
    """When the request was whole, RFC 3339, UTC."""
    request_id: str
    method: str
    path: str
    model: str | None
    lane: str | None
    status: int | None
    """What the client got; None when it left before any answer."""
    outcome: str
    """`relayed`, `refused`, `upstream_failed`, `aborted` (mid-stream) or `client_left`."""
    error: str | None
    stream: bool
    request_bytes: int
    response_bytes: int
    sha256_upstream: str | None
    """Of the answer's body as the upstream sent it, without transfer coding."""
    sha256_downstream: str | None
    """Of the answer's body as it was handed to the client."""
    first_byte_ms: float | None
    duration_ms: float
    retried: bool
    policy: str
    """The policy's digest."""


@final
class UsageLog:
    """`usage.jsonl` in a folder, appended to by whole lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "usage.jsonl"
        self.lost = 0
        """Lines that could not be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the log folder `{folder}` cannot be written ({error.strerror}); give another by --log-dir"
            ) from error
        self._encoder = msgspec.json.Encoder()

    def write(self, line: UsageLine) -> None:
        """Append one line; what cannot be written is counted, and the request goes on."""
        data = self._encoder.encode(line) + b"\n"
        try:
            if os.write(self._fd, data) != len(data):
                self.lost += 1
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)
