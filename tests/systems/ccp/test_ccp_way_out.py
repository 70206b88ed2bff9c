"""No TCP socket made outside enters the proxy's sandbox; one that did would be a way out, and the probe finds it."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.sandbox import Command, Further, Isolation, Spawner, confine, load_profile, parse_further
from holdfast.systems.ccp.rig import Canaries, Proxy, Witness, ask

MARKER = "found-a-way-out"


@pytest.fixture
def outside() -> Iterator[socket.socket]:
    """A listener on the host's loopback that nothing inside may reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def probe(
    isolation: Isolation,
    outside: socket.socket,
    *,
    handed: Mapping[int, int] | None = None,
    further: Further | None = None,
) -> dict[str, Any]:
    """What the probe says from where a confined proxy stands: the same isolation and profile."""
    host, port = outside.getsockname()
    argv = (sys.executable, "-m", "holdfast.systems.ccp.way_out", f"{host}:{port}", MARKER)
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with Spawner() as spawner:
            descriptors = {0: null, 1: write, 2: 2, **(handed or {})}
            profile = load_profile("standard")
            with confine(
                spawner,
                isolation,
                Command(argv),
                profile=profile,
                descriptors=descriptors,
                further=further,
            ) as confined:
                assert confined.wait(30) == 0
        os.close(write)
        write = -1
        with os.fdopen(read) as file:
            read = -1
            answer: dict[str, Any] = json.loads(file.read())
        return answer
    finally:
        for fd in (read, write, null):
            if fd >= 0:
                os.close(fd)


def arrived(outside: socket.socket) -> bytes:
    """What has come to the listener outside; nothing when nobody connected."""
    outside.setblocking(False)
    try:
        connection, _ = outside.accept()
    except BlockingIOError:
        return b""
    with connection:
        connection.settimeout(5)
        return connection.recv(100)


@pytest.mark.parametrize("isolation", [Isolation.BWRAP, Isolation.SECCOMP])
def test_with_what_the_proxy_is_handed_there_is_no_way_out(
    isolation: Isolation, outside: socket.socket
) -> None:
    answer = probe(isolation, outside)
    assert (answer["inet"], answer["escaped"]) == ([], [])
    assert answer["own"] != "connected"
    assert arrived(outside) == b""


@pytest.mark.planted
@pytest.mark.parametrize("isolation", [Isolation.BWRAP, Isolation.SECCOMP])
def test_planted_a_listener_that_is_passed_in_is_a_way_out(
    isolation: Isolation, outside: socket.socket
) -> None:
    """In its own network namespace, under the same filter: the listener turns into a connection to the host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = probe(isolation, outside, handed={7: listener.fileno()})
    assert (answer["inet"], answer["escaped"]) == ([7], [7])
    assert answer["own"] != "connected"
    assert arrived(outside) == MARKER.encode()


def test_the_control_arm_reaches_the_listener(outside: socket.socket) -> None:
    """Without a sandbox the probe's own socket connects: its denial inside is the sandbox's doing."""
    assert probe(Isolation.NONE, outside)["own"] == "connected"
    assert arrived(outside) == MARKER.encode()


def test_a_shared_network_does_not_open_a_way_while_the_profile_holds(outside: socket.socket) -> None:
    """`--share-net` by --allow-weaker takes one of the two walls away; the probe runs with the same arguments."""
    further = parse_further("--share-net", source="X", allow_weaker=True)
    answer = probe(Isolation.BWRAP, outside, further=further)
    assert (answer["escaped"], answer["own"] == "connected") == ([], False)


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(entry.readlink())
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(link[8:-1])
    return found


def inet_inodes() -> set[str]:
    """Every TCP socket of this network namespace."""
    lines = [
        line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line.split()[9] for line in lines} - {"0"}


def below(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def copies(pid: int) -> list[int]:
    """The confined copies among a proxy's descendants: they serve on the broker's Unix socket."""
    return [
        each
        for each in below(pid)
        if b"--uds" in (words := Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0"))
        and b"python" in words[0]
    ]


@pytest.mark.parametrize("isolation", ["bwrap", "seccomp"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_proxy_holds_no_inet_socket_inside_while_it_serves(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries, isolation: str, workers: int
) -> None:
    environ = {
        "ZAI_API_KEY": canaries.zai_key,
        "CCP_ANTHROPIC_URL": anthropic.url,
        "CCP_ZAI_URL": zai.url,
        "CCP_SANDBOX": isolation,
        "PATH": os.environ["PATH"],
    }
    proxy = Proxy(environ, tmp_path / "logs", ("--port", "0", f"--workers={workers}"))
    try:
        port = int(proxy.line.rsplit(":", 1)[1].split()[0])
        for _ in range(8):
            assert ask(port, "/v1/messages", b'{"model":"claude-haiku-4-5"}').status == 200
        inside = copies(proxy.process.pid)
        assert len(inside) == workers + (workers > 1)
        assert inet_inodes() & sockets_of(proxy.process.pid), "the broker itself holds the listener"
        for pid in inside:
            assert not inet_inodes() & sockets_of(pid)
    finally:
        assert proxy.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "logs/usage.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["relayed"] * 8
