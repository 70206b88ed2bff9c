"""The queue and its sender against the real server, over real sockets, with everything that goes wrong."""

import json
import random
import shutil
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from holdfast.clock import utc_now
from holdfast.systems.agentos.errors import BadInputError, StoreError
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.ccc_client import CCCClient, Streamer, Uplink, start_reported
from holdfast.systems.agentos.integrations.local import LocalClient
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.licensing.grant import seal_grant
from holdfast.systems.agentos.privacy import Full, LocalOnly, Minimized
from holdfast.systems.agentos.server import Server, Store, Totals, parse_faults
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.depth import Depth, read_depth
from holdfast.systems.agentos.upload.endpoint import Endpoint
from holdfast.systems.agentos.upload.outbox import Kind, Outbox
from holdfast.systems.agentos.upload.retry import (
    Accepted,
    Halt,
    Policy,
    TooLarge,
    TryLater,
    classify_answer,
    delay,
    retry_after,
)
from holdfast.systems.agentos.upload.sender import Drained

KEY = "k-upload"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
FAST = Policy(batch=4, base=0.001, cap=1.0)
IMPATIENT = httpx.Timeout(0.3)
GRANT = seal_grant(
    license_id="lic",
    plan="test",
    entitlements=frozenset({"telemetry_minimized", "telemetry_full"}),
    expires=NOW,
    key_id="k",
)


@dataclass
class Desk:
    """One data folder and one server."""

    folder: DataFolder
    store: Store
    server: Server

    def record(
        self, tier: Minimized | Full | LocalOnly, turns: int, session_id: str = "s", *, end: bool = True
    ) -> None:
        with Recorder(self.folder.root) as recorder:
            fields = {"session_id": session_id}
            if isinstance(tier, LocalOnly):
                session = LocalClient(tier, recorder).start(fields)
            else:
                session = start_reported(tier, recorder, fields)
            for number in range(turns):
                session.log({"turn_id": f"t{number}", "model": "m", "tokens_in": 1, "tokens_out": 1})
            if end:
                session.end()

    @contextmanager
    def uplink(self, tier: Minimized | Full, *, key: str = KEY) -> Iterator[Uplink]:
        channel = Channel(tier, Endpoint.from_user(self.server.address), key, timeout=IMPATIENT)
        with Uplink(self.folder, Outbox(self.folder.outbox), channel) as uplink:
            yield uplink

    def upload(self, tier: Minimized | Full, policy: Policy = FAST, *, key: str = KEY) -> Drained:
        with self.uplink(tier, key=key) as uplink:
            return uplink.upload(policy)

    @property
    def depth(self) -> Depth:
        return read_depth(self.folder.outbox, now=utc_now())

    @property
    def totals(self) -> Totals:
        return self.store.totals()


@pytest.fixture(params=["tcp", "unix"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    store = Store(root / "server.sqlite")
    try:
        with Server(store, KEY, unix=root / "s" if request.param == "unix" else None) as server:
            yield Desk(DataFolder(root / "data"), store, server)
    finally:
        store.close()
        shutil.rmtree(root)


FAULTS = [
    "500*3",
    "503:0",
    "429",
    "reset*2",
    "lost*2",
    "late",
    "late,late",
    "short",
    "slow:0.05",
    "large",
    "drop",
    "stall",
    "500,lost,late,short,reset,429,lost",
]


@pytest.mark.parametrize("script", FAULTS)
def test_through_every_passing_fault_each_row_arrives_once(desk: Desk, script: str) -> None:
    """Nine turns, a start and an end in batches of four, and the session's numbers."""
    desk.record(Full(GRANT), 9)
    desk.server.fail(parse_faults(script))
    done = desk.upload(Full(GRANT), Policy(batch=4, base=0.001, cap=1.0, tries=9))
    assert done.stopped is None
    assert (desk.totals.events, desk.totals.turns, desk.totals.metrics, desk.totals.metrics_turns) == (
        11,
        9,
        1,
        9,
    )
    depth = desk.depth
    assert (depth.pending, depth.sent, depth.unaccounted, depth.set_aside) == (0, 12, 0, 0)


def test_what_arrives_late_and_out_of_order_counts_once_and_leaves_no_gap(desk: Desk) -> None:
    desk.record(Full(GRANT), 9)
    desk.server.fail(parse_faults("late,reset,late"))
    desk.upload(Full(GRANT))
    assert desk.totals.turns == 9
    assert desk.totals.replays > 0
    assert desk.store.usage()["m"] == {"samples": 9, "warnings": 0, "gaps": 0}


def test_the_server_sees_a_gap_where_a_row_is_missing(desk: Desk) -> None:
    """The control of the line above: with a row gone, the gap shows."""
    desk.record(Full(GRANT), 5)
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.outbox.catch_up(desk.folder.windows, now=NOW)
        rows = uplink.outbox.head([Kind.EVENT], 100)
        uplink.channel.send((*rows[:2], *rows[4:]))
    assert desk.store.usage()["m"]["gaps"] == 2


STOPS = {
    "deny*9": "refused the key (401)",
    "html*9": "speaks `text/html; charset=utf-8`, not JSON",
    "500*9": "answered 500",
    "503:3600": "answered 503",
    "reset*9": "connection to the CCC broke",
    "stall*9": "did not answer in time",
    "drop*9": "accounts for 0 of",
}


@pytest.mark.parametrize("script", STOPS)
def test_what_does_not_pass_stops_the_upload_and_loses_nothing(desk: Desk, script: str) -> None:
    desk.record(Full(GRANT), 3)
    desk.server.fail(parse_faults(script))
    done = desk.upload(Full(GRANT), Policy(batch=4, base=0.001, cap=0.01, tries=3))
    assert done.stopped is not None
    assert STOPS[script] in done.stopped or "broke" in done.stopped
    assert (desk.depth.pending, desk.depth.unaccounted) == (6, 0)
    assert desk.depth.last_error == done.stopped
    desk.server.heal()
    assert desk.upload(Full(GRANT)).stopped is None
    assert desk.totals.turns == 3
    assert desk.depth.last_error is None


def test_a_wrong_key_is_refused_by_the_server_and_stays_out_of_the_error(desk: Desk) -> None:
    desk.record(Full(GRANT), 1)
    done = desk.upload(Full(GRANT), key="wrong-key-7f")
    assert done.stopped is not None
    assert "refused the key" in done.stopped
    assert "wrong-key-7f" not in done.stopped + desk.folder.outbox.read_bytes().decode("latin-1")
    assert desk.totals.events == 0


def test_no_server_at_all_is_a_queue_and_not_a_loss(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with Recorder(tmp_path) as recorder:
        session = start_reported(Full(GRANT), recorder, {"session_id": "s"})
        channel = Channel(Full(GRANT), Endpoint.from_user("http://127.0.0.1:9"), KEY)
        with Uplink(folder, Outbox(folder.outbox), channel) as uplink:
            client = CCCClient(Full(GRANT), recorder, uplink, Policy(tries=1))
            session.log({"model": "m", "tokens_in": 1, "tokens_out": 1})
            done = client.end(session)
    assert done.stopped is not None
    assert "no connection to the CCC" in done.stopped
    assert read_depth(folder.outbox, now=utc_now()).pending == 4


def test_a_row_that_the_server_rejects_is_set_aside_and_the_rest_goes_on(desk: Desk) -> None:
    """A row that was tampered with in the queue: drops are counted and shown, never silent."""
    desk.record(Full(GRANT), 5)
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.outbox.catch_up(desk.folder.windows, now=NOW)
        uplink.outbox._db.execute(
            "UPDATE pending SET body = CAST(replace(CAST(body AS TEXT), '\"tokens_in\":1', '\"tokens_in\":-1') AS BLOB) WHERE id = 3"
        )
        done = uplink.upload(FAST)
    assert (done.stopped, done.set_aside) == (None, 1)
    assert (desk.depth.set_aside, desk.depth.unaccounted, desk.totals.turns) == (1, 0, 4)


def test_a_row_that_vanishes_from_the_queue_is_missed_by_the_books(desk: Desk) -> None:
    desk.record(Full(GRANT), 5)
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.outbox.catch_up(desk.folder.windows, now=NOW)
        uplink.outbox._db.execute("DELETE FROM pending WHERE id = 3")
    assert desk.depth.unaccounted == 1


def test_a_single_row_that_is_too_large_for_the_server_is_set_aside(desk: Desk) -> None:
    desk.record(Full(GRANT), 3)
    desk.server.fail(parse_faults("large*3"))
    done = desk.upload(Full(GRANT))
    assert (done.stopped, done.set_aside) == (None, 1)
    assert (desk.depth.pending, desk.depth.unaccounted) == (0, 0)


def test_local_sessions_of_the_same_log_are_never_sent_whatever_tier_comes_later(desk: Desk) -> None:
    desk.record(LocalOnly(), 4, "mine")
    desk.record(Minimized(GRANT), 2, "numbers")
    desk.record(Full(GRANT), 3, "all")
    desk.upload(Full(GRANT))
    assert {event["session_id"] for event in desk.store.bodies()} == {"all"}
    assert sorted(row["turns"] for row in desk.store.metrics()) == [2, 3]


def test_a_tier_turned_down_keeps_the_events_that_wait_at_home(desk: Desk) -> None:
    desk.record(Full(GRANT), 3)
    done = desk.upload(Minimized(GRANT))
    assert done.stopped is None
    assert (desk.totals.events, desk.totals.metrics) == (0, 1)
    assert desk.depth.pending == 5


def test_a_session_still_open_streams_and_goes_on_after_a_restart(desk: Desk) -> None:
    desk.record(Full(GRANT), 3, end=False)
    desk.upload(Full(GRANT))
    assert (desk.totals.turns, desk.totals.metrics) == (3, 0)
    with Recorder(desk.folder.root) as recorder:
        recorder.log(
            {
                "type": "turn",
                "v": 1,
                "session_id": "s",
                "turn_id": "t3",
                "model": "m",
                "tokens_in": 1,
                "tokens_out": 1,
                "input_kind": "text",
                "latency_ms": 0,
            }
        )
        recorder.end({"type": "session_end", "v": 1, "session_id": "s", "ended_at": "2026-06-01T00:00:00Z"})
    desk.upload(Full(GRANT))
    assert (desk.totals.turns, desk.totals.metrics_turns) == (4, 4)


def test_the_streamer_uploads_while_the_session_runs_and_once_more_at_its_end(desk: Desk) -> None:
    with Recorder(desk.folder.root) as recorder, desk.uplink(Full(GRANT)) as uplink:
        session = start_reported(Full(GRANT), recorder, {})
        with Streamer(uplink, every=0.005, policy=FAST):
            for _ in range(300):
                session.log({"model": "m", "tokens_in": 1, "tokens_out": 1})
    assert desk.totals.turns == 300


def test_a_queue_over_another_log_says_so(desk: Desk) -> None:
    desk.record(Full(GRANT), 3)
    desk.upload(Full(GRANT))
    desk.folder.windows.write_bytes(desk.folder.windows.read_bytes().replace(b'"s"', b'"z"'))
    with pytest.raises(StoreError, match="is not the log that rows were queued from"):
        desk.upload(Full(GRANT))


def test_a_queue_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one" * 50)
    with pytest.raises(StoreError, match="nothing was lost"):
        Outbox(path)


def test_tls_is_checked_against_the_given_authority_only(tmp_path: Path) -> None:
    """A server with a certificate of its own: trusted when its CA is given, refused when not."""
    authority = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, tmp_path / "key.pem")
    store = Store(tmp_path / "server.sqlite")
    with Server(store, KEY, tls=context) as server:
        desk = Desk(DataFolder(tmp_path / "data"), store, server)
        desk.record(Full(GRANT), 2)
        refused = desk.upload(Full(GRANT), Policy(tries=1))
        assert refused.stopped is not None
        assert "certificate is not trusted" in refused.stopped
        assert store.totals().events == 0
        channel = Channel(Full(GRANT), Endpoint.from_user(server.address), KEY, authority=authority)
        with Uplink(desk.folder, Outbox(desk.folder.outbox), channel) as uplink:
            assert uplink.upload(FAST).stopped is None
        assert store.totals().turns == 2
    store.close()


def make_certificate(folder: Path) -> Path:
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ccc test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_now() - timedelta(days=1))
        .not_valid_after(utc_now() + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    return folder / "cert.pem"


ADDRESSES = {
    "http://ccc.example": "without TLS",
    "http://10.0.0.1:80": "without TLS",
    "http://localhost:8080": "without TLS",
    "ftp://ccc.example": "neither https",
    "ccc.example": "neither https",
    "": "neither https",
    "unix:relative": "absolute path",
    "https://user:pw@ccc.example": "a host and a port only",
    "https://ccc.example/v2": "a host and a port only",
    "https://ccc.example?key=1": "a host and a port only",
    "https://ccc.example:99999": "cannot be read",
    "https://[::1": "cannot be read",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_that_would_give_the_key_away_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=ADDRESSES[text]) as caught:
        Endpoint.from_user(text)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://ccc.example",
        "https://ccc.example:8443/",
        "http://127.0.0.1:80",
        "http://[::1]:8080",
        "unix:/s",
    ],
)
def test_an_address_that_keeps_it_is_taken(text: str) -> None:
    assert Endpoint.from_user(text).base_url.startswith("http")


JSON = {"content-type": "application/json"}
ANSWERS: dict[str, tuple[int, dict[str, str], bytes, object]] = {
    "all new": (200, JSON, b'{"accepted": 2, "duplicates": 0, "rejected": []}', Accepted(2, 0)),
    "all known": (200, JSON, b'{"accepted": 0, "duplicates": 2}', Accepted(0, 2)),
    "one too few": (200, JSON, b'{"accepted": 1, "duplicates": 0}', TryLater),
    "one too many": (200, JSON, b'{"accepted": 2, "duplicates": 1}', TryLater),
    "negative": (200, JSON, b'{"accepted": 3, "duplicates": -1}', TryLater),
    "a bool": (200, JSON, b'{"accepted": true, "duplicates": 1}', TryLater),
    "a stranger's key rejected": (
        200,
        JSON,
        b'{"accepted": 1, "duplicates": 0, "rejected": [{"key": "z"}]}',
        TryLater,
    ),
    "one key rejected twice": (
        200,
        JSON,
        b'{"accepted": 0, "duplicates": 0, "rejected": [{"key": "a"}, {"key": "a"}]}',
        TryLater,
    ),
    "cut short": (200, JSON, b'{"accepted": 2', TryLater),
    "empty": (200, JSON, b"", TryLater),
    "a page": (200, {"content-type": "text/html"}, b"<html>", Halt),
    "no type": (200, {}, b"{}", Halt),
    "500": (500, JSON, b"", TryLater),
    "429": (429, {**JSON, "retry-after": "7"}, b"", TryLater("the CCC answered 429", 7.0)),
    "413": (413, JSON, b"", TooLarge),
    "401": (401, JSON, b"", Halt),
    "302": (302, {**JSON, "location": "https://elsewhere.example"}, b"", Halt),
    "404": (404, JSON, b"", Halt),
    "400": (400, JSON, b"", Halt),
    "204": (204, JSON, b"", Halt),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_means_one_thing(case: str) -> None:
    status, headers, body, meaning = ANSWERS[case]
    verdict = classify_answer(status, headers, body, keys=("a", "b"), now=NOW)
    assert verdict == meaning if not isinstance(meaning, type) else isinstance(verdict, meaning)


WAITS = {"7": 7.0, " 0 ": 0.0, "Mon, 01 Jun 2026 00:00:30 GMT": 30.0, "Sun, 31 May 2026 00:00:00 GMT": 0.0}


@pytest.mark.parametrize("text", WAITS)
def test_retry_after_is_seconds_or_a_date(text: str) -> None:
    assert retry_after(text, NOW) == WAITS[text]


@pytest.mark.parametrize("text", [None, "", "-1", "1.5", "soon", "٣", "Mon, 99 Foo"])
def test_any_other_retry_after_is_none(text: str | None) -> None:
    assert retry_after(text, NOW) is None


def test_backoff_grows_to_its_cap_and_is_jittered_from_zero() -> None:
    policy, dice = Policy(base=0.2, cap=30.0), random.Random(7)
    for tried, top in [(1, 0.2), (2, 0.4), (5, 3.2), (9, 30.0), (1000, 30.0)]:
        waits = [delay(tried, policy, dice) for _ in range(500)]
        assert 0 <= min(waits) < top * 0.05
        assert top * 0.95 < max(waits) <= top


class Waits(threading.Event):
    """A stop that never comes, and remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return False


def test_a_server_that_asks_for_patience_gets_it(desk: Desk) -> None:
    """`Retry-After` is the least wait: the jitter alone would be under a millisecond here."""
    desk.record(Full(GRANT), 1)
    desk.server.fail(parse_faults("503:7,429:0"))
    waits = Waits()
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.upload(Policy(base=0.001), waits)
    assert waits.seconds[0] == 7.0
    assert waits.seconds[1] < 0.01
    assert desk.totals.turns == 1


BAD_CALLS: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    "not JSON": ("/v1/events", b"{", {}, 400),
    "duplicate keys": ("/v1/events", b'{"schema": "ccc.events/1", "schema": 1}', {}, 400),
    "an empty batch": ("/v1/events", b'{"schema": "ccc.events/1", "batch": []}', {}, 400),
    "metrics without a key": ("/v1/metrics", b'{"schema": "ccc.metrics/1", "metrics": {}}', {}, 400),
    "metrics with a field more": (
        "/v1/metrics",
        b'{"schema": "ccc.metrics/1", "metrics": {"repo": 1}}',
        {"idempotency-key": "k"},
        400,
    ),
    "no such call": ("/v1/other", b"{}", {}, 404),
    "no key": ("/v1/events", b"{}", {"authorization": "Bearer nope"}, 401),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_the_server_refuses_a_bad_call_and_stores_nothing(desk: Desk, case: str) -> None:
    path, body, headers, status = BAD_CALLS[case]
    endpoint = Endpoint.from_user(desk.server.address)
    way = httpx.HTTPTransport(uds=str(endpoint.socket) if endpoint.socket else None)
    with httpx.Client(transport=way, base_url=endpoint.base_url) as client:
        answer = client.post(path, content=body, headers={"authorization": f"Bearer {KEY}", **headers})
    assert answer.status_code == status
    assert "error" in answer.json()
    assert (desk.totals.events, desk.totals.metrics) == (0, 0)


def test_the_usage_snapshot_becomes_model_health(desk: Desk) -> None:
    desk.record(Full(GRANT), 4)
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.upload(FAST)
        snapshot: dict[str, Any] = json.loads(uplink.channel.usage())
    assert snapshot["models"] == {"m": {"samples": 4, "warnings": 0, "gaps": 0}}


def test_a_batch_is_bounded_in_bytes_and_large_rows_arrive_all_the_same(desk: Desk) -> None:
    """Twenty turns of 900 KB: 18 MB, which the server would refuse as one body."""
    with Recorder(desk.folder.root) as recorder:
        session = start_reported(Full(GRANT), recorder, {})
        for _ in range(20):
            links = ["https://told.example/" + "x" * 1900] * 32
            session.log(
                {
                    "model": "m",
                    "tokens_in": 1,
                    "tokens_out": 1,
                    "value": {"links": links, "summary": "s" * 4000},
                }
            )
    with desk.uplink(Full(GRANT)) as uplink:
        uplink.outbox.catch_up(desk.folder.windows, now=NOW)
        uplink.outbox._db.execute(
            "UPDATE pending SET body = CAST(body || printf('%900000s', '') AS BLOB) WHERE id > 1"
        )
        head = uplink.outbox.head([Kind.EVENT], 500)
        assert 1 < len(head) < 6
        assert uplink.upload(Policy()).stopped is None
    assert desk.totals.turns == 20
