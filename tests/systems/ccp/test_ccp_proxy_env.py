"""Proxies of the environment: ignored unless asked for; then they carry CONNECT and see no byte of a request."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.policy import DEFAULT_POLICY
from holdfast.systems.ccp.rig import Canaries, Witness, ask, stage
from holdfast.systems.ccp.settings import build_lanes, build_vias, read_settings
from holdfast.tests.systems.ccp.test_ccp_tls import certificate

HAIKU = b'{"model":"claude-haiku-4-5"}'
NAME = "api.example.test"
KEY = {"ZAI_API_KEY": "k"}


class ConnectProxy:
    """Takes CONNECT to any host, and carries it to one port; keeps what it was asked and what went by."""

    def __init__(self, port: int, *, answer: bytes = b"200 OK") -> None:
        self._port, self._answer = port, answer
        self.heads: list[bytes] = []
        self.carried = bytearray()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._carry, args=(client,), daemon=True))
            self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n") and (piece := client.recv(1)):
                head += piece
            self.heads.append(head)
            client.sendall(b"HTTP/1.1 " + self._answer + b"\r\n\r\n")
            if not self._answer.startswith(b"200"):
                return
            with socket.create_connection(("127.0.0.1", self._port)) as upstream:
                back = threading.Thread(target=self._pump, args=(upstream, client), daemon=True)
                back.start()
                self._pump(client, upstream, keep=True)
                back.join(10)

    def _pump(self, source: socket.socket, sink: socket.socket, *, keep: bool = False) -> None:
        try:
            while data := source.recv(1 << 16):
                if keep:
                    self.carried += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # either end has gone, which ends the other

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path, NAME, ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def secure(pem: Path) -> Iterator[Witness]:
    """Lane zai's upstream, with TLS, by a name that nobody can look up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with closing(Witness(tls=context)) as witness:
        yield witness


@pytest.mark.parametrize(("asked", "status"), [("1", 200), ("0", 502), ("", 502)])
def test_a_proxy_of_the_environment_is_used_when_and_only_when_asked_for(
    tmp_path: Path,
    anthropic: Witness,
    secure: Witness,
    canaries: Canaries,
    pem: Path,
    asked: str,
    status: int,
) -> None:
    with closing(ConnectProxy(int(secure.url.rpartition(":")[2]))) as between:
        extra = {
            "CCP_ZAI_URL": f"https://{NAME}",
            "HTTPS_PROXY": between.url,
            "https_proxy": between.url,
            "ALL_PROXY": between.url,
            "HTTP_PROXY": between.url,
            "SSL_CERT_FILE": str(pem),
            "CCP_PROXY_FROM_ENV": asked,
        }
        with stage(tmp_path / "l", anthropic, secure, canaries=canaries, **extra) as proxy:
            assert ask(proxy.port, "/v1/messages", HAIKU).status == status
            assert ask(proxy.port, "/v1/messages", b'{"model":"claude-sonnet-4-5"}').status == 200
    wanted = [f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n".encode()] if asked == "1" else []
    assert between.heads == wanted
    assert bool(between.carried) == (asked == "1")
    assert canaries.zai_key.encode() not in bytes(between.carried)


def test_a_proxy_that_refuses_is_told_apart_from_an_upstream_that_fails(
    tmp_path: Path, anthropic: Witness, secure: Witness, canaries: Canaries
) -> None:
    with closing(ConnectProxy(1, answer=b"407 Proxy Authentication Required")) as between:
        extra = {
            "CCP_ZAI_URL": f"https://{NAME}",
            "HTTPS_PROXY": between.url,
            "CCP_PROXY_FROM_ENV": "1",
        }
        with stage(tmp_path / "l", anthropic, secure, canaries=canaries, **extra) as proxy:
            answer = ask(proxy.port, "/v1/messages", HAIKU)
    assert (answer.status, b"proxy refuses" in answer.payload) == (502, True)


VIAS = {
    "not-asked": ({"HTTPS_PROXY": "http://p:1"}, {}),
    "asked": (
        {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://p:1/"},
        {"anthropic": "p:1", "zai": "p:1"},
    ),
    "bypassed": (
        {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://p:1", "NO_PROXY": ".z.ai"},
        {"anthropic": "p:1"},
    ),
    "bypassed-all": ({"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://p:1", "NO_PROXY": "a, *"}, {}),
    "a-suffix-is-no-domain": (
        {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://p:1", "NO_PROXY": "i.z.ai,hropic.com"},
        {"anthropic": "p:1", "zai": "p:1"},
    ),
    "loopback": (
        {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://[::1]:9", "CCP_ZAI_URL": "http://127.0.0.1:5"},
        {"anthropic": "[::1]:9"},
    ),
    "plain-only": ({"CCP_PROXY_FROM_ENV": "1", "HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, {}),
}


@pytest.mark.parametrize(("environ", "vias"), VIAS.values(), ids=VIAS.keys())
def test_which_lanes_go_through_a_proxy(environ: dict[str, str], vias: dict[str, str]) -> None:
    settings = read_settings({**KEY, **environ})
    assert build_vias(build_lanes(DEFAULT_POLICY, settings), settings) == vias


REFUSED = {
    "word": {"CCP_PROXY_FROM_ENV": "yes"},
    "login": {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://me:hunter2@p:1"},
    "socks": {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "socks5://p:1"},
    "sandbox": {"CCP_PROXY_FROM_ENV": "1", "HTTPS_PROXY": "http://p:1", "CCP_SANDBOX": "bwrap"},
}


@pytest.mark.parametrize("environ", REFUSED.values(), ids=REFUSED.keys())
def test_a_proxy_that_cannot_be_used_is_refused_and_not_shown(environ: dict[str, str]) -> None:
    settings = read_settings({**KEY, **environ})
    with pytest.raises(ConfigError, match="PROXY") as caught:
        build_vias(build_lanes(DEFAULT_POLICY, settings), settings)
    assert "hunter2" not in str(caught.value)
