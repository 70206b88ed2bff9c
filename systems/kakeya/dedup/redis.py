"""Redis, by `SET key value NX EX seconds`: one command, so nothing can come in between.

Spoken directly (RESP2, redis.io/docs/reference/protocol-spec): two commands and four kinds of reply do not
weigh up a client library. The key lives by the server's clock, not by `now`.
"""

import socket
import threading
from pathlib import Path
from typing import final

from holdfast.systems.kakeya.dedup.store import LIFETIME_SECONDS, StoreUnavailableError

__all__ = ["RedisStore"]

_REPLY_LIMIT = 1 << 20


@final
class RedisStore:
    """One connection to a server's Unix socket or loopback port, made anew after it broke."""

    waits = True

    def __init__(
        self, address: Path | tuple[str, int], *, lifetime: float = LIFETIME_SECONDS, seconds: float = 2.0
    ) -> None:
        self._address, self._lifetime, self._seconds = address, lifetime, seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pending = b""

    def put_first(self, key: str, value: str, *, now: float) -> str | None:
        milliseconds = str(max(1, int(self._lifetime * 1000)))
        for _ in range(2):
            if self._ask("SET", f"kakeya:{key}", value, "NX", "PX", milliseconds) == b"OK":
                return None
            earlier = self._ask("GET", f"kakeya:{key}")
            if earlier is not None:  # else it expired between the two commands: ours may be the first again
                return earlier.decode()
        raise StoreUnavailableError("Redis neither keeps the key nor takes it")

    def ready(self) -> None:
        if self._ask("PING") != b"PONG":
            raise StoreUnavailableError("Redis does not answer PING")

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _ask(self, *words: str) -> bytes | None:
        encoded = [word.encode() for word in words]
        request = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)
        with self._lock:
            try:
                connection = self._connected()
                connection.sendall(request)
                return self._reply(connection)
            except (OSError, ValueError) as error:
                self._drop()
                raise StoreUnavailableError(f"Redis does not answer: {error}") from error

    def _reply(self, connection: socket.socket) -> bytes | None:
        line = self._line(connection)
        match line[:1]:
            case b"+" | b":":
                return line[1:]
            case b"$" if line == b"$-1":
                return None
            case b"$":
                return self._bytes(connection, int(line[1:]))
            case _:
                raise ValueError(f"it said {line[:80]!r}")

    def _line(self, connection: socket.socket) -> bytes:
        while b"\r\n" not in self._pending:
            self._receive(connection)
        line, self._pending = self._pending.split(b"\r\n", 1)
        return line

    def _bytes(self, connection: socket.socket, count: int) -> bytes:
        if count > _REPLY_LIMIT:
            raise ValueError(f"a reply of {count} bytes is none of ours")
        while len(self._pending) < count + 2:
            self._receive(connection)
        value, self._pending = self._pending[:count], self._pending[count + 2 :]
        return value

    def _receive(self, connection: socket.socket) -> None:
        more = connection.recv(65536)
        if not more:
            raise ValueError("it closed the connection")
        self._pending += more

    def _connected(self) -> socket.socket:
        if self._socket is None:
            if isinstance(self._address, Path):
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(self._seconds)
                self._socket.connect(str(self._address))
            else:
                self._socket = socket.create_connection(self._address, self._seconds)
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._pending = None, b""
