"""A real service for a test: laid out in a folder of its own, run as users run it, stopped by its lifeline."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import utc_now, wait_until
from holdfast.systems.kakeya.quickstart import Client, lay_out, open_client


def now() -> float:
    """Seconds since the epoch."""
    return utc_now().timestamp()


@dataclass
class Running:
    """A service, and a client that fits it."""

    folder: Path
    unix: Path
    port: int
    client: Client
    process: "subprocess.Popen[bytes]" = field(repr=False)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        over: str = "unix",
    ) -> tuple[int, Any]:
        """(status, JSON body) over the Unix socket, or over TCP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        if over == "unix":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.unix))
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            raw = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(raw) if is_json else raw.decode()
        finally:
            connection.close()

    def verify(self, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """POST /v1/verify with a good stamp, or with `headers`."""
        return self.ask("POST", "/v1/verify", body, self.client.stamp() if headers is None else headers)


@contextmanager
def running(folder: Path, **layout: Any) -> Iterator[Running]:
    """Start, wait until it listens, hand over, let the lifeline go, and see it exit with 0."""
    policy = folder / "policy.json"
    if not policy.exists():
        lay_out(folder, **layout)
    unix, lifeline = folder / "k.sock", folder / "lifeline.sock"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        lifeline.unlink(missing_ok=True)
        listener.bind(str(lifeline))
        listener.listen()
        command = [sys.executable, "-m", "holdfast.systems.kakeya", "serve", "--policy", str(policy)]
        command += [
            "--data",
            str(folder / "data"),
            "--unix",
            str(unix),
            "--port",
            "0",
            "--lifeline",
            str(lifeline),
        ]
        errors = stack.enter_context((folder / "stderr").open("w+b"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, env={}, cwd=folder)
        stack.callback(process.wait)
        stack.callback(process.kill)
        port = wait_until(lambda: _port(folder / "stderr", process), what="kakeya listens", seconds=30)
        listener.settimeout(30)
        held, _ = listener.accept()
        yield Running(folder, unix, port, open_client(folder, now), process)
        held.close()
        assert process.wait(15) == 0, (folder / "stderr").read_text()


def _port(errors: Path, process: "subprocess.Popen[bytes]") -> int | None:
    text = errors.read_text()
    assert process.poll() is None, f"kakeya ended at once: {text}"
    return int(text.rsplit(":", 1)[1]) if "http://127.0.0.1:" in text and text.endswith("\n") else None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`start(vrf=..., peer_uids=...)` gives a running service; all end with the test."""
    with ExitStack() as stack:

        def begin(**layout: Any) -> Running:
            return stack.enter_context(running(tmp_path, **layout))

        yield begin


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for a module's tests, whose Unix peer is a trusted gateway."""
    with running(tmp_path_factory.mktemp("kakeya"), peer_uids=(os.getuid(),)) as started:
        yield started
