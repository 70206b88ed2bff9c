"""Where the CCC is.

https://ccc.example.com[:port]     anywhere, TLS with the system's or a given CA
http://127.0.0.1:PORT              without TLS to this machine only
unix:/path/to/ccc.sock             a broker's socket: the only way out of an empty network namespace
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from holdfast.systems.agentos.errors import BadInputError

__all__ = ["Endpoint"]


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """A CCC's address, fit to be given a bearer key."""

    base_url: str
    socket: Path | None = None
    """The Unix socket to go through, if it is one."""

    @classmethod
    def from_user(cls, text: str) -> "Endpoint":
        """Read an address; see the grammar above."""
        if text.startswith("unix:"):
            path = Path(text.removeprefix("unix:"))
            if not path.is_absolute():
                raise BadInputError(f"the CCC address `{text[:200]}` needs an absolute path after `unix:`")
            return cls("http://ccc.invalid", path)
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as problem:
            raise BadInputError(f"the CCC address `{text[:200]}` cannot be read: {problem}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise BadInputError(
                f"the CCC address `{text[:200]}` is neither https://HOST, http://127.0.0.1:PORT nor unix:/PATH"
            )
        if parts.username or parts.password or parts.query or parts.fragment or parts.path not in {"", "/"}:
            raise BadInputError("the CCC address may hold a host and a port only; keys go into the key file")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise BadInputError(
                f"the CCC at `{parts.hostname}` would get the key without TLS; use https, http is for this machine only"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{parts.scheme}://{host}" + (f":{port}" if port else ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # `localhost` is whatever a resolver makes of it, so it is not taken on trust.
        return False
