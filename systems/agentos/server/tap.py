"""A relay that keeps every byte it passes: the wire itself, not what either end says of it."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, final

__all__ = ["Tap"]


@final
class Tap:
    """Listens on a Unix socket and passes every connection on to another, in both directions.

    A context manager. `sent` and `connections` may be read at any time; both only grow.
    """

    def __init__(self, listen: Path, target: Path) -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(listen))
        self._listener.listen(128)
        self._path = listen
        self._lock = threading.Lock()
        self._sent = bytearray()
        self._connections = 0
        self._sockets: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        """What an adapter is given."""
        return f"unix:{self._path}"

    @property
    def sent(self) -> bytes:
        """All that clients have sent so far, in the order in which it came."""
        with self._lock:
            return bytes(self._sent)

    @property
    def connections(self) -> int:
        """How many were made; a mere connection is traffic too."""
        with self._lock:
            return self._connections

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener)
        self._thread.join()
        with self._lock:
            still = tuple(self._sockets)
        for one in still:
            _end(one)
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self._connections += 1
                self._relay(client)
        self._listener.close()

    def _relay(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.connect(str(self._target))
        except OSError:
            client.close()
            server.close()
            return
        with self._lock:
            self._sockets |= {client, server}
        threading.Thread(target=self._pump_up, args=(client, server), daemon=True).start()
        threading.Thread(target=self._pump_down, args=(server, client), daemon=True).start()

    def _pump_up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while block := client.recv(1 << 16):
                with self._lock:
                    self._sent += block
                server.sendall(block)
        _end(server)

    def _pump_down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while block := server.recv(1 << 16):
                client.sendall(block)
        _end(client)
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
