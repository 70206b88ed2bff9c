"""Where clients come in."""

import contextlib
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.origins import is_loopback

__all__ = ["Listen", "bind_unix"]


@final
@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients come in: a TCP address, or a Unix socket when `uds` is given."""

    host: str = "127.0.0.1"
    port: int = 8082
    uds: str = ""
    allow_remote: bool = False
    shared_port: bool = False
    """Bind with SO_REUSEPORT: several workers listen on one port."""

    bound: socket.socket | None = None
    """A Unix socket that is bound already, by the parent of several workers."""
    quiet: bool = False
    """Do not announce the address: another worker does."""

    def check(self) -> None:
        """Raises `ConfigError` for an address that others could reach, unless that was asked for."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"`--port {self.port}` is not a port; ports are 0 to 65535")
        if not self.uds and not self.allow_remote and not is_loopback(self.host):
            raise ConfigError(
                f"`--host {self.host}` lets other machines in, and whoever gets in spends your keys; "
                "give --allow-remote if that is meant"
            )


def bind_unix(path: Path) -> socket.socket:
    """A socket left by an earlier run is in the way; anything else with that name is not ours to remove."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"`{path}` is there and is no socket; give another --uds")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock
