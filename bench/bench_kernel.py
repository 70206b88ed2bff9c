"""The agent kernel: decisions and audit entries, against limits and against peers in the same run.

Decisions are timed one by one and their median is given; peers decide the same call under rules of the same
shape and number. Audit figures stand beside plain SQLite writing the very rows that the log wrote.
"""

import shutil
import sqlite3
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter_ns

from holdfast.bench.row import Row
from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog, LogOptions
from holdfast.systems.kernel.audit.seal import load_or_make_signer, read_witness
from holdfast.systems.kernel.audit.verify import MAX_BUFFER, Verdict, verify
from holdfast.systems.kernel.builtin_rules import Protected, builtin_rules
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import Policy, compile_policy
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.resolve import Resolver
from holdfast.systems.kernel.rules import Action, Match, Rule
from holdfast.systems.kernel.tokens import Claim, TokenStore

ROUNDS = 20_000
ENTRIES = 50_000
VERIFIED = 1_000_000
PEER = Peer("mnt:1", 1, 1)
REQUEST = Request(
    "fs.read", "agent", ResolvedPath.judged("/srv/src/m7/main.py", "/srv"), "core_plugin", "run"
)
INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?)"


def measure() -> Iterator[Row]:
    """All figures; about a minute on two quiet cores."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        yield from decisions(Path(folder))
        yield from peers()
        yield from audit(Path(folder))


def p50_us(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median of single calls, the timer's own cost taken off."""

    def timed(function: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds):
            start = perf_counter_ns()
            function()
            times.append(perf_counter_ns() - start)
        return statistics.median(times) / 1000

    timed(call)
    return timed(call) - timed(lambda: None)


# -- decisions --------------------------------------------------------------------------------------


def policy_of(count: int) -> Policy:
    """`count` allow rules of one syscall, each for a folder, one denial for all, and the built-ins."""
    rules = [
        Rule(f"r{n}", Match(frozenset({"fs.read"}), None, PathSet.parse([f"src/m{n}/**"])), Action.ALLOW)
        for n in range(count - 1)
    ]
    keys = Rule("keys", Match(None, None, PathSet.parse(["**/*.pem"])), Action.DENY)
    own = Path("/var/lib/kernel")
    builtins = builtin_rules(Protected(own / "policy.yaml", own / "audit.db", own / "state.db"))
    return compile_policy((*builtins, *rules, keys))


def decisions(folder: Path) -> Iterator[Row]:
    """The engine, the token path, and path resolution on its own row."""
    small, large = policy_of(100), policy_of(10_000)
    at_100 = p50_us(lambda: decide(REQUEST, small, 1))
    at_10000 = p50_us(lambda: decide(REQUEST, large, 1))
    yield Row(
        "decision, 100 rules, p50",
        at_100,
        "us",
        5.0,
        note="resolved path; all rules of the call's own syscall",
    )
    yield Row("decision, 10,000 rules, p50", at_10000, "us")
    yield Row("decision, 10,000 rules over 100", at_10000 / at_100, "x", 1.3)
    store = TokenStore("/work")
    token = store.issue(PEER, Claim("fs.read", ("src/m7/main.py",), uses=10_000), small, 0)

    def by_token() -> object:
        check = store.check(token.sealed, REQUEST, PEER, 1)
        return decide(REQUEST, small, 1, check)

    yield Row("decision by token with its HMAC, p50", p50_us(by_token), "us", 10.0)
    (folder / "src").mkdir()
    (folder / "src" / "main.py").write_text("x")
    resolver = Resolver(folder)
    yield Row(
        "path resolution with open and close, p50",
        p50_us(lambda: resolver.open("src/main.py", "fs.read").close()),
        "us",
    )


def peers() -> Iterator[Row]:
    """cedarpy and pycasbin with 100 rules of the same shape, the policy parsed beforehand."""
    try:
        import cedarpy
    except ImportError:
        yield Row("cedarpy, 100 rules", 0.0, "us", note="not measured: cedarpy is not installed")
    else:
        yield Row(
            "cedarpy, 100 rules, p50",
            p50_us(_cedar(cedarpy), 2_000),
            "us",
            note=f"cedarpy {_version('cedarpy')}",
        )
    try:
        import casbin
    except ImportError:
        yield Row("pycasbin, 100 rules", 0.0, "us", note="not measured: pycasbin is not installed")
    else:
        yield Row(
            "pycasbin, 100 rules, p50",
            p50_us(_casbin(casbin), 1_000),
            "us",
            note=f"pycasbin {_version('pycasbin')}",
        )


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _cedar(cedarpy: object) -> Callable[[], object]:
    lines = [
        f'permit(principal, action == Action::"fs.read", resource) when {{ context.path like "src/m{n}/*" }};'
        for n in range(99)
    ]
    text = "\n".join([*lines, 'forbid(principal, action, resource) when { context.path like "*.pem" };'])
    policies = cedarpy.PolicySet.from_str(text)  # type: ignore[attr-defined]
    request = {
        "principal": 'User::"agent"', "action": 'Action::"fs.read"', "resource": 'File::"f"',
        "context": {"path": "src/m7/main.py"},
    }  # fmt: skip
    authorize = cedarpy.is_authorized  # type: ignore[attr-defined]
    assert authorize(request, policies, []).allowed
    return lambda: authorize(request, policies, [])


def _casbin(casbin: object) -> Callable[[], object]:
    model = casbin.Model()  # type: ignore[attr-defined]
    model.load_model_from_text(
        "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act, eft\n"
        "[policy_effect]\ne = some(where (p.eft == allow)) && !some(where (p.eft == deny))\n"
        "[matchers]\nm = r.sub == p.sub && keyMatch(r.obj, p.obj) && r.act == p.act\n"
    )
    enforcer = casbin.Enforcer(model)  # type: ignore[attr-defined]
    for n in range(99):
        enforcer.add_policy("agent", f"src/m{n}/*", "fs.read", "allow")
    enforcer.add_policy("agent", "keys/*", "fs.read", "deny")
    assert enforcer.enforce("agent", "src/m7/main.py", "fs.read")
    return lambda: enforcer.enforce("agent", "src/m7/main.py", "fs.read")


# -- the audit log ----------------------------------------------------------------------------------


def audit(folder: Path) -> Iterator[Row]:
    """Throughput beside bare SQLite, one security event, and verification of a million entries."""
    rates = sorted(_throughput(folder) for _ in range(3))
    ours, bare = rates[1]
    size = f"commit size {MAX_BUFFER}"
    yield Row(
        "audit entries, durable, group commit",
        ours,
        "/s",
        50_000,
        more_is_better=True,
        note=f"{size}, synchronous=FULL",
    )
    yield Row("SQLite, the same rows encoded and hashed", bare, "/s", note=f"{size}, synchronous=FULL")
    yield Row("audit over SQLite", ours / bare, "x", 0.6, more_is_better=True)
    yield from _security_event(folder)
    yield from _verification(folder)


def _event(number: int, kind: EventType = EventType.SYSCALL) -> Event:
    return Event(
        kind, "plugin-7", "fs.read", "allow", ("allow-src",), ("plugins may read sources",), "strict", "run", None,
        f"src/main{number}.py", 12, "sb-1", {"path0": f"/srv/src/main{number}.py", "policy": "c3a5892aa00e20eb" * 4},
    )  # fmt: skip


def _fresh(folder: Path, seal_every: int = 1000) -> AuditLog:
    shutil.rmtree(folder / "log", ignore_errors=True)
    (folder / "log").mkdir()
    signer = load_or_make_signer(folder / "log" / "key", "bench.example/log")
    options = LogOptions(witness=folder / "log" / "witness", seal_every=seal_every)
    return AuditLog(folder / "log" / "audit.db", signer, options)


def _throughput(folder: Path) -> tuple[float, float]:
    with _fresh(folder) as log:
        start = perf_counter_ns()
        for number in range(ENTRIES):
            log.append(_event(number))
        log.flush()
        ours = ENTRIES * 1e9 / (perf_counter_ns() - start)
    return ours, _bare(folder, MAX_BUFFER)


def _plain_table(folder: Path) -> sqlite3.Connection:
    """SQLite with the log's own table and settings, and nothing of ours."""
    with closing(sqlite3.connect(folder / "log" / "audit.db")) as source:
        (table,) = source.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()
    for end in ("", "-wal", "-shm"):
        (folder / f"bare.db{end}").unlink(missing_ok=True)
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute(table)
    return bare


def _bare(folder: Path, commit: int) -> float:
    """The very rows that the log wrote, into the same table, by one prepared statement."""
    with closing(sqlite3.connect(folder / "log" / "audit.db")) as source:
        rows = source.execute("SELECT * FROM entries").fetchall()
    with closing(_plain_table(folder)) as bare:
        start = perf_counter_ns()
        for at in range(0, len(rows), commit):
            bare.execute("BEGIN IMMEDIATE")
            bare.executemany(INSERT, rows[at : at + commit])
            bare.execute("COMMIT")
        return len(rows) * 1e9 / (perf_counter_ns() - start)


def _security_event(folder: Path) -> Iterator[Row]:
    """Medians of both, one commit a row, the same rows."""
    with _fresh(folder) as log:
        numbers = iter(range(10_000))
        ours = p50_us(lambda: log.append(_event(next(numbers), EventType.MERGE_APPROVED)), 1_000)
    with closing(sqlite3.connect(folder / "log" / "audit.db")) as source:
        rows = iter(source.execute("SELECT * FROM entries").fetchall())
    with closing(_plain_table(folder)) as bare:

        def commit() -> None:
            bare.execute("BEGIN IMMEDIATE")
            bare.execute(INSERT, next(rows))
            bare.execute("COMMIT")

        plain = p50_us(commit, 1_000)
    yield Row("security event, on disk, p50", ours, "us")
    yield Row("bare FULL commit of the same row, p50", plain, "us")
    yield Row("security event over bare commit", ours / plain, "x", 1.3)


def _verification(folder: Path) -> Iterator[Row]:
    with _fresh(folder, seal_every=10_000) as log:
        for number in range(VERIFIED - 2):
            log.append(_event(number))
        verifier = log._signer.verifier
    path, notes = folder / "log" / "audit.db", read_witness(folder / "log" / "witness")
    for name, limit, unit, scale, tail in (
        ("verify 1,000,000 entries", 6.0, "s", 1e9, False),
        ("verify from the last checkpoint", 50.0, "ms", 1e6, True),
    ):
        start = perf_counter_ns()
        report = verify(path, verifier, notes, incremental=tail)
        taken = (perf_counter_ns() - start) / scale
        assert report.verdict is Verdict.OK, report
        yield Row(name, taken, unit, limit, note=f"{report.entries:,} entries, {report.checked:,} read")
