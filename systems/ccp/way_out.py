"""The probe of a confined proxy's one way out that no rule on names sees: a TCP socket made outside.

    connect(fd, AF_UNSPEC)   a listener, or a connection, is a blank TCP socket again (tcp(7), connect(2))
    connect(fd, target)      and it still lives in the network namespace that it was made in

Runs inside, on whatever descriptors it was handed: `python -m holdfast.systems.ccp.way_out HOST:PORT MARKER`.
Prints one JSON object: the inet sockets that it found, and those through which MARKER got out. It also tries
to make one of its own, which is what the profile and the empty namespace deny.
"""

import ctypes
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator

__all__ = ["find_way_out"]

SECONDS = 2.0
_INET = (socket.AF_INET, socket.AF_INET6)


def find_way_out(target: tuple[str, int], marker: bytes) -> dict[str, object]:
    """Try every inet socket at hand, and a new one; send `marker` wherever it connects."""
    found = dict(_inet_descriptors())
    escaped = [fd for fd in found if _escape(found[fd], target, marker)]
    made = ""
    try:
        with socket.create_connection(target, timeout=SECONDS) as sock:
            sock.sendall(marker)
    except OSError as error:
        made = error.strerror or type(error).__name__
    for sock in found.values():
        sock.detach()
    return {"inet": sorted(found), "escaped": escaped, "own": made or "connected"}


def _inet_descriptors() -> Iterator[tuple[int, socket.socket]]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                sock = socket.socket(fileno=int(name))
                if sock.family in _INET:
                    yield int(name), sock
                else:
                    sock.detach()
        except OSError:
            continue  # the listing's own descriptor is gone by now


def _escape(sock: socket.socket, target: tuple[str, int], marker: bytes) -> bool:
    blank = ctypes.create_string_buffer(16)  # a sockaddr of family AF_UNSPEC
    ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), blank, len(blank))
    sock.settimeout(SECONDS)
    try:
        sock.connect(target)
        sock.sendall(marker)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    sys.stdout.write(json.dumps(find_way_out((host, int(port)), sys.argv[2].encode())) + "\n")
