"""The server's sockets: loopback TCP or Unix, TLS if asked, one thread a connection, everything bounded."""

import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer as StreamServer
from socketserver import ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Any, Self, final

from holdfast.systems.agentos.server.api import BODY_LIMIT, Answer, Api, Request
from holdfast.systems.agentos.server.faults import Fault, FaultKind, FaultScript
from holdfast.systems.agentos.server.store import Store

__all__ = ["Server"]

PAGE = Answer(200, b"<!doctype html><title>Welcome</title>", {"content-type": "text/html; charset=utf-8"})


@final
@dataclass(slots=True)
class _State:
    """What all connections share."""

    api: Api
    faults: FaultScript
    late: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, request: Request) -> Fault | None:
        """Count the request, and say what shall go wrong with it."""
        with self.lock:
            self.requests += 1
            return self.faults.popleft() if self.faults else None

    def catch_up(self) -> None:
        """Store what was held back."""
        with self.lock:
            held, self.late = self.late, []
        for request in held:
            self.api.answer(request)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "ccc"
    sys_version = ""
    timeout = 30
    disable_nagle_algorithm = False
    state: _State

    def do_GET(self) -> None:
        """Serve a call without a body."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Serve a call with a body of a told length."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            self._write(Answer.json(411, {"error": "the call needs a Content-Length"}, connection="close"))
        elif int(length) > BODY_LIMIT:
            self._write(Answer.json(413, {"error": "the body is too long"}, connection="close"))
        else:
            self._serve(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: bearer keys and events do not go to a terminal."""

    def _serve(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        fault = self.state.begin(request)
        if fault is None:
            self._write(self.state.api.answer(request))
        else:
            self._go_wrong(request, fault)
        if fault is None or fault.kind is not FaultKind.LATE:
            self.state.catch_up()

    def _go_wrong(self, request: Request, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.SHORT:
                self._write(self.state.api.answer(request), cut=True)
            case FaultKind.SLOW:
                self.state.stop.wait(fault.seconds)
                self._write(self.state.api.answer(request))
            case FaultKind.STALL:
                self.state.stop.wait()
                self._break()
            case FaultKind.RESET:
                self._break()
            case FaultKind.LOST:
                self.state.api.answer(request)
                self._break()
            case FaultKind.LATE:
                self.state.late.append(request)
                self._break()
            case _:
                self._write(plain_answer(fault))

    def _write(self, answer: Answer, *, cut: bool = False) -> None:
        head = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('-',))[0]}"]
        fields = {**answer.headers, "content-length": str(len(answer.body)), "date": self.date_time_string()}
        head += [f"{name}: {value}" for name, value in fields.items()]
        raw = "\r\n".join([*head, "", ""]).encode() + answer.body
        self.close_connection = cut or answer.headers.get("connection") == "close"
        try:
            self.wfile.write(raw[: -len(answer.body) // 2] if cut else raw)
        except OSError:
            self.close_connection = True

    def _break(self) -> None:
        # SO_LINGER with 0 seconds makes close send a reset; a Unix socket just ends.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def plain_answer(fault: Fault) -> Answer:
    """The answer of a fault that only answers; KeyError for one that does more."""
    if fault.kind is FaultKind.HTML:
        return PAGE
    if fault.kind is FaultKind.DROP:
        return Answer.json(200, {"accepted": 0, "duplicates": 0, "rejected": []})
    status = {
        FaultKind.STATUS_500: 500,
        FaultKind.STATUS_429: 429,
        FaultKind.STATUS_503: 503,
        FaultKind.LARGE: 413,
        FaultKind.DENY: 401,
    }[fault.kind]
    wait = {"retry_after": f"{fault.seconds:g}"} if status in {429, 503} else {}
    return Answer.json(status, {"error": "on purpose"}, **wait)


class _Tcp(ThreadingMixIn, StreamServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Unix(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@final
class Server:
    """A CCC on one socket. A context manager: serving inside, closed outside."""

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        unix: Path | None = None,
        port: int = 0,
        faults: FaultScript | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Listen on `unix`, or on 127.0.0.1 at `port` (0: any free one)."""
        self.store = store
        self._state = _State(Api(store, key), faults if faults is not None else FaultScript())
        handler = type("Handler", (_Handler,), {"state": self._state})
        self._unix = unix
        if unix is not None:
            self._server: _Tcp | _Unix = _Unix(str(unix), handler)
            unix.chmod(0o600)
        else:
            self._server = _Tcp(("127.0.0.1", port), handler)
            if tls is not None:
                self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """What an adapter is given: `http://127.0.0.1:PORT`, `https://...` or `unix:/PATH`."""
        if self._unix is not None:
            return f"unix:{self._unix}"
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The TCP port that it got."""
        name: tuple[str, int] = self._server.socket.getsockname()
        return name[1]

    @property
    def requests(self) -> int:
        """How many requests have come in."""
        return self._state.requests

    def fail(self, faults: FaultScript) -> None:
        """Let these go wrong next."""
        with self._state.lock:
            self._state.faults.extend(faults)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._state.lock:
            self._state.faults.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
