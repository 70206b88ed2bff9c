"""`ccp serve` as a process: bad surroundings, bad upstreams, limits, reload, drain, sockets, full disks."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import wait_until
from holdfast.systems.ccp.rig import (
    Canaries,
    Captured,
    Proxy,
    Script,
    Witness,
    ask,
    json_answer,
    read_answer,
    send_request,
    stage,
)
from holdfast.systems.ccp.verify import EVENTS

HAIKU = b'{"model":"claude-haiku-4-5","stream":true}'
SONNET = b'{"model":"claude-sonnet-4-5"}'
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
COMMAND = [sys.executable, "-m", "holdfast.systems.ccp.cli"]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def run(*args: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """One command in an environment of its own."""
    return subprocess.run(
        [*COMMAND, *args], env=environ, capture_output=True, text=True, timeout=30, check=False
    )


def usage_lines(proxy: Proxy) -> list[dict[str, object]]:
    return [json.loads(line) for line in (proxy.log_dir / "usage.jsonl").read_bytes().splitlines()]


def ready(proxy: Proxy) -> tuple[int, dict[str, Any]]:
    answer = ask(proxy.port, "/readyz", method="GET")
    return answer.status, json.loads(answer.payload)


def policy_with(folder: Path, **more: object) -> str:
    """A file with the short form's usual route and these fields."""
    path = folder / "policy.json"
    path.write_text(json.dumps({"routes": [{"matchModel": "*haiku*", "provider": "zai"}], **more}))
    return str(path)


# -- bad surroundings -----------------------------------------------------------------------------------

BAD = {
    "no-command": ([], {}, "required"),
    "no-such-option": (["serve", "--frob"], {}, "--frob"),
    "port-is-a-word": (["serve", "--port", "x"], {}, "--port"),
    "port-too-large": (["serve", "--port", "70000"], {}, "70000"),
    "open-to-others": (["serve", "--host", "0.0.0.0"], {}, "--allow-remote"),
    "no-key": (["serve"], {}, "ZAI_API_KEY"),
    "sandbox-unknown": (["serve"], {"CCP_SANDBOX": "jail"}, "CCP_SANDBOX"),
    "header-mode": (["serve"], {"CCP_HEADER_MODE": "x"}, "CCP_HEADER_MODE"),
    "switch": (["serve"], {"CCP_BLOCK_CN": "maybe"}, "CCP_BLOCK_CN"),
    "no-workers": (["serve", "--workers", "0"], {}, "--workers"),
    "policy-missing": (["serve", "--policy", "/nowhere/p.json"], {}, "/nowhere/p.json"),
    "keys-missing": (["serve"], {"CCP_POLICY_KEYS": "/nowhere/k.pub"}, "/nowhere/k.pub"),
    "log-folder": (["serve", "--log-dir", "/proc/nowhere"], {"ZAI_API_KEY": "k"}, "/proc/nowhere"),
    "pin-without-tls": (
        ["serve"],
        {"ZAI_API_KEY": "k", "CCP_ZAI_URL": "http://127.0.0.1:1", "CCP_PIN_ZAI": f"sha256:{'0' * 64}"},
        "pin",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("args", "environ", "names"), BAD.values(), ids=BAD.keys())
def test_bad_surroundings_are_one_line_and_64(
    tmp_path: Path, args: list[str], environ: dict[str, str], names: str
) -> None:
    if args[:1] == ["serve"] and "--log-dir" not in args:
        args = [*args, "--log-dir", str(tmp_path / "logs")]
    ended = run(*args, **environ)
    assert (ended.returncode, ended.stdout) == (64, "")
    assert ended.stderr.startswith("ccp: ")
    assert ended.stderr.count("\n") == 1
    assert names in ended.stderr


def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ended = run("serve", "--port", port, "--log-dir", str(tmp_path), ZAI_API_KEY="k")
    assert (ended.returncode, "another program has it" in ended.stderr) == (64, True)


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    ended = run(
        "serve", "--uds", str(tmp_path / "precious"), "--log-dir", str(tmp_path / "l"), ZAI_API_KEY="k"
    )
    assert (ended.returncode, (tmp_path / "precious").read_text()) == (64, "x")


def test_serving_needs_no_environment_but_its_own(tmp_path: Path, anthropic: Witness, zai: Witness) -> None:
    environ = {"ZAI_API_KEY": "k", "CCP_ANTHROPIC_URL": anthropic.url, "CCP_ZAI_URL": zai.url}
    proxy = Proxy(environ, tmp_path / "logs")
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    assert proxy.stop() == 0


def test_proxies_of_the_environment_are_not_asked(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    with closing(Witness()) as trap:
        wrong = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), trap.url)
        with stage(tmp_path, anthropic, zai, canaries=canaries, **wrong) as proxy:
            assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
        assert trap.connections == 0


# -- bad upstreams --------------------------------------------------------------------------------------


def test_an_upstream_that_is_not_there_is_502_in_the_apis_own_shape(
    tmp_path: Path, anthropic: Witness, canaries: Canaries
) -> None:
    with closing(Witness()) as gone:
        pass
    with stage(tmp_path, anthropic, gone, canaries=canaries) as proxy:
        answer = ask(proxy.port, "/v1/messages", HAIKU)
        status, page = ready(proxy)
    body = json.loads(answer.payload)
    assert (answer.status, body["type"], body["error"]["type"]) == (502, "error", "api_error")
    assert answer.values(b"request-id") == [body["request_id"].encode()]
    assert (status, page["upstreams"]["anthropic"]) == (503, "ok")
    assert "unreachable" in str(page["upstreams"]["zai"])


def reset(sock: socket.socket) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def before_the_answer(raw: bytes) -> Script:
    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(raw)
        return False

    return script


EARLY = {
    "reset": lambda sock, _: reset(sock),
    "closes": lambda sock, _: False,
    "garbage": before_the_answer(b"\x16\x03\x01 what is this\r\n\r\n"),
    "half-a-head": before_the_answer(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "endless-head": before_the_answer(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000),
    "ambiguous": before_the_answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    "switches": before_the_answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
}


@pytest.mark.parametrize("script", EARLY.values(), ids=EARLY.keys())
def test_what_fails_before_the_answer_is_502(proxy: Proxy, zai: Witness, script: Script) -> None:
    zai.script = script
    answer = ask(proxy.port, "/v1/messages", HAIKU)
    assert (answer.status, json.loads(answer.payload)["error"]["type"]) == (502, "api_error")
    assert [line["outcome"] for line in usage_lines(proxy)] == ["upstream_failed"]
    zai.script = json_answer()
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200


def cut(*pieces: bytes, hard: bool = False) -> Script:
    def script(sock: socket.socket, _: Captured) -> bool:
        for piece in pieces:
            sock.sendall(piece)
        return reset(sock) if hard else False

    return script


LATE = {
    "closes-in-a-stream": cut(SSE_HEAD, chunk(EVENTS[0])),
    "closes-in-a-chunk": cut(SSE_HEAD, chunk(EVENTS[0])[:-9]),
    "short-of-its-length": cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
}


@pytest.mark.parametrize("script", LATE.values(), ids=LATE.keys())
def test_what_fails_in_the_answer_breaks_the_clients_connection(
    proxy: Proxy, zai: Witness, script: Script
) -> None:
    zai.script = script
    with pytest.raises(ConnectionError):
        ask(proxy.port, "/v1/messages", HAIKU)
    assert [line["outcome"] for line in usage_lines(proxy)] == ["aborted"]


def test_a_broken_chunk_in_the_answer_breaks_the_clients_connection(proxy: Proxy, zai: Witness) -> None:
    have = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(SSE_HEAD + chunk(EVENTS[0]))
        assert have.wait(20)
        sock.sendall(b"zz\r\n")
        return True

    zai.script = script
    with pytest.raises(ConnectionError):
        ask(proxy.port, "/v1/messages", HAIKU, on_payload=lambda payload: have.set() if payload else None)
    assert [line["outcome"] for line in usage_lines(proxy)] == ["aborted"]


def test_a_stalled_upstream_is_504_after_the_policys_time(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    release = threading.Event()
    zai.script = lambda _sock, _captured: not release.wait(20)
    where = policy_with(tmp_path, timeouts={"readMs": 100})
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=where) as proxy:
        answer = ask(proxy.port, "/v1/messages", HAIKU)
        zai.wait_captured(1)
        release.set()
    assert (answer.status, json.loads(answer.payload)["error"]["type"]) == (504, "timeout_error")


def test_a_running_stream_outlives_the_first_byte_time(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """The stream rests until another request has run into the very limit that must not touch it."""
    timed_out = threading.Event()

    def script(sock: socket.socket, captured: Captured) -> bool:
        if b"stall" in captured.request.body:
            timed_out.wait(20)
            return False
        sock.sendall(SSE_HEAD + chunk(EVENTS[0]))
        assert timed_out.wait(20)
        sock.sendall(b"".join(map(chunk, EVENTS[1:])) + b"0\r\n\r\n")
        return True

    zai.script = script
    where = policy_with(tmp_path, timeouts={"readMs": 100})
    with (
        stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=where) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock,
    ):
        send_request(sock, "POST", "/v1/messages", [], HAIKU)
        zai.wait_captured(1)
        assert ask(proxy.port, "/v1/messages", HAIKU.replace(b"}", b',"x":"stall"}')).status == 504
        timed_out.set()
        assert read_answer(sock).payload == b"".join(EVENTS)


def test_a_slow_drip_arrives_whole(proxy: Proxy, zai: Witness) -> None:
    raw = SSE_HEAD + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n"

    def script(sock: socket.socket, _: Captured) -> bool:
        for at in range(len(raw)):
            sock.sendall(raw[at : at + 1])
        return True

    zai.script = script
    assert ask(proxy.port, "/v1/messages", HAIKU).payload == b"".join(EVENTS)


def test_an_event_of_ten_mebibytes_arrives_whole(proxy: Proxy, zai: Witness) -> None:
    event = b"event: content_block_delta\ndata: " + os.urandom(5 << 20).hex().encode() + b"\n\n"
    zai.script = cut(SSE_HEAD, chunk(EVENTS[0]), chunk(event), b"0\r\n\r\n")
    answer = ask(proxy.port, "/v1/messages", HAIKU)
    assert answer.payload == EVENTS[0] + event
    (line,) = usage_lines(proxy)
    assert line["sha256_upstream"] == line["sha256_downstream"]


def test_an_upstream_that_half_closes_after_its_answer_is_whole(proxy: Proxy, zai: Witness) -> None:
    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
        sock.shutdown(socket.SHUT_WR)
        return True

    zai.script = script
    answer = ask(proxy.port, "/v1/messages", HAIKU)
    assert (answer.status, answer.payload) == (200, b"{}")


def test_bytes_after_an_answer_reach_no_client(proxy: Proxy, zai: Witness) -> None:
    """Response splitting: what follows the answer is cut off, and the connection is not used again."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    zai.script = cut(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + evil)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        for _ in range(2):
            send_request(sock, "POST", "/v1/messages", [], HAIKU)
            assert read_answer(sock).body == b"{}"
    assert [c.connection for c in zai.captured] == [1, 2]


def test_an_early_answer_to_a_large_body_is_relayed(proxy: Proxy, zai: Witness) -> None:
    """The upstream refuses before it has read; the connection with the unread rest is not kept."""
    listener = zai

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}")
        return True

    listener.script = script
    body = b'{"model":"claude-haiku-4-5","x":"' + b"y" * (8 << 20) + b'"}'
    assert ask(proxy.port, "/v1/messages", body).status == 413


# -- the client's side ----------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(proxy: Proxy, anthropic: Witness, zai: Witness) -> None:
    anthropic.script = json_answer(b'{"lane":"anthropic"}')
    zai.script = json_answer(b'{"lane":"zai"}')
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
        sock.sendall(b"".join(head % (len(body), body) for body in (HAIKU, SONNET, HAIKU)))
        got = b""
        while got.count(b'"lane"') < 3:
            got += sock.recv(65536)
    assert [part.split(b'"')[1] for part in got.split(b'"lane":')[1:]] == [b"zai", b"anthropic", b"zai"]


def test_two_thousand_pipelined_refusals_do_not_grow_the_stack(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        sock.sendall(b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        got = 0
        while got < 2000:
            got += sock.recv(1 << 20).count(b"HTTP/1.1 404 ")


def test_a_refused_head_is_answered_and_the_connection_closed(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert read_answer(sock).status == 400
        assert sock.recv(1) == b""


def test_a_body_over_the_limit_is_413_though_the_client_is_still_sending(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    where = policy_with(tmp_path, limits={"bodyBytes": 1000})
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=where) as proxy:
        answer = ask(proxy.port, "/v1/messages", b"x" * (4 << 20))
        assert (answer.status, json.loads(answer.payload)["error"]["type"]) == (413, "request_too_large")
        assert not zai.captured
        assert not anthropic.captured


def test_a_body_of_thirty_mebibytes_passes(proxy: Proxy, anthropic: Witness) -> None:
    body = b'{"model":"claude-sonnet-4-5","x":"' + b"y" * (30 << 20) + b'"}'
    assert ask(proxy.port, "/v1/messages", body).status == 200
    assert anthropic.captured[0].request.body == body


def test_a_slow_head_is_408(tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries) -> None:
    where = policy_with(tmp_path, limits={"headSeconds": 0.1})
    with (
        stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=where) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock,
    ):
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nHost:")
        assert read_answer(sock).status == 408


def test_an_idle_connection_is_closed(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    where = policy_with(tmp_path, limits={"idleSeconds": 0.1})
    with (
        stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=where) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock,
    ):
        send_request(sock, "GET", "/healthz", [], None)
        assert read_answer(sock, "GET").status == 200
        assert sock.recv(1) == b""


def test_an_http_1_0_client_gets_a_stream_without_chunks(proxy: Proxy, zai: Witness) -> None:
    zai.script = cut(SSE_HEAD, *map(chunk, EVENTS), b"0\r\n\r\n")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(HAIKU), HAIKU))
        answer = read_answer(sock)
    assert (answer.payload, answer.values(b"transfer-encoding")) == (b"".join(EVENTS), [])


def test_an_http_1_0_client_sees_a_broken_stream_break(proxy: Proxy, zai: Witness) -> None:
    zai.script = cut(SSE_HEAD, chunk(EVENTS[0]))
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(HAIKU), HAIKU))
        with pytest.raises(ConnectionError):
            read_answer(sock)


def test_a_client_that_does_not_read_stops_the_upstream(proxy: Proxy, zai: Witness) -> None:
    """Backpressure: while the client rests, the upstream's writes must come to a halt, well short of 24 MiB."""
    sent = [0]
    halted = threading.Event()
    whole = 24 << 20

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % whole)
        block = b"z" * (1 << 16)
        sock.settimeout(1.0)
        while sent[0] < whole:
            try:
                sent[0] += sock.send(block[: whole - sent[0]])
            except TimeoutError:
                halted.set()
                sock.settimeout(20)
        halted.set()
        return True

    zai.script = script
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        send_request(sock, "POST", "/v1/messages", [], HAIKU)
        assert halted.wait(20)
        held = sent[0]
        assert held < whole // 2, "the proxy took everything in though nobody reads"
        assert len(read_answer(sock).payload) == whole


def test_paths_that_are_not_served_are_404_and_methods_405(proxy: Proxy) -> None:
    for method, target, status in (
        ("GET", "/", 404),
        ("POST", "/v1/complete", 404),
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/healthz", 405),
        ("POST", "/v1/messages/", 404),
        ("POST", "//v1/messages", 404),
        ("POST", "/v1/./messages", 404),
        ("POST", "/v1%2fmessages", 404),
        ("DELETE", "/v1/messages", 405),
    ):
        body = HAIKU if method == "POST" else None
        assert ask(proxy.port, target, body, method=method).status == status, target


# -- policy, reload, drain ------------------------------------------------------------------------------


def test_a_denied_lane_is_403_and_nothing_leaves(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    with stage(tmp_path, anthropic, zai, canaries=canaries, CCP_BLOCK_CN="1", ZAI_API_KEY="") as proxy:
        answer = ask(proxy.port, "/v1/messages", HAIKU)
        assert (answer.status, json.loads(answer.payload)["error"]["type"]) == (403, "permission_error")
        assert ask(proxy.port, "/v1/messages", SONNET).status == 200
    assert not zai.captured
    assert len(anthropic.captured) == 1


def test_sighup_puts_another_policy_in_force_and_a_bad_one_does_not(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    where = Path(policy_with(tmp_path))
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=str(where)) as proxy:
        first = ready(proxy)[1]["policy"]["digest"]
        where.write_text('{"routes":[{"matchModel":"*sonnet*","provider":"zai"}]}')
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: ready(proxy)[1]["policy"]["digest"] != first, what="the new policy", seconds=20)
        ask(proxy.port, "/v1/messages", SONNET)
        ask(proxy.port, "/v1/messages", HAIKU)
        where.write_text('{"routes":[{"matchModel":"*","provider":"nobody"}]}')
        proxy.signal(signal.SIGHUP)
        page = wait_until(
            lambda: (p := ready(proxy)[1]["policy"])["reload_refused"] and p, what="the complaint", seconds=20
        )
        assert "$.routes[0].provider" in str(page["reload_refused"])
        assert ask(proxy.port, "/v1/messages", SONNET).status == 200
    assert [len(zai.captured), len(anthropic.captured)] == [2, 1]


def test_sigterm_lets_a_running_stream_end_and_takes_no_new_connection(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    release = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(SSE_HEAD + chunk(EVENTS[0]))
        assert release.wait(20)
        sock.sendall(b"".join(map(chunk, EVENTS[1:])) + b"0\r\n\r\n")
        return True

    zai.script = script
    with (
        stage(tmp_path, anthropic, zai, canaries=canaries) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock,
    ):
        send_request(sock, "POST", "/v1/messages", [], HAIKU)
        zai.wait_captured(1)
        port = proxy.port
        proxy.signal(signal.SIGTERM)
        wait_until(lambda: refuses(port), what="the listener's end", seconds=20)
        release.set()
        assert read_answer(sock).payload == b"".join(EVENTS)
        assert proxy.process.wait(20) == 0


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


# -- sockets, workers, TLS ------------------------------------------------------------------------------


def unix_ask(path: Path, body: bytes) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        send_request(sock, "POST", "/v1/messages", [], body)
        return read_answer(sock).status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_listens_on_a_unix_socket_that_only_its_user_can_open(
    tmp_path: Path, anthropic: Witness, zai: Witness, workers: str
) -> None:
    path = tmp_path / "ccp.sock"
    environ = {"ZAI_API_KEY": "k", "CCP_ANTHROPIC_URL": anthropic.url, "CCP_ZAI_URL": zai.url}
    proxy = Proxy(environ, tmp_path / "logs", ("--uds", str(path), "--workers", workers))
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        assert [unix_ask(path, HAIKU) for _ in range(4)] == [200] * 4
    finally:
        assert proxy.stop() == 0
    assert not path.exists()


def test_workers_share_one_port_and_one_log(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    with stage(tmp_path, anthropic, zai, canaries=canaries, args=("--workers", "2")) as proxy:
        assert [ask(proxy.port, "/v1/messages", HAIKU).status for _ in range(40)] == [200] * 40
        children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        wait_until(lambda: "starting another" in proxy.errors, what="the new worker", seconds=20)
        wait_until(lambda: answers(proxy.port), what="an answer", seconds=20)
    ids = [line["request_id"] for line in usage_lines(proxy)]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 41


def answers(port: int) -> bool:
    try:
        return ask(port, "/v1/messages", HAIKU).status == 200
    except ConnectionError:
        return False


@pytest.fixture
def broker(zai: Witness) -> Iterator[Callable[[Path], list[bytes]]]:
    """A broker that connects to lane zai's witness and refuses every other CONNECT."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(path: Path) -> list[bytes]:
        asked: list[bytes] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)
        allowed = zai.url.removeprefix("http://").encode()

        def serve() -> None:
            while True:
                try:
                    inside, _ = listener.accept()
                except OSError:
                    return
                line = inside.recv(65536).split(b"\r\n")[0]
                asked.append(line)
                if line.split(b" ")[1] != allowed:
                    inside.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                    inside.close()
                    continue
                inside.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                host, port = allowed.split(b":")
                outside = socket.create_connection((host.decode(), int(port)))
                for a, b in ((inside, outside), (outside, inside)):
                    threads.append(threading.Thread(target=pump, args=(a, b)))
                    threads[-1].start()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return asked

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(20)


def pump(source: socket.socket, target: socket.socket) -> None:
    with source:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_through_a_broker_each_upstream_is_asked_for_by_connect_and_a_refusal_is_counted(
    tmp_path: Path,
    anthropic: Witness,
    zai: Witness,
    canaries: Canaries,
    broker: Callable[[Path], list[bytes]],
) -> None:
    path = tmp_path / "broker.sock"
    asked = broker(path)
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_UPSTREAM_VIA=str(path)) as proxy:
        assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
        assert ask(proxy.port, "/v1/messages", SONNET).status == 502
        metrics = ask(proxy.port, "/metrics", method="GET").payload
    hosts = [witness.url.removeprefix("http://").encode() for witness in (zai, anthropic)]
    assert asked == [b"CONNECT %s HTTP/1.1" % host for host in hosts]
    assert b"\nccp_denied_hosts_total 1\n" in metrics
    assert not anthropic.captured


def test_an_upstream_on_a_unix_socket_is_reached(tmp_path: Path, zai: Witness) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "up.sock"))
    listener.listen()

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            sock.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    where = f"http+unix://{str(tmp_path / 'up.sock').replace('/', '%2F')}/base"
    proxy = Proxy({"ZAI_API_KEY": "k", "CCP_ANTHROPIC_URL": where, "CCP_ZAI_URL": zai.url}, tmp_path / "logs")
    try:
        assert ask(proxy.port, "/v1/messages", SONNET).payload == b"{}"
    finally:
        proxy.stop()
        thread.join(20)
        listener.close()


# -- a disk that is full --------------------------------------------------------------------------------


def test_when_the_log_cannot_grow_requests_flow_and_the_loss_is_counted(proxy: Proxy) -> None:
    """A file-size limit set from outside: the kernel cuts a line short, then takes none at all."""
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    size = (proxy.log_dir / "usage.jsonl").stat().st_size
    before = resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    assert [ask(proxy.port, "/v1/messages", HAIKU).status for _ in range(3)] == [200] * 3
    status, page = ready(proxy)
    assert (status, page["usage_log"]["lost"], page["usage_log"]["failing"]) == (503, 3, True)
    assert b"\nccp_usage_lines_lost_total 3\n" in ask(proxy.port, "/metrics", method="GET").payload
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, before)
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    assert ready(proxy)[0] == 200
    assert len(usage_lines(proxy)) == 2, "each line that is there is whole"
