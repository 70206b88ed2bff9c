"""A stage to watch the proxy on: the real command, two recording upstreams on loopback, a plain client.

Used by `ccp verify`, `ccp doctor --contract` and the tests. What a witness records are the very bytes that
came off its socket; rules are judged on those, and not on what the proxy says that it did.
"""

import contextlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from holdfast.systems.ccp.faults import Refusal
from holdfast.systems.ccp.http1 import (
    Limits,
    Request,
    RequestReader,
    ResponseHead,
    ResponseReader,
)

__all__ = [
    "Answer",
    "Canaries",
    "Captured",
    "Proxy",
    "Script",
    "Witness",
    "ask",
    "json_answer",
    "send_request",
    "stage",
]

SECONDS = 20.0
"""No step of a stage takes longer, or the stage is broken and says so."""


@final
@dataclass(frozen=True, slots=True)
class Captured:
    """One request as a witness got it."""

    raw: bytes
    request: Request
    connection: int
    """Which of the witness's connections it came by, counted from 1."""


Script = Callable[[socket.socket, Captured], bool]
"""Answer one request on the socket; True keeps the connection for another."""


def json_answer(
    body: bytes = b'{"type":"message"}', *, status: bytes = b"200 OK", extra: bytes = b""
) -> Script:
    """A script that gives one JSON answer to everything."""
    raw = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (
        status, len(body), extra, body,
    )  # fmt: skip

    def play(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(raw)
        return True

    return play


@final
class Witness:
    """A recording upstream: real sockets, one thread a connection, answers from a script."""

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script or json_answer()
        self._tls = tls
        self.captured: list[Captured] = []
        self.raw = bytearray()
        """Everything that any connection received, whether it made a request or not."""
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._news = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        """Base URL for the proxy."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def wait_captured(self, count: int) -> list[Captured]:
        """Wait until `count` requests have come; raises `TimeoutError`."""
        self._wait(lambda: len(self.captured) >= count, f"{count} requests")
        return list(self.captured)

    def wait_closed(self, count: int = 0) -> None:
        """Wait until no more than `count` connections are open; raises `TimeoutError`."""
        self._wait(lambda: len(self._open) <= count, "its connections' end")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            if not self._news.wait_for(condition, timeout=SECONDS):
                raise TimeoutError(f"the witness did not see {what} within {SECONDS:g} s")

    def close(self) -> None:
        """End every connection and thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in tuple(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._accepting.join(SECONDS)
        for thread in self._threads:
            thread.join(SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._news:
                self.connections += 1
                self._open.add(sock)
                number = self.connections
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _wrapped(self, plain: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        sock = tls.wrap_socket(plain, server_side=True)
        with self._news:
            self._open.discard(plain)
            self._open.add(sock)
        return sock

    def _serve(self, sock: socket.socket, number: int) -> None:
        reader = RequestReader(Limits(head_bytes=1 << 20, target_bytes=1 << 16, body_bytes=1 << 26))
        pending = b""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._wrapped(sock, self._tls)
            while data := sock.recv(1 << 18):
                pending += data
                self.raw += data
                reader.feed(data)
                while (request := reader.next_request()) is not None:
                    captured, pending = Captured(pending, request, number), b""
                    with self._news:
                        self.captured.append(captured)
                        self._news.notify_all()
                    if not self.script(sock, captured):
                        return
        except (OSError, Refusal):
            return
        finally:
            sock.close()
            with self._news:
                self._open.discard(sock)
                self._news.notify_all()


@final
@dataclass(frozen=True, slots=True)
class Canaries:
    """Secrets made for one run; wherever one shows up, it leaked from here."""

    zai_key: str = field(default_factory=lambda: f"zai-{secrets.token_hex(16)}")
    oauth: str = field(default_factory=lambda: f"sk-ant-oat01-{secrets.token_hex(16)}")
    api_key: str = field(default_factory=lambda: f"sk-ant-api03-{secrets.token_hex(16)}")
    prompt: str = field(default_factory=lambda: f"prompt-{secrets.token_hex(16)}")


@final
class Proxy:
    """`ccp serve` as a process of its own, in an environment of its own."""

    def __init__(
        self, environ: Mapping[str, str], log_dir: Path, args: Sequence[str] = ("--port", "0")
    ) -> None:
        argv = [sys.executable, "-m", "holdfast.systems.ccp.cli", "serve", "--log-dir", str(log_dir), *args]
        self.log_dir = log_dir
        self._errors = bytearray()
        self.process = subprocess.Popen(
            argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stderr = self.process.stderr
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()
        self.line = self.process.stdout.readline().decode()
        if "listening on" not in self.line:
            self.process.wait(SECONDS)
            self._drain.join(SECONDS)
            self.process.stdout.close()
            self._stderr.close()
            raise RuntimeError(f"the proxy did not start: {self.errors.strip()}")

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.line.rsplit(":", 1)[1])

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return bytes(self._errors).decode()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it and answer its status; its whole output is in `errors` then."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._drain.join(SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._stderr.close()
        return status

    def _read_errors(self) -> None:
        for line in self._stderr:
            self._errors += line


@contextlib.contextmanager
def stage(
    log_dir: Path,
    anthropic: Witness,
    zai: Witness,
    *,
    canaries: Canaries,
    args: Sequence[str] = (),
    **extra: str,
) -> Iterator[Proxy]:
    """The proxy between two witnesses; ends it, whatever happens. `extra` is added to its environment."""
    environ = {
        "ZAI_API_KEY": canaries.zai_key,
        "CCP_ANTHROPIC_URL": anthropic.url,
        "CCP_ZAI_URL": f"{zai.url}/api/anthropic",
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        **extra,
    }
    proxy = Proxy(environ, log_dir, ("--port", "0", *args))
    try:
        yield proxy
    finally:
        proxy.stop()


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    head: ResponseHead
    body: bytes
    """The bytes after the head, as they came off the wire."""
    payload: bytes
    """The same without transfer coding."""

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field, by its lower-case name."""
        return [value for lower, _, value in self.head.fields if lower == name]


def send_request(
    sock: socket.socket, method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes | None
) -> None:
    """Write one request with exactly these fields, a Host and, with a body, its length."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in fields),
    ]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))


def read_answer(
    sock: socket.socket, method: str = "POST", on_payload: Callable[[bytes], None] | None = None
) -> Answer:
    """Read one answer; raises `ConnectionError` when it ends before it is whole."""
    reader = ResponseReader(method, 1 << 20)
    body = payload = b""
    while not reader.done:
        try:
            data = sock.recv(1 << 18)
        except ConnectionError as error:
            raise ConnectionAbortedError("the answer was cut off") from error
        if not data and not reader.finish():
            raise ConnectionAbortedError("the answer was cut off")
        raw, piece = reader.feed(data) if data else (b"", b"")
        body += raw
        payload += piece
        if on_payload is not None:
            on_payload(payload)
    assert reader.head is not None
    return Answer(reader.head, body, payload)


def ask(
    port: int,
    target: str,
    body: bytes | None = None,
    fields: Sequence[tuple[str, str]] = (),
    *,
    method: str = "POST",
    on_payload: Callable[[bytes], None] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        send_request(sock, method, target, fields, body)
        return read_answer(sock, method, on_payload)
