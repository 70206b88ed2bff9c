"""Origins, and secrets that are bound to one of them.

A credential is never a plain string here: it is a `Secret` with the only origin that may see it, and
`Secret.reveal` refuses every other. So a redirect, a wrong base URL or a mixed-up lane cannot carry it
away: there is no code path that holds the text and lacks the check.
"""

import re
from ipaddress import ip_address
from typing import final
from urllib.parse import unquote, urlsplit

import msgspec

from holdfast.systems.ccp.faults import ConfigError, CredentialLeakError

__all__ = ["BaseUrl", "Origin", "Secret", "parse_base_url"]

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9])?|[0-9a-f:.]+")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@final
class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port; for a Unix socket the host is its path and the port 0."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host[:port]`, as a Host header wants it."""
        if self.scheme == "http+unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def hostport(self) -> str:
        """`host:port`, always with the port, as CONNECT wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether bytes to it stay on this machine."""
        return self.scheme == "http+unix" or is_loopback(self.host)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host if self.scheme == 'http+unix' else self.authority}"


@final
class BaseUrl(msgspec.Struct, frozen=True):
    """An upstream's address: its origin, and the path that goes before every request's own."""

    origin: Origin
    path: bytes = b""

    def __str__(self) -> str:
        return f"{self.origin}{self.path.decode()}"


@final
class Secret:
    """A credential and the one origin that may see it; its text shows in no repr, message or log."""

    __slots__ = ("_text", "origin")

    def __init__(self, text: str, origin: Origin, *, what: str) -> None:
        if not _TOKEN.fullmatch(text):
            raise ConfigError(f"`{what}` has characters that no header may carry; set it to the bare key")
        self._text = text.encode()
        self.origin = origin

    def reveal(self, origin: Origin) -> bytes:
        """The text, for a head that goes to `origin`; raises `CredentialLeakError` for any other."""
        if origin != self.origin:
            raise CredentialLeakError(f"the key of {self.origin} was asked for by {origin}")
        return self._text

    def within(self, data: bytes) -> bool:
        """Whether `data` carries the text; the connection writer asks before it writes."""
        return self._text in data

    def __repr__(self) -> str:
        return f"Secret(origin={self.origin})"


def is_loopback(host: str) -> bool:
    """`localhost` or an address of the loopback range; names are never looked up for this."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_base_url(text: str, *, what: str) -> BaseUrl:
    """`https://host[:port][/path]`, `http://` on loopback, or `http+unix://%2Fpath%2Fto.sock[/path]`.

    Raises `ConfigError` naming `what`. Credentials, queries and fragments in the URL are refused, as is
    plain HTTP to anything but this machine: a key would cross the network in clear.
    """

    def refuse(why: str) -> ConfigError:
        return ConfigError(f"`{what}` {why}; give `https://host[:port][/path]`")

    if not _TOKEN.fullmatch(text.strip()):
        raise refuse("has blanks or control characters")
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise refuse("is not a URL") from error
    if parts.username or parts.password or "@" in parts.netloc:
        raise refuse("carries a credential in the URL")
    if parts.query or parts.fragment:
        raise refuse("has a query or a fragment")
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or "/../" in f"{path}/":
        raise refuse("has a path with characters that a request line may not carry")
    if parts.scheme == "http+unix":
        if not (socket := unquote(parts.netloc)).startswith("/"):
            raise ConfigError(f"`{what}` needs an absolute socket path: `http+unix://%2Frun%2Fccp.sock`")
        return BaseUrl(Origin("http+unix", socket, 0), path.encode())
    if parts.scheme not in _PORTS:
        raise refuse(f"has the scheme `{parts.scheme}`")
    host = (parts.hostname or "").rstrip(".")
    if not _HOST.fullmatch(host):
        raise refuse("has no valid host")
    origin = Origin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)
    if origin.scheme == "http" and not origin.loopback:
        raise ConfigError(f"`{what}` is plain http to `{host}`; use https, or a loopback address")
    return BaseUrl(origin, path.encode())
