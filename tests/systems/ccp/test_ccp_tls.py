"""TLS to upstreams: the machine's roots, the host's name, an optional pin; and nothing sent before all hold."""

import hashlib
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from holdfast.systems.ccp.rig import Canaries, Captured, Proxy, Witness, ask, stage
from holdfast.systems.ccp.verify import EVENTS

HAIKU = b'{"model":"claude-haiku-4-5"}'


def certificate(folder: Path, address: str, key: ec.EllipticCurvePrivateKey) -> Path:
    """A self-signed certificate for `address`, a number or a name, with its key, in one PEM file."""
    numeric = address[0].isdigit()
    subject = x509.IPAddress(ipaddress.ip_address(address)) if numeric else x509.DNSName(address)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "witness")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{address}.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    """The witness's key."""
    return ec.generate_private_key(ec.SECP256R1())


def pin_of(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


@pytest.fixture
def pem(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """A certificate for the witness's own address."""
    return certificate(tmp_path, "127.0.0.1", key)


@pytest.fixture
def secure(pem: Path) -> Iterator[Witness]:
    """Lane zai's upstream, with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with closing(Witness(tls=context)) as witness:
        yield witness


def test_a_trusted_upstream_is_used_and_its_connection_kept(
    tmp_path: Path, anthropic: Witness, secure: Witness, canaries: Canaries, pem: Path
) -> None:
    with stage(tmp_path / "l", anthropic, secure, canaries=canaries, SSL_CERT_FILE=str(pem)) as proxy:
        assert [ask(proxy.port, "/v1/messages", HAIKU).status for _ in range(3)] == [200] * 3
        assert ask(proxy.port, "/readyz", method="GET").status == 200
    assert {c.connection for c in secure.captured} == {1}


def test_a_stream_passes_through_tls(
    tmp_path: Path, anthropic: Witness, secure: Witness, canaries: Canaries, pem: Path
) -> None:
    raw = b"".join(EVENTS)

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(raw)
        )
        sock.sendall(raw)
        return True

    secure.script = script
    with stage(tmp_path / "l", anthropic, secure, canaries=canaries, SSL_CERT_FILE=str(pem)) as proxy:
        assert ask(proxy.port, "/v1/messages", HAIKU).payload == raw


def refused(proxy_port: int) -> str:
    answer = ask(proxy_port, "/v1/messages", HAIKU)
    assert answer.status == 502
    return str(json.loads(answer.payload)["error"]["message"])


def test_an_upstream_that_no_root_vouches_for_gets_nothing(
    tmp_path: Path, anthropic: Witness, secure: Witness, canaries: Canaries
) -> None:
    with stage(tmp_path / "l", anthropic, secure, canaries=canaries) as proxy:
        assert "TLS is not accepted" in refused(proxy.port)
    assert not secure.captured
    assert canaries.zai_key.encode() not in secure.raw


def test_a_certificate_for_another_host_is_not_accepted(
    tmp_path: Path, anthropic: Witness, canaries: Canaries, key: ec.EllipticCurvePrivateKey
) -> None:
    other = certificate(tmp_path, "127.0.0.2", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other)
    with (
        closing(Witness(tls=context)) as wrong,
        stage(tmp_path / "l", anthropic, wrong, canaries=canaries, SSL_CERT_FILE=str(other)) as proxy,
    ):
        assert "TLS is not accepted" in refused(proxy.port)
        assert not wrong.captured


def test_the_pinned_key_is_accepted(
    tmp_path: Path,
    anthropic: Witness,
    secure: Witness,
    canaries: Canaries,
    pem: Path,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    with stage(
        tmp_path / "l", anthropic, secure, canaries=canaries, SSL_CERT_FILE=str(pem), CCP_PIN_ZAI=pin_of(key)
    ) as proxy:
        assert ask(proxy.port, "/v1/messages", HAIKU).payload == b'{"type":"message"}'


def test_a_trusted_certificate_with_another_key_than_the_pinned_one_gets_nothing(
    tmp_path: Path, anthropic: Witness, secure: Witness, canaries: Canaries, pem: Path
) -> None:
    pin = pin_of(ec.generate_private_key(ec.SECP256R1()))
    with stage(
        tmp_path / "l", anthropic, secure, canaries=canaries, SSL_CERT_FILE=str(pem), CCP_PIN_ZAI=pin
    ) as proxy:
        assert "TLS is not accepted" in refused(proxy.port)
    assert not secure.captured
    assert not secure.raw


def client_hello(name: str) -> bytes:
    """A real one, from the machine's own TLS library."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def tunnel(broker: Path, target: str, hello: bytes) -> bytes:
    """What a tunnel to `target` gives back when `hello` is the first thing in it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(str(broker))
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        granted = b""
        while not granted.endswith(b"\r\n\r\n"):
            granted += sock.recv(1)
        sock.sendall(hello)
        try:
            return sock.recv(100)
        except ConnectionError:
            return b""


def test_a_confined_proxy_speaks_tls_through_its_broker_and_another_name_is_refused_and_counted(
    tmp_path: Path, anthropic: Witness, canaries: Canaries, key: ec.EllipticCurvePrivateKey
) -> None:
    """The keys are made inside, so the broker sees no byte of a request; it reads the name in the hello."""
    named = certificate(tmp_path, "localhost", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(named)
    with closing(Witness(tls=context)) as secure:
        target = f"localhost:{secure.url.rpartition(':')[2]}"
        environ = {
            "ZAI_API_KEY": canaries.zai_key,
            "CCP_ANTHROPIC_URL": anthropic.url,
            "CCP_ZAI_URL": f"https://{target}",
            "CCP_SANDBOX": "bwrap",
            "SSL_CERT_FILE": str(named),
            "PATH": os.environ["PATH"],
        }
        proxy = Proxy(environ, tmp_path / "l", ("--port", "0", "--workers=2"))
        try:
            port = int(proxy.line.rsplit(":", 1)[1].split()[0])
            assert [ask(port, "/v1/messages", HAIKU).status for _ in range(4)] == [200] * 4
            assert canaries.zai_key.encode() in secure.captured[0].raw
            before = len(secure.captured)
            folders = [word.parent for word in broker_sockets(proxy.process.pid)]
            assert tunnel(folders[0] / "out.sock", target, client_hello("localhost"))[:1] == b"\x16"
            assert tunnel(folders[0] / "out.sock", target, client_hello("evil.example")) == b""
            text = ask(port, "/metrics", method="GET").payload.decode()
            assert 'ccp_broker_decisions_total{decision="sni_mismatch"} 1\n' in text
            assert len(secure.captured) == before
        finally:
            assert proxy.stop() == 0
    decisions = [
        json.loads(line)["decision"] for line in (tmp_path / "l/broker.jsonl").read_text().splitlines()
    ]
    assert (decisions[-1], set(decisions[:-1])) == ("sni_mismatch", {"allowed"})


def broker_sockets(pid: int) -> list[Path]:
    """Where the copies below `pid` serve: the value of their `--uds`."""
    found = []
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").iterdir():
            pids += [int(word) for word in (task / "children").read_text().split()]
        words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        if b"--uds" in words:
            found.append(Path(words[words.index(b"--uds") + 1].decode()))
    return found
