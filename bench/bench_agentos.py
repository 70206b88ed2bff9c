"""The CCC adapter: a turn into the log, as the log grows; backfill; upload; and what rereading the log would cost."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, process_time

from holdfast.bench.row import Row, percentile
from holdfast.clock import utc_now
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.ccc_client import Uplink, start_reported
from holdfast.systems.agentos.integrations.local import LocalClient, Session
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.journal import Sync
from holdfast.systems.agentos.licensing.grant import seal_grant
from holdfast.systems.agentos.metrics.rollup import Rollup
from holdfast.systems.agentos.privacy import Full, LocalOnly
from holdfast.systems.agentos.tools.backfill_ccp import Progress, backfill, find_sources
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.endpoint import Endpoint
from holdfast.systems.agentos.upload.outbox import Outbox

TURN = {
    "model": "glm-4.6",
    "subagent": "coder",
    "tokens_in": 1200,
    "tokens_out": 340,
    "latency_ms": 812.5,
    "attribution": {"glm-4.6": 0.75, "claude-haiku": 0.25},
    "capacity_used": 0.4,
    "measurement": {"cls": "feature", "churn_score": 0.2, "feature_delta": 1, "errors": 0},
    "cost": {"provider": "zai", "unit_costs": {"in": 0.6, "out": 2.2}, "estimated_usd": 0.0012},
}
EVENTS = 1_000_000
WINDOW = 5_000
USAGE = (
    '{"schema":"ccp.usage/1","ts":"2026-06-01T00:00:00Z","request_id":"r-%d","method":"POST","path":"/v1/messages",'
    '"model":"glm-4.6","lane":"zai","status":200,"outcome":"relayed","error":null,"stream":true,"request_bytes":20480,'
    '"response_bytes":1024,"sha256_upstream":"' + "a" * 64 + '","sha256_downstream":"' + "a" * 64 + '",'
    '"first_byte_ms":412.25,"duration_ms":2312.5,"retried":false,"input_tokens":1200,"output_tokens":340}\n'
)


def measure() -> Iterable[Row]:
    """All figures; about a minute and a half on a quiet machine, most of it the million events."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        root = Path(folder)
        yield from measure_log(root / "log")
        yield from measure_synced(root / "synced")
        yield from measure_backfill(root / "proxy")
        yield from measure_upload(root)


def measure_log(root: Path) -> Iterator[Row]:
    """One turn, p50, along the way to a million; the millionth beside the ten thousandth in turns, so that
    what else the machine does meets both; then rereading the log each turn, at the same sizes."""
    with Recorder(root / "long") as long, Recorder(root / "short") as short:
        late = LocalClient(LocalOnly(), long).start({})
        for size in (10_000, 100_000, EVENTS):
            while long.turns < size - WINDOW:
                late.log(TURN)
            yield _turn_row(size, [timed(late) for _ in range(WINDOW)])
        early = LocalClient(LocalOnly(), short).start({})
        for _ in range(10_000):
            early.log(TURN)
        pairs = [(timed(early), timed(late)) for _ in range(WINDOW)]
    growth = statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)
    yield Row(
        "growth of that from 10,000 to 1,000,000",
        growth,
        "x",
        limit=1.25,
        note="measured in turns; flat is 1",
    )
    for size in (1_000, 10_000, 100_000, EVENTS):
        spent = reread_us(root / "long" / "windows.jsonl", size)
        note = "one refresh; what a client without a checkpoint pays"
        yield Row(f"rereading the log each turn, at {size:,} events", spent, "us", note=note)


def _turn_row(size: int, times: list[float]) -> Row:
    note = f"validate, append, sum up; no fsync; p99 {percentile(times, 0.99):.0f} us; {WINDOW} turns"
    return Row(f"log a turn at {size:,} events, p50", statistics.median(times), "us", limit=60.0, note=note)


def timed(session: Session) -> float:
    """Microseconds of one `log`."""
    start = perf_counter_ns()
    session.log(TURN)
    return (perf_counter_ns() - start) / 1000


def reread_us(log: Path, size: int) -> float:
    """One refresh that reads the log again: the first `size` lines."""
    start = perf_counter_ns()
    rollup = Rollup()
    with log.open("rb") as file:
        for _, line in zip(range(size), file, strict=False):
            rollup.add(json.loads(line), 0)
    return (perf_counter_ns() - start) / 1000


def measure_synced(root: Path) -> Iterator[Row]:
    """The same turn, on the disk before it is acknowledged."""
    with Recorder(root, sync=Sync.EACH) as recorder:
        session = LocalClient(LocalOnly(), recorder).start({})
        times = [timed(session) for _ in range(300)]
    note = f"--sync each: fdatasync a turn; p99 {percentile(times, 0.99):.0f} us; this machine's disk"
    yield Row("log a turn with fsync, p50", statistics.median(times), "us", note=note)


def measure_backfill(root: Path) -> Iterator[Row]:
    """Megabytes a CPU second, of a clean log and of one with something wrong in every eighth line."""
    archive = root / "logs" / "archive"
    archive.mkdir(parents=True)
    path = archive / "usage-1.jsonl"
    lines = [USAGE % number for number in range(8)]
    hostile = [*lines[:6], lines[6].rstrip("\n"), lines[7], lines[0][:200] + "\n" + lines[0][200:], "\0\0#\n"]
    for name, block, limit in (("clean", lines, 60.0), ("mangled", hostile, None)):
        path.write_text("".join(block) * (100_000_000 // sum(map(len, block))))
        size = path.stat().st_size
        start = process_time()
        found = backfill(find_sources(root), Progress(size, None))
        rate = size / 1e6 / (process_time() - start)
        note = f"{size / 1e6:.0f} MB, {found['records']:,} records, {found['unreadable']['bytes']:,} bytes unreadable"
        yield Row(f"backfill, {name} log", rate, "MB/s a core", limit=limit, more_is_better=True, note=note)


def measure_upload(root: Path, events: int = 20_000) -> Iterator[Row]:
    """From the log to the server's acknowledgement, in one client, with a server in its own process."""
    grant = seal_grant(
        license_id="b", plan="b", entitlements=frozenset({"telemetry_full"}), expires=utc_now(), key_id="b"
    )
    folder = DataFolder(root / "upload")
    with Recorder(folder.root) as recorder:
        session = start_reported(Full(grant), recorder, {})
        for _ in range(events):
            session.log(TURN)
    with serving(root) as address:
        channel = Channel(Full(grant), Endpoint.from_user(address), "bench-key")
        with Uplink(folder, Outbox(folder.outbox), channel) as uplink:
            start = perf_counter_ns()
            done = uplink.upload()
            seconds = (perf_counter_ns() - start) / 1e9
    note = f"{done.sent:,} events in batches of 500 over TCP, queue on disk, server with SQLite; {done.stopped or 'all sent'}"
    yield Row("upload", done.sent / seconds, "events/s", limit=5000.0, more_is_better=True, note=note)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """A server in a process of its own; ends with its standard input."""
    key = root / "key"
    key.write_text("bench-key\n")
    key.chmod(0o600)
    argv = [sys.executable, "-m", "holdfast.systems.agentos", "ccc", "serve", "--key-file", str(key)]
    with subprocess.Popen(
        [*argv, "--store", str(root / "server.sqlite")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("AGENTOS_")},
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().decode().split()[-1]
        assert server.stdin is not None
        server.stdin.close()
