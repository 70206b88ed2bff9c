"""Who is at the other end of a Unix socket, as the Linux kernel says, never as a request does."""

import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

__all__ = ["Peer", "PeerError"]

SO_PEERPIDFD: Final = getattr(socket, "SO_PEERPIDFD", 77)
START_TIME: Final = 19
"""Index of field 22 of /proc/PID/stat among the fields after the command's name; see proc(5)."""


class PeerError(RuntimeError):
    """The peer cannot be told: not a Unix socket, or the process is gone."""


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """A process, and the container that it lives in. Outside tests only `from_socket` makes one."""

    container: str
    """The inode of its mount namespace: every container, bwrap or runc, has its own."""
    pid: int
    start: int
    """Clock ticks after boot; tells a process from a later one with the same pid."""

    @classmethod
    def from_socket(cls, connection: socket.socket) -> "Peer":
        """Read SO_PEERCRED and /proc; raises `PeerError`.

        The pidfd is taken first and polled last: as long as it has not become readable the process lived
        the whole time, so /proc/PID was its own and not a successor's.
        """
        if connection.family != socket.AF_UNIX:
            raise PeerError("the peer of this socket has no credentials; use a Unix socket")
        size = struct.calcsize("3i")
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if pid <= 0:
            raise PeerError("the peer lives in a process namespace that cannot be seen from here")
        try:
            pidfd = _pidfd(connection, pid)
        except OSError as error:
            raise PeerError(f"process {pid} is gone ({error.strerror})") from None
        try:
            peer = cls(_container(pid), pid, _start(pid))
            if select.select([pidfd], [], [], 0)[0]:
                raise PeerError(f"process {pid} ended while it was looked at")
        except OSError as error:
            raise PeerError(f"process {pid} cannot be looked at ({error.strerror})") from None
        finally:
            os.close(pidfd)
        return peer


def _pidfd(connection: socket.socket, pid: int) -> int:
    """The peer's own pidfd where the kernel gives it (Linux 6.5), else one that its pid opens."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return os.pidfd_open(pid)


def _container(pid: int) -> str:
    return f"mnt:{Path(f'/proc/{pid}/ns/mnt').stat().st_ino}"


def _start(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[START_TIME])
