"""Self-confinement: the proxy inside has no network, and its broker carries to the policy's hosts only."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from holdfast.systems.ccp.broker import Broker, Decision, decide_connect, server_name
from holdfast.systems.ccp.origins import parse_base_url
from holdfast.systems.ccp.rig import Canaries, Proxy, Witness, ask, json_answer
from holdfast.systems.ccp.verify import EVENTS

HAIKU = b'{"model":"claude-haiku-4-5","stream":true}'
SONNET = b'{"model":"claude-sonnet-4-5"}'
API = parse_base_url("https://api.example.com", what="x").origin
LOCAL = parse_base_url("http://127.0.0.1:4711", what="x").origin
ALLOWED = {"api.example.com:443": API, "127.0.0.1:4711": LOCAL}

DECISIONS = {
    "allowed": ("api.example.com:443", "api.example.com", True, Decision.ALLOWED),
    "upper-case-name": ("api.example.com:443", "API.example.com", True, Decision.ALLOWED),
    "before-the-hello": ("api.example.com:443", None, False, Decision.ALLOWED),
    "no-name": ("api.example.com:443", None, True, Decision.MISSING_SNI),
    "another-name": ("api.example.com:443", "evil.example", True, Decision.SNI_MISMATCH),
    "another-port": ("api.example.com:8443", None, False, Decision.NOT_ALLOWED),
    "another-host": ("evil.example:443", None, False, Decision.NOT_ALLOWED),
    "a-suffix": ("api.example.com.evil.example:443", None, False, Decision.NOT_ALLOWED),
    "literal": ("93.184.216.34:443", None, False, Decision.IP_LITERAL),
    "literal-6": ("[::1]:443", None, False, Decision.IP_LITERAL),
    "literal-of-the-policy": ("127.0.0.1:4711", None, False, Decision.ALLOWED),
    "nothing": ("", None, False, Decision.NOT_ALLOWED),
    "name-first-then-list": ("evil.example:443", None, True, Decision.MISSING_SNI),
}


@pytest.mark.parametrize(("target", "sni", "greeted", "decision"), DECISIONS.values(), ids=DECISIONS.keys())
def test_the_broker_decides(target: str, sni: str | None, greeted: bool, decision: Decision) -> None:
    assert decide_connect(target, ALLOWED, sni=sni, greeted=greeted) is decision


def client_hello(name: str | None) -> bytes:
    """A real one, from the machine's own TLS library."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def test_the_name_in_a_client_hello_is_read() -> None:
    hello = client_hello("api.example.com")
    assert server_name(hello) == "api.example.com"
    assert server_name(client_hello(None)) is None
    for cut in range(len(hello)):
        with pytest.raises(ValueError, match="ClientHello"):
            server_name(hello[:cut])


def connect_through(folder: Path, target: str, zai: Witness) -> tuple[bytes, list[str]]:
    """One CONNECT to a real broker that allows the witness only: its answer, and the decisions logged."""
    origin = parse_base_url(zai.url, what="x").origin

    async def run() -> bytes:
        broker = Broker(folder, {origin.hostport: origin}, folder / "broker.jsonl")
        server = await broker.start_outward()
        reader, writer = await asyncio.open_unix_connection(folder / "out.sock")
        writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await broker.close()
        return answer

    answer = asyncio.run(run())
    lines = (folder / "broker.jsonl").read_text().splitlines()
    return answer, [json.loads(line)["decision"] for line in lines]


def test_the_broker_connects_to_the_policys_host(tmp_path: Path, zai: Witness) -> None:
    answer, decisions = connect_through(tmp_path, zai.url.removeprefix("http://"), zai)
    assert (answer[:12], decisions) == (b"HTTP/1.1 200", ["allowed"])


@pytest.mark.parametrize(
    ("target", "reason"), [("evil.example:80", "not_allowed"), ("127.0.0.1:1", "ip_literal")]
)
def test_the_broker_refuses_any_other_host(tmp_path: Path, zai: Witness, target: str, reason: str) -> None:
    answer, decisions = connect_through(tmp_path, target, zai)
    assert (answer[:12], decisions, zai.connections) == (b"HTTP/1.1 403", [reason], 0)


def test_the_brokers_log_is_bounded_and_the_newest_lines_stay(tmp_path: Path) -> None:
    async def run() -> None:
        broker = Broker(tmp_path, {}, tmp_path / "broker.jsonl", log_bytes=1000)
        server = await broker.start_outward()
        for _ in range(60):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "out.sock")
            writer.write(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
            assert (await reader.read())[:12] == b"HTTP/1.1 403"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await broker.close()

    asyncio.run(run())
    files = sorted(tmp_path.glob("broker.jsonl*"))
    assert [file.name for file in files] == ["broker.jsonl", "broker.jsonl.1"]
    for file in files:
        assert 0 < file.stat().st_size <= 1000
        assert {json.loads(line)["decision"] for line in file.read_text().splitlines()} == {"not_allowed"}
    assert json.loads((tmp_path / "decisions.json").read_text())["not_allowed"] == 60


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def inside(log_dir: Path) -> list[int]:
    """The confined copies: python processes that serve on a Unix socket with this log folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--uds" in words and str(log_dir).encode() in words and b"python" in words[0]:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("isolation", ["seccomp", "bwrap"])
def test_a_confined_proxy_serves_both_lanes_and_has_no_network(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries, isolation: str
) -> None:
    raw = b"".join(EVENTS)
    zai.script = json_answer(raw)
    environ = {
        "ZAI_API_KEY": canaries.zai_key,
        "CCP_ANTHROPIC_URL": anthropic.url,
        "CCP_ZAI_URL": zai.url,
        "CCP_SANDBOX": isolation,
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    }
    proxy = Proxy(environ, tmp_path / "logs")
    try:
        port = int(proxy.line.rsplit(":", 1)[1].split()[0])
        assert ask(port, "/v1/messages", HAIKU).payload == raw
        assert ask(port, "/v1/messages", SONNET, [("X-Api-Key", canaries.api_key)]).status == 200
        pids = inside(tmp_path / "logs")
        assert pids
        for pid in pids:
            facts = status_of(pid)
            assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1")
            if isolation == "bwrap":
                assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
                assert facts["CapEff"] == "0" * 16
        assert str(canaries.api_key).encode() in anthropic.captured[0].raw
    finally:
        assert proxy.stop() == 0
    assert not inside(tmp_path / "logs")
    decisions = [json.loads(line) for line in (tmp_path / "logs/broker.jsonl").read_text().splitlines()]
    assert {entry["decision"] for entry in decisions} == {"allowed"}
    assert {entry["target"] for entry in decisions} == {
        w.url.removeprefix("http://") for w in (anthropic, zai)
    }
    assert proxy.errors == ""


@pytest.mark.planted
def test_planted_the_same_facts_of_an_unconfined_proxy_do_not_pass(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """What the test above asserts of the inside is false of a proxy that only says that it is confined."""
    environ = {"ZAI_API_KEY": canaries.zai_key, "CCP_ANTHROPIC_URL": anthropic.url, "CCP_ZAI_URL": zai.url}
    proxy = Proxy(environ, tmp_path / "logs", ("--uds", str(tmp_path / "s.sock")))
    try:
        assert inside(tmp_path / "logs") == [proxy.process.pid]
        ours = status_of(proxy.process.pid)
        here = status_of(int(Path("/proc/self").readlink().name))
        assert (ours["Seccomp"], ours["NoNewPrivs"]) == (here["Seccomp"], here["NoNewPrivs"])
        assert Path(f"/proc/{proxy.process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    finally:
        proxy.stop()


REFUSED = {
    "profile-with-inet": {"CCP_SECCOMP_PROFILE": "standard-net"},
    "profile-missing": {"CCP_SECCOMP_PROFILE": "/nowhere/p.json"},
    "broker-twice": {"CCP_UPSTREAM_VIA": "/run/b.sock"},
    "unix-upstream": {"CCP_ZAI_URL": "http+unix://%2Frun%2Fx.sock"},
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_honoured_refuses_to_start(tmp_path: Path, wrong: dict[str, str]) -> None:
    environ = {"ZAI_API_KEY": "k", "CCP_SANDBOX": "seccomp", "PATH": "/usr/bin:/bin", **wrong}
    with pytest.raises(RuntimeError) as caught:
        Proxy(environ, tmp_path / "logs")
    assert next(iter(wrong)) in str(caught.value) or "CCP_SANDBOX" in str(caught.value)
    assert "internal error" not in str(caught.value)
