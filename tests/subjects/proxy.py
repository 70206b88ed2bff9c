"""A routing proxy in a hundred lines, with a fault on demand: `proxy.py FAULT PORT ANTHROPIC ZAI KEY LOGS`.

With FAULT `none` it is sound, and every gate of the suite passes: the control of the planted faults.
Each fault is a few lines, marked `fault ==`.
"""

import http.client
import json
import random
import socket
import socketserver
import sys
import threading
import traceback
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

CREDENTIALS = {"x-api-key", "authorization"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, fault: str, port: int, anthropic: str, zai: str, key: str, logs: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fault, self.key, self.logs = fault, key, logs
        self.upstreams = {"anthropic": anthropic, "zai": zai}
        self.seen = 0
        self.in_flight = 0
        self.to_anthropic = 0
        self.chance = random.Random(50)
        self.lock, self.alone = threading.Lock(), threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """An upstream that hangs up ends the client's connection; that is no story for the log."""
        if self.fault == "writes a secret into a traceback":
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def log_message(self, *_: object) -> None:
        return

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.seen += 1
            self.server.in_flight += 1
        alone = self.server.alone if self.server.fault == "takes one request at a time" else nullcontext()
        try:
            with alone:
                self.relay()
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def relay(self) -> None:
        fault = self.server.fault
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        lane = self.lane(body, fault)
        if fault == "logs a body":
            self.log(body)
        if fault == "re-serialises json":
            body = json.dumps(json.loads(body)).encode()
        if fault == "answers from a cache" and self.server.seen > 2:
            self.answer(200, [("content-type", "application/json")], [b'{"cached": true}'])
            return
        if fault == "mirrors to the other lane":
            self.mirror("zai" if lane == "anthropic" else "anthropic", body.replace(b"haiku", b"x"))
        if fault == "writes a stray line upstream" and self.server.seen == 5:
            self.stray(b"EHLO anthropic\r\n")
        if fault == "refuses a few by itself" and self.server.seen % 3 == 0:
            self.answer(503, [], [b"busy"])
            return
        upstream = urlsplit(self.server.upstreams[lane])
        sent = self.headers_for(lane, fault)
        if fault == "sends an early 200":
            self.answer(200, [], self.pieces(self.ask(upstream, body, sent), fault))
            return
        try:
            response = self.ask(upstream, body, sent)
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"the upstream hung up on {sent}") from error
        if fault == "follows redirects" and response.status == 307:
            response = self.ask(urlsplit(response.headers["location"]), body, sent)
        if fault == "forwards the token to zai on retry" and response.status == 529:
            response = self.ask(upstream, body, {**self.headers, **sent})
        if fault == "logs a body on errors" and response.status >= 500:
            self.log(body)
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP]
        self.answer(response.status, headers, self.pieces(response, fault))

    def ask(self, to: SplitResult, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(to.hostname or "", to.port or 80, timeout=20)
        connection.request("POST", self.path, body=body, headers=headers)
        return connection.getresponse()

    def mirror(self, lane: str, body: bytes) -> None:
        """The same request without its marker, and gone before the answer is."""
        to = urlsplit(self.server.upstreams[lane])
        connection = http.client.HTTPConnection(to.hostname or "", to.port or 80, timeout=20)
        connection.request("POST", "/v1/copy", body=body.replace(b"holdfast-exchange", b"copy"))
        connection.close()

    def stray(self, text: bytes) -> None:
        to = urlsplit(self.server.upstreams["anthropic"])
        with socket.create_connection((to.hostname or "", to.port or 80)) as connection:
            connection.sendall(text)

    def log(self, body: bytes) -> None:
        with (self.server.logs / "debug.log").open("ab") as log:
            log.write(body + b"\n")

    def lane(self, body: bytes, fault: str) -> str:
        if fault == "routes by regex":
            return "zai" if b"haiku" in body else "anthropic"
        model = str(json.loads(body)["model"])
        if fault == "sends haiku to anthropic":
            return "anthropic"
        if fault == "sends everything to zai":
            return "zai"
        return "zai" if "haiku" in model else "anthropic"

    def headers_for(self, lane: str, fault: str) -> dict[str, str]:
        kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        counting = "count_tokens" in self.path
        if lane == "zai":
            forwards = fault == "forwards the token to zai" or (
                fault == "forwards the token to zai on count_tokens" and counting
            )
            if not forwards:
                kept = {k: v for k, v in kept.items() if k.lower() not in CREDENTIALS}
            kept["x-api-key"] = self.server.key
        elif self.leaks(fault):
            kept["x-trace"] = "Basic " + self.server.key.encode().hex()
        elif fault == "drops the credential":
            kept = {k: v for k, v in kept.items() if k.lower() != "authorization"}
        return kept

    def leaks(self, fault: str) -> bool:
        """Whether this request to anthropic is to carry the zai key."""
        with self.server.lock:
            self.server.to_anthropic += 1
            count, chance = self.server.to_anthropic, self.server.chance.random()
            return (
                fault == "sends the zai key to anthropic"
                or (fault == "sends the zai key once" and count == 3)
                or (fault == "sends the zai key every fiftieth time" and count % 50 == 0)
                or (fault == "sends the zai key by chance, one time in fifty" and chance < 1 / 50)
                or (fault == "sends the zai key only under concurrency" and self.server.in_flight > 6)
            )

    def pieces(self, response: http.client.HTTPResponse, fault: str):  # type: ignore[no-untyped-def]
        held = b""
        while piece := self.read(response, fault):
            if fault == "drops event lines":
                piece = b"\n".join(line for line in piece.split(b"\n") if not line.startswith(b"event:"))
            if fault == "buffers the stream":
                held += piece
            elif fault == "merges two events":
                held += piece
                if held.count(b"\n\n") >= 2 or not piece.endswith(b"\n\n"):
                    yield held
                    held = b""
            else:
                yield piece
        if held:
            yield held
        if fault == "synthesises message_stop":
            yield b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def read(self, response: http.client.HTTPResponse, fault: str) -> bytes:
        try:
            return response.read1(65536)
        except http.client.IncompleteRead:
            if fault == "ends a cut answer politely":
                return b""
            raise

    def answer(self, status: int, headers: list[tuple[str, str]], pieces) -> None:  # type: ignore[no-untyped-def]
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


if __name__ == "__main__":
    named, number, to_anthropic, to_zai, zai_key, folder = sys.argv[1:]
    if named == "prints a secret":
        print("starting with", zai_key, flush=True)  # noqa: T201
    Proxy(named, int(number), to_anthropic, to_zai, zai_key, Path(folder)).serve_forever()
