"""A routing proxy in a hundred lines, with a fault on demand: `proxy.py FAULT PORT ANTHROPIC ZAI KEY LOGS`.

With FAULT `none` it is sound, and every gate of the suite passes: the control of the planted faults.
Each fault is a few lines, marked `fault ==`.
"""

import http.client
import json
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

CREDENTIALS = {"x-api-key", "authorization"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, fault: str, port: int, anthropic: str, zai: str, key: str, logs: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fault, self.key, self.logs = fault, key, logs
        self.upstreams = {"anthropic": anthropic, "zai": zai}
        self.seen = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        return

    def do_POST(self) -> None:
        fault = self.server.fault
        self.server.seen += 1
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        lane = self.lane(body, fault)
        if fault == "logs a body" or (fault == "logs a body on errors" and lane == "none"):
            with (self.server.logs / "debug.log").open("ab") as log:
                log.write(body + b"\n")
        if fault == "re-serialises json":
            body = json.dumps(json.loads(body)).encode()
        if fault == "answers from a cache" and self.server.seen > 2:
            self.answer(200, [("content-type", "application/json")], [b'{"cached": true}'])
            return
        upstream = urlsplit(self.server.upstreams[lane])
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port or 80, timeout=20)
        connection.request("POST", self.path, body=body, headers=self.headers_for(lane, fault))
        response = connection.getresponse()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP]
        self.answer(response.status, headers, self.pieces(response, fault))
        connection.close()

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
        elif fault == "sends the zai key to anthropic" or (
            fault == "sends the zai key once" and self.server.seen == 9
        ):
            kept["x-trace"] = "Basic " + self.server.key.encode().hex()
        elif fault == "drops the credential":
            kept = {k: v for k, v in kept.items() if k.lower() != "authorization"}
        return kept

    def pieces(self, response: http.client.HTTPResponse, fault: str):  # type: ignore[no-untyped-def]
        held = b""
        while piece := response.read1(65536):
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
