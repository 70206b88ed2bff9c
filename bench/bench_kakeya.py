"""The verification controls against their figures: ECVRF, overlap, identity, the whole service, risk routing."""

import http.client
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OKPKey, import_key

from holdfast.bench.row import Row, percentile
from holdfast.clock import utc_now, wait_until
from holdfast.systems.kakeya import ecvrf, simulation
from holdfast.systems.kakeya.ecvrf import fast, plain
from holdfast.systems.kakeya.grounding import RagPolicy, overlap
from holdfast.systems.kakeya.identity import Expected, GatewayTrust, Peer, ReplayWindow, Verifier, identify
from holdfast.systems.kakeya.quickstart import AUDIENCE, ISSUER, Client, lay_out, open_client

RATE, SECONDS = 200, 10
"""Requests a second, open loop: a request is due at its time whether or not the one before was answered."""


def measure() -> Iterable[Row]:
    """All rows; the service's load goes over loopback and stops by itself."""
    yield from _ecvrf()
    yield from _overlap()
    yield from _identity()
    yield from _service()
    yield from _routing()


def _p95_ms(call: Callable[[], object], *, rounds: int) -> float:
    taken = []
    call()
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return percentile(taken, 0.95)


def _ecvrf() -> Iterator[Row]:
    secret, alpha = secrets.token_bytes(32), secrets.token_bytes(200)
    public, proof = ecvrf.public_key_of(secret), ecvrf.prove(secret, alpha)
    quick = _p95_ms(lambda: fast.trace_verifying(public, alpha, proof), rounds=2000)
    slow = _p95_ms(lambda: plain.trace_verifying(public, alpha, proof), rounds=100)
    yield Row(
        "ECVRF verify, p95", quick, "ms", 0.8, note="PyNaCl's points, 2,000 rounds; gate of the plan: 5 ms"
    )
    yield Row("ECVRF verify, plain, p95", slow, "ms", note="the reference in pure Python, 100 rounds")
    yield Row("plain / fast", slow / quick, "x")
    yield Row(
        "ECVRF prove, p95", _p95_ms(lambda: ecvrf.prove(secret, alpha), rounds=500), "ms", note="500 rounds"
    )


def _text(size: int, seed: int, alphabet: str = "abcdefghijklmnop") -> str:
    chance = random.Random(seed)
    words = ["".join(chance.choice(alphabet) for _ in range(chance.randint(2, 9))) for _ in range(3000)]
    text = " ".join(chance.choice(words) + chance.choice(["", "", "", ",", "."]) for _ in range(size // 4))
    return text.encode()[:size].decode(errors="ignore")


def _overlap() -> Iterator[Row]:
    policy = RagPolicy()
    half, whole = 5 * 1024, 10 * 1024

    def p95(size: int, alphabet: str = "abcdefghijklmnop") -> float:
        left, right = _text(size, 1, alphabet), _text(size, 2, alphabet)
        return _p95_ms(lambda: overlap(left, right, policy), rounds=500)

    yield Row(
        "overlap, 10 KB in all, p95",
        p95(half),
        "ms",
        1.0,
        note="5 KB against 5 KB, ASCII; gate of the plan: 10 ms",
    )
    yield Row("overlap, 10 KB against 10 KB, p95", p95(whole), "ms", 1.0, note="ASCII")
    yield Row("overlap, 10 KB in all, Cyrillic, p95", p95(half, "абвгдежзийклмноп"), "ms", 1.0)
    yield Row(
        "overlap, 10 KB in all, Devanagari, p95",
        p95(half, "कखगचजटडतदपिोे्"),
        "ms",
        10.0,
        note="joiners: the exact cutter; held to the plan's gate",
    )
    small, large = (_seconds_for(size) for size in (10 * 1024, 10 * 1024 * 1024))
    yield Row(
        "overlap, time per byte at 10 MB / 10 KB",
        large / small / 1024,
        "x",
        8.0,
        note="linear but for the caches of the machine; quadratic would be 1,024",
    )


def _seconds_for(size: int) -> float:
    left, right = _text(size, 1), _text(size, 2)
    rounds = 50 if size < 1 << 20 else 1
    start = time.perf_counter()
    for _ in range(rounds):
        overlap(left, right, RagPolicy())
    return (time.perf_counter() - start) / rounds


def _identity() -> Iterator[Row]:
    now = _now
    expected = Expected(ISSUER, AUDIENCE)
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        client = open_client(Path(folder), now)
    window = ReplayWindow(60, opened=0)
    stamps = iter([[(n.encode(), v.encode()) for n, v in client.stamp().items()] for _ in range(3001)])
    trust = GatewayTrust(frozenset({1}), (client.gateway_key,))

    def ask(headers: list[tuple[bytes, bytes]], peer: Peer | None) -> object:
        return identify(headers, peer, trust=trust, expected=expected, window=window, now=now())

    stamped = _p95_ms(lambda: ask(next(stamps), None), rounds=3000)
    yield Row("identity check, stamp, p95", stamped, "ms", 0.3, note="HMAC, window, claims; 3,000 rounds")
    bare = [(b"x-jwt-payload", client.payload({}).encode())]
    yield Row(
        "identity check, Unix peer, p95", _p95_ms(lambda: ask(bare, Peer(1, 1, 1)), rounds=3000), "ms", 0.3
    )
    key = OKPKey.generate_key("Ed25519", {"kid": "k"}, private=True)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(now()) + 600, "tenant_id": "t"}
    token = jwt.encode({"alg": "Ed25519", "kid": "k"}, claims, key, algorithms=["Ed25519"])
    verifier = Verifier((import_key(key.as_dict(private=False)),), expected)
    direct = _p95_ms(lambda: verifier.identity(token, now=now()), rounds=2000)
    yield Row("token verified directly, p95", direct, "ms", note="joserfc, Ed25519, 2,000 rounds")


def _service() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, _served(Path(name)) as (port, client):
        bodies = [client.submission(grounding=_grounding(n)) for n in range(RATE * SECONDS)]
        taken, late = _open_loop(port, client, bodies)
    note = f"{RATE} a second for {SECONDS} s, open loop, 8 connections, one core; stamped, signed, proven, 2 KB to ground"
    yield Row(
        "POST /v1/verify, p95", percentile(taken, 0.95), "ms", 8.0, note=f"{note}; gate of the plan: 200 ms"
    )
    yield Row("POST /v1/verify, p50", percentile(taken, 0.5), "ms", note="as above")
    yield Row(
        "requests that the client sent late",
        100 * late / len(taken),
        "%",
        note="by more than 1 ms; their wait is counted",
    )


def _grounding(n: int) -> dict[str, object]:
    return {"answer": _text(400, n), "sources": [_text(1600, n + 1)]}


@contextmanager
def _served(folder: Path) -> Iterator[tuple[int, Client]]:
    policy = lay_out(folder)
    command = [
        sys.executable,
        "-m",
        "holdfast.systems.kakeya",
        "serve",
        "--policy",
        str(policy),
        "--data",
        str(folder / "data"),
    ]
    with ExitStack() as stack:
        said = stack.enter_context((folder / "stderr").open("w+b"))
        one_core = str(min(os.sched_getaffinity(0)))
        process = subprocess.Popen(
            ["taskset", "-c", one_core, *command, "--port", "0"], stderr=said, env={"PATH": os.defpath}
        )
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGTERM)
        text = wait_until(
            lambda: t if (t := (folder / "stderr").read_text()).endswith("\n") else None,
            what="kakeya listens",
            seconds=30,
        )
        yield int(text.rsplit(":", 1)[1]), open_client(folder, _now)


def _open_loop(port: int, client: Client, bodies: list[bytes]) -> tuple[list[float], int]:
    """Milliseconds from the time that each request was due to its answer."""
    threads, taken, late = 8, [], [0]
    lock = threading.Lock()
    start = time.perf_counter() + 0.2

    def run(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(first, len(bodies), threads):
            due = start + number / RATE
            headers = client.stamp()
            pause = threading.Event()
            pause.wait(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            connection.request("POST", "/v1/verify", bodies[number], headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 202, body
            with lock:
                taken.append((time.perf_counter() - due) * 1000)
                late[0] += sent - due > 0.001
        connection.close()

    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(taken) == len(bodies)
    return taken, late[0]


def _routing() -> Iterator[Row]:
    setting, axes = simulation.committed()
    outcome = simulation.run(setting)
    note = f"{outcome.requests:,} simulated requests, distributions in systems/kakeya/simulation.json"
    yield Row(
        "risk routing, p95 below control",
        outcome.gain_percent,
        "%",
        25.0,
        more_is_better=True,
        note=f"promised 25 to 40; {note}",
    )
    yield Row("risk routing, p95 below control, at most", outcome.gain_percent, "%", 40.0)
    yield Row("risk routing, containment lost", -outcome.containment_delta_points, "points", 0.5, note=note)
    lost = 100 * (outcome.control_recall - outcome.canary_recall)
    yield Row(
        "risk routing, bad answers no longer held back",
        lost,
        "points",
        note="of bad answers alone; a harder measure",
    )
    for axis, value, moved in simulation.sensitivity(setting, axes):
        holds = 25 <= moved.gain_percent <= 40 and moved.containment_delta_points >= -0.5
        words = f"{axis} = {value:g}: fast {100 * moved.fast_share:.0f} %, containment {moved.containment_delta_points:+.2f} points"
        yield Row(
            "sensitivity: p95 below control",
            moved.gain_percent,
            "%",
            note=f"{words}; {'within' if holds else 'OUTSIDE'} the claim",
        )


def _now() -> float:
    return utc_now().timestamp()
