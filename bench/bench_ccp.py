"""ccp against nginx and the frameworks: CPU a request, added latency, added delay between events, memory.

The proxy under test runs alone on one core; load and upstream share another. The clock is the load's own:
nothing is measured inside a proxy. CPU is what the kernel charged the proxy's processes.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any, cast, final

import uvloop

from holdfast.bench.row import Row, median_seconds, percentile
from holdfast.systems.ccp.body_model import read_top_level

NIGHTLY = os.environ.get("HOLDFAST_PROFILE") == "nightly"
REQUESTS = 40_000 if NIGHTLY else 12_000
CONNECTIONS = 32
SINGLE = 6_000 if NIGHTLY else 2_000
BLOCKS = 10 if NIGHTLY else 5
STREAMS = 1_000
EVENTS = 400 if NIGHTLY else 150
PACE_SECONDS = 0.01
BODY = json.dumps(
    {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": ["x" * 20_300]}, separators=(",", ":")
).encode()
"""Without blanks, as JavaScript's and the SDKs' own writers put it."""
ANSWER_BODY = json.dumps(
    {"type": "message", "usage": {"input_tokens": 9, "output_tokens": 9}, "pad": "y" * 930}
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(ANSWER_BODY), ANSWER_BODY,
)  # fmt: skip
FIELDS = (
    b"Host: 127.0.0.1\r\nAuthorization: Bearer sk-ant-oat01-bench\r\nContent-Type: application/json\r\n"
    b"anthropic-version: 2023-06-01\r\nanthropic-beta: a,b\r\nUser-Agent: claude-cli/2.1\r\nX-App: cli\r\n"
    b"Accept: application/json\r\nX-Stainless-Lang: js\r\nX-Stainless-OS: Linux\r\n"
)
REQUEST, LONGER_REQUEST = (
    b"POST /v1/messages?beta=true HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (FIELDS, len(body), body)
    for body in (BODY, BODY.replace(b"xx", b"xxx", 1))
)
"""Sent in turn: a client's heads repeat themselves, and their lengths do not."""
STREAM_BODY = b'{"model":"claude-haiku-4-5","stream":true}'
STREAM_REQUEST = b"POST /v1/messages HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (
    FIELDS, len(STREAM_BODY), STREAM_BODY,
)  # fmt: skip
LOAD_CORE, PROXY_CORE = 0, 1


# -- upstream (a process of its own) --------------------------------------------------------------------


@final
class _Upstream(asyncio.Protocol):
    """Answers any request; a streaming one with paced events that carry the moment they were sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._need = 0
        self._head = b""

    def data_received(self, data: bytes) -> None:
        if not self._need:
            self._head += data
            head, blank, rest = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            lower = head.lower()
            at = lower.index(b"content-length: ") + 16
            self._need = int(lower[at : at + 12].split(b"\r")[0]) - len(rest)
            self._streaming = b'"stream":true' in rest
            self._head = b""
        else:
            self._need -= len(data)
        if self._need <= 0:
            self._need = 0
            if self._streaming:
                self._transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                self._left = EVENTS
                self._tick()
            else:
                self._transport.write(ANSWER)

    def _tick(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(b"0\r\n\r\n")
            return
        self._left -= 1
        event = b'event: content_block_delta\ndata: {"sent":%.6f,"pad":"%s"}\n\n' % (monotonic(), b"z" * 60)
        self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        asyncio.get_running_loop().call_later(PACE_SECONDS, self._tick)


async def _serve_upstream() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Upstream, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


# -- load -----------------------------------------------------------------------------------------------


@final
class _Load(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, desk: "_Desk") -> None:
        self._desk = desk

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._got = b""
        self._ask()

    def _ask(self) -> None:
        if self._desk.left <= 0:
            self._transport.close()
            return
        self._desk.left -= 1
        self._since = perf_counter()
        self._transport.write(REQUEST if self._desk.left % 2 else LONGER_REQUEST)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(b'"}') and not self._got.endswith(b"\r\n0\r\n\r\n"):
            return
        if self._got[9:12] != b"200":
            raise RuntimeError(f"the proxy under test answered {self._got[:80]!r}")
        self._desk.seconds.append(perf_counter() - self._since)
        self._got = b""
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.open -= 1
        if self._desk.open == 0:
            self._desk.over.set_result(None)


@final
class _Desk:
    """What the connections of one load share."""

    def __init__(self, requests: int, connections: int) -> None:
        self.left = requests
        self.open = connections
        self.seconds: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


async def _load(port: int, requests: int, connections: int) -> list[float]:
    loop = asyncio.get_running_loop()
    desk = _Desk(requests, connections)
    for _ in range(connections):
        await loop.create_connection(lambda: _Load(desk), "127.0.0.1", port)
    await desk.over
    if len(desk.seconds) != requests:
        raise RuntimeError(f"{len(desk.seconds)} of {requests} requests were answered")
    return desk.seconds


@final
class _Listener(asyncio.Protocol):
    """One stream's client: for each event, how long after it was sent it came."""

    def __init__(self, desk: "_StreamDesk") -> None:
        self._desk = desk

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._rest = b""
        self._transport.write(STREAM_REQUEST)

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        *events, self._rest = (self._rest + data).split(b'{"sent":')
        for event in [*events[1:], self._rest] if events else []:
            if b"," in event:
                self._desk.delays.append(now - float(event.partition(b",")[0]))
        self._rest = b""
        if data.endswith(b"0\r\n\r\n"):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.open -= 1
        if self._desk.open == 0:
            self._desk.over.set_result(None)


@final
class _StreamDesk:
    def __init__(self, connections: int) -> None:
        self.open = connections
        self.delays: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


async def _streams(port: int, connections: int, on_all: Callable[[], None] | None = None) -> list[float]:
    loop = asyncio.get_running_loop()
    desk = _StreamDesk(connections)
    for _ in range(connections):
        await loop.create_connection(lambda: _Listener(desk), "127.0.0.1", port)
    if on_all is not None:
        loop.call_later(EVENTS * PACE_SECONDS / 2, on_all)
    await desk.over
    return desk.delays


def _run(coroutine: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


# -- the proxies ----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that runs: its port, and its processes."""

    port: int
    pid: int

    @property
    def pids(self) -> list[int]:
        """The process and everything under it, as of now."""
        found = [self.pid]
        for pid in found:
            found += [int(w) for w in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Time on a core that the kernel charged so far, threads and children included (to the nanosecond)."""
        tasks = [task for pid in self.pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def rss_mib(self) -> float:
        """Resident memory now."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def _started(argv: Sequence[str], port: int, env: dict[str, str] | None = None) -> Iterator[Running]:
    process = subprocess.Popen(
        ["taskset", "-c", str(PROXY_CORE), *argv],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if monotonic() > deadline or process.poll() is not None:
                    raise
                os.sched_yield()
        yield Running(port, process.pid)
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def ccp(folder: Path, upstream: int) -> Iterator[Running]:
    """ccp with everything on: lanes, the policy, the observer, the usage log."""
    port = _free_port()
    env = {
        "ZAI_API_KEY": "bench-key",
        "CCP_ZAI_URL": f"http://127.0.0.1:{upstream}/api/anthropic",
        "CCP_ANTHROPIC_URL": "http://127.0.0.1:1",
    }
    argv = [
        sys.executable,
        "-m",
        "holdfast.systems.ccp.cli",
        "serve",
        "--port",
        str(port),
        "--log-dir",
        str(folder / "logs"),
    ]
    with _started(argv, port, env) as running:
        yield running


NGINX = """
daemon off; worker_processes 1; pid %(folder)s/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path %(folder)s/body; proxy_temp_path %(folder)s/proxy;
  fastcgi_temp_path %(folder)s/f; uwsgi_temp_path %(folder)s/u; scgi_temp_path %(folder)s/s;
  client_body_buffer_size 1m; keepalive_requests 10000000;
  upstream up { server 127.0.0.1:%(upstream)d; keepalive 1200; keepalive_requests 10000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Running]:
    """nginx, one worker, buffering off: the limit."""
    port = _free_port()
    (folder / "nginx.conf").write_text(NGINX % {"folder": folder, "upstream": upstream, "port": port})
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    with _started([binary, "-p", str(folder), "-c", str(folder / "nginx.conf")], port) as running:
        yield running


@contextlib.contextmanager
def haproxy(folder: Path, upstream: int) -> Iterator[Running]:
    """HAProxy, one thread."""
    port = _free_port()
    (folder / "haproxy.cfg").write_text(
        "global\n nbthread 1\n maxconn 5000\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n"
        f" timeout connect 5s\n http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\n"
        f"backend b\n server s 127.0.0.1:{upstream}\n"
    )
    binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
    with _started([binary, "-db", "-f", str(folder / "haproxy.cfg")], port) as running:
        yield running


AIOHTTP = """
import sys, aiohttp, asyncio, uvloop
from aiohttp import web
up, port = sys.argv[1:]
async def handle(request):
    body = await request.read()
    headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length", "connection")}
    async with request.app["s"].post("http://127.0.0.1:" + up + request.path_qs, data=body, headers=headers, allow_redirects=False) as answer:
        out = web.StreamResponse(status=answer.status, headers={"content-type": answer.headers["content-type"]})
        if "content-length" in answer.headers: out.content_length = int(answer.headers["content-length"])
        await out.prepare(request)
        async for data in answer.content.iter_any(): await out.write(data)
        await out.write_eof()
        return out
async def make():
    app = web.Application(client_max_size=2**25)
    async def session(app):
        app["s"] = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        yield
        await app["s"].close()
    app.cleanup_ctx.append(session)
    app.router.add_post("/{tail:.*}", handle)
    return app
uvloop.install()
web.run_app(make(), host="127.0.0.1", port=int(port), access_log=None, print=None)
"""
HTTPX = """
import sys, httpx, uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
up, port = sys.argv[1:]
client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=1000), timeout=60, trust_env=False)
async def handle(request):
    body = await request.body()
    headers = [(k, v) for k, v in request.headers.items() if k not in ("host", "content-length", "connection")]
    url = "http://127.0.0.1:" + up + request.url.path
    answer = await client.send(client.build_request("POST", url, content=body, headers=headers), stream=True)
    keep = {k: v for k, v in answer.headers.items() if k in ("content-type", "content-length")}
    return StreamingResponse(answer.aiter_raw(), status_code=answer.status_code, headers=keep)
app = Starlette(routes=[Route("/{tail:path}", handle, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="critical", access_log=False)
"""


def _framework(source: str) -> Callable[[Path, int], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(_: Path, upstream: int) -> Iterator[Running]:
        port = _free_port()
        with _started([sys.executable, "-c", source, str(upstream), str(port)], port) as running:
            yield running

    return start


def _litellm_python() -> str | None:
    """An environment of its own, named from outside; it is started without secrets and without a network."""
    return os.environ.get("HOLDFAST_LITELLM_PYTHON")


@contextlib.contextmanager
def litellm(folder: Path, upstream: int) -> Iterator[Running]:
    """LiteLLM's proxy under bwrap: read-only root, empty home, no secret in its environment."""
    python = _litellm_python()
    assert python is not None
    port = _free_port()
    (folder / "litellm.yaml").write_text(
        "model_list:\n - model_name: claude-haiku-4-5\n   litellm_params:\n"
        "     model: anthropic/claude-haiku-4-5\n     api_key: none\n"
        f"     api_base: http://127.0.0.1:{upstream}\n"
    )
    argv = [
        "bwrap", "--ro-bind", "/", "/", "--tmpfs", "/root", "--tmpfs", "/home", "--tmpfs", "/tmp", "--dev", "/dev",
        "--proc", "/proc", "--ro-bind", str(folder), str(folder), "--ro-bind", str(Path(python).parents[1]), str(Path(python).parents[1]),
        "--unshare-pid", "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--clearenv",
        python, "-m", "litellm.proxy.proxy_cli", "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "1",
    ]  # fmt: skip
    with _started(argv, port) as running:
        yield running


def _has_nginx() -> bool:
    return bool(shutil.which("nginx") or Path("/usr/sbin/nginx").exists())


Start = Callable[[Path, int], contextlib.AbstractContextManager[Running]]
PEERS: tuple[tuple[str, Start, Callable[[], bool], int], ...] = (
    ("HAProxy", haproxy, lambda: bool(shutil.which("haproxy") or Path("/usr/sbin/haproxy").exists()), 1),
    ("aiohttp both sides", _framework(AIOHTTP), lambda: importlib.util.find_spec("aiohttp") is not None, 4),
    ("uvicorn + httpx", _framework(HTTPX), lambda: importlib.util.find_spec("httpx") is not None, 16),
    ("LiteLLM proxy", litellm, lambda: _litellm_python() is not None, 40),
)
"""Name, how to start it, whether it is here, and by how much less it is loaded (the slow ones take long)."""


# -- measurements ---------------------------------------------------------------------------------------


def _cpu_per_request(running: Running, requests: int) -> tuple[float, float]:
    """Microseconds of CPU a request at 32 connections, and requests a second."""
    cpu, since = running.cpu_seconds(), perf_counter()
    _run(_load(running.port, requests, CONNECTIONS))
    return (running.cpu_seconds() - cpu) / requests * 1e6, requests / (perf_counter() - since)


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """What blocks in turn have shown of one proxy: medians of CPU and rate, and every latency at c=1."""

    cpu: float
    rate: float
    one: list[float]


def _in_turn(proxies: Mapping[str, Running], upstream: int) -> tuple[dict[str, Compared], list[float]]:
    """The proxies and the bare upstream, block by block in turn, so that whatever else the machine does meets
    them all alike; nothing runs in the one that waits."""
    for running in proxies.values():
        _run(_load(running.port, 2_000, CONNECTIONS))
    blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in proxies}
    ones: dict[str, list[float]] = {name: [] for name in proxies}
    direct: list[float] = []
    for _ in range(BLOCKS):
        for name, running in proxies.items():
            blocks[name].append(_cpu_per_request(running, REQUESTS // BLOCKS))
        direct += _run(_load(upstream, SINGLE // BLOCKS, 1))
        for name, running in proxies.items():
            ones[name] += _run(_load(running.port, SINGLE // BLOCKS, 1))
    compared = {
        name: Compared(median(cpu for cpu, _ in each), median(rate for _, rate in each), ones[name])
        for name, each in blocks.items()
    }
    return compared, direct


def measure() -> Iterable[Row]:
    """All figures; peers that are not here are named in a row of their own."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="bench-ccp-") as name:
        folder = Path(name)
        upstream = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "holdfast.bench.bench_ccp", "upstream"],
            stdout=subprocess.PIPE,
        )
        assert upstream.stdout is not None
        try:
            port = int(upstream.stdout.readline())
            yield from _rows(folder, port)
        finally:
            upstream.terminate()
            upstream.wait()
            upstream.stdout.close()
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _rows(folder: Path, upstream: int) -> Iterable[Row]:
    with contextlib.ExitStack() as stack:
        proxies = {"ccp": stack.enter_context(ccp(folder, upstream))}
        if _has_nginx():
            proxies["nginx"] = stack.enter_context(nginx(folder, upstream))
        compared, direct = _in_turn(proxies, upstream)
        yield from _cost_rows(compared, direct)
        yield from _delay_rows(proxies, upstream)
    for name, start, here, slower in PEERS:
        yield _peer_row(name, start, here, folder, upstream, max(REQUESTS // slower, 200))
    with ccp(folder, upstream) as running:
        seen: list[float] = []
        got = _run(_streams(running.port, STREAMS, lambda: seen.append(running.rss_mib())))
    note = f"{len(got)} of {STREAMS * EVENTS} events arrived"
    yield Row(f"memory with {STREAMS} streams running, ccp", max(seen), "MiB", limit=150.0, note=note)
    yield from _model_rows()


def _cost_rows(compared: Mapping[str, Compared], direct: list[float]) -> Iterable[Row]:
    load = f"{len(BODY)} B POST, {len(ANSWER_BODY)} B answer, c={CONNECTIONS}"
    mine, limit = compared["ccp"], compared.get("nginx")
    for name, each in compared.items():
        yield Row(f"CPU a request, {name}", each.cpu, "us", note=f"{load}; {each.rate:,.0f} requests/s")
    ratio = None if limit is None else mine.cpu / limit.cpu
    yield Row(
        "CPU a request, ccp over nginx", ratio, "x", limit=3.0,
        note=f"{BLOCKS} blocks in turn; usage log and observer on" if limit else "nginx is not installed here",
    )  # fmt: skip
    base = percentile(direct, 0.5)
    for name, each in compared.items():
        added = (percentile(each.one, 0.5) - base) * 1e6
        promised = 150.0 if name == "ccp" else None
        note = f"direct {base * 1e6:.0f} us; {len(direct)} requests each, in turn"
        yield Row(f"added p50 over direct, {name}, c=1", added, "us", limit=promised, note=note)


def _delay_rows(proxies: Mapping[str, Running], upstream: int) -> Iterable[Row]:
    direct = percentile(_run(_streams(upstream, 8)), 0.99)
    for name, running in proxies.items():
        late = (percentile(_run(_streams(running.port, 8)), 0.99) - direct) * 1e6
        promised = 200.0 if name == "ccp" else None
        note = f"8 streams x {EVENTS} events; direct p99 {direct * 1e6:.0f} us"
        yield Row(f"SSE: added delay an event, p99, {name}", late, "us", limit=promised, note=note)


def _peer_row(
    name: str, start: Start, here: Callable[[], bool], folder: Path, upstream: int, requests: int
) -> Row:
    if not here():
        return Row(f"CPU a request, {name}", None, "us", note="not installed here, so not measured")
    with start(folder, upstream) as running:
        _run(_load(running.port, max(requests // 10, CONNECTIONS), CONNECTIONS))
        cpu, rate = _cpu_per_request(running, requests)
    return Row(f"CPU a request, {name}", cpu, "us", note=f"the same load; {rate:,.0f} requests/s")


def _model_rows() -> Iterable[Row]:
    """Of exactly 1 MiB, as clients write it and as a writer with blanks does."""
    for words, separators in (("without blanks", (",", ":")), ("with blanks", (", ", ": "))):
        messages: list[dict[str, str]] = [{"role": "user", "content": "hello \n" * 20}] * 5_000
        fields = {"model": "claude-haiku-4-5", "messages": messages, "pad": ""}
        missing = 2**20 - len(json.dumps(fields, separators=separators))
        body = json.dumps({**fields, "pad": "x" * missing}, separators=separators).encode()
        assert len(body) == 2**20
        seconds = median_seconds(lambda body=body: read_top_level(body), rounds=50)  # type: ignore[misc]
        yield Row(f"model found in 1 MiB {words}", seconds * 1e3, "ms", limit=1.0, note=f"{len(body)} bytes")


if __name__ == "__main__":
    _run(_serve_upstream())
