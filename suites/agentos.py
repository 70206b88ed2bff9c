"""The CCC adapter's suite: what each tier puts on the wire, judged on the bytes themselves.

    gather   sessions full of canaries under each tier, refusals, a replay, a kill; captured by a tap and a trace
    gate     `privacy_tier`: nothing but what the tier names left the machine, and nothing of it was lost or doubled

Each claim has its control: the tap must have seen a canary where one may pass, the trace a system call where
one is made, the kill a request that was under way. Without its control a claim is `cannot_tell`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from holdfast.harness.gate import Gate, Judgement, cannot_tell, failed, passed, worst
from holdfast.harness.suite import Suite
from holdfast.suites.agentos_scene import ADAPTER, CommandStage, Runs, Trace, open_scene, turns_as_input
from holdfast.suites.agentos_wire import MARK, find_canaries, parse_requests, request_faults
from holdfast.systems.agentos.server import parse_faults

__all__ = [
    "Evidence",
    "Kill",
    "Refusal",
    "Replay",
    "Visit",
    "gather_with",
    "judge_privacy_tier",
    "make_suite",
    "suite",
]

TURNS = 6
LOCAL_FILES = {"windows.jsonl", "glm_counts.jsonl", "metrics_summary.json"}
FULL_MAY = frozenset({"summary", "links"})
"""Of `value`, what the full tier may say."""


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """One session under one tier, and what the tap saw of it."""

    status: int
    wire: bytes
    connections: int
    log: bytes
    files: tuple[str, ...]
    counted_turns: int
    """By the server, from events and from metrics rows."""


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """A session that the licence does not grant."""

    why: str
    status: int
    connections: int
    files: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Replay:
    """Deliveries that the server took in and whose answers were lost."""

    logged: int
    counted: int
    metrics_rows: int
    replays: int


@final
@dataclass(frozen=True, slots=True)
class Kill:
    """A client that was killed between its request and the answer, and started again."""

    under_way: bool
    killed_status: int
    logged: int
    counted: int
    metrics_rows: int


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the gate judges."""

    local: Visit
    local_elsewhere: Visit
    """The same session without any confinement: its log must say the same."""
    local_calls: Trace | None
    reporting_calls: Trace | None
    """The control: a tier that does use a socket, under the same trace."""
    minimized: Visit
    full: Visit
    refusals: tuple[Refusal, ...]
    replay: Replay
    kill: Kill


def private_turns(count: int = TURNS) -> list[dict[str, Any]]:
    """Turns whose every text is a canary that names its field."""
    return [private_turn(number) for number in range(count)]


def private_turn(number: int) -> dict[str, Any]:
    """One turn with every part, and a field that the schema does not know, at two depths."""

    def secret(name: str) -> str:
        return f"{MARK}-{name}-{number}"

    return {
        "turn_id": secret("turn_id"),
        "model": f"glm-{secret('model')}",
        "subagent": secret("subagent"),
        "tokens_in": 1000 + number,
        "tokens_out": 10 + number,
        "latency_ms": 12.5,
        "capacity_used": 0.25,
        "attribution": {secret("attribution"): 1.0},
        "measurement": {"cls": secret("cls"), "churn_score": 0.5, "feature_delta": 1, "errors": 0},
        "feature": {"feature_id": secret("feature_id"), "spec_ref": secret("spec_ref"), "status": "shipped"},
        "cost": {"provider": secret("provider"), "unit_costs": {secret("unit"): 0.5}, "estimated_usd": 0.25},
        "value": {
            "kind": secret("kind"),
            "summary": secret("summary"),
            "links": [secret("links")],
            "x_later": {"deep": secret("value_later")},
        },
        "decision": {"lane": secret("lane"), "reason": secret("reason"), "rerouted": True},
        "x_later": {"deep": [{"deeper": secret("later")}]},
    }


def gather_with(command: tuple[str, ...] = ADAPTER) -> Callable[[Runs], Evidence]:
    """`gather` for the adapter that `command` starts."""

    def gather(stage: Runs) -> Evidence:
        loose = CommandStage("none", stage.folder)
        local_calls, reporting_calls = trace_tiers(stage, command)
        return Evidence(
            local=visit(stage, "local", "local_only", command),
            local_elsewhere=visit(loose, "local-loose", "local_only", command),
            local_calls=local_calls,
            reporting_calls=reporting_calls,
            minimized=visit(stage, "minimized", "minimized", command),
            full=visit(stage, "full", "full", command),
            refusals=refusals(stage, command),
            replay=replay(stage, command),
            kill=kill(stage, command),
        )

    return gather


def visit(stage: Runs, name: str, tier: str, command: tuple[str, ...] = ADAPTER) -> Visit:
    """A session full of canaries."""
    with open_scene(stage, name, command=command) as scene:
        done = scene.session(
            tier,
            private_turns(),
            "--id",
            f"{MARK}-session",
            "--repo",
            f"{MARK}-repo",
            "--notes",
            f"{MARK}-notes",
        )
        counted = scene.totals.turns if tier == "full" else scene.totals.metrics_turns
        log = scene.data / "windows.jsonl"
        return Visit(
            status=done.status,
            wire=scene.tap.sent,
            connections=scene.tap.connections,
            log=log.read_bytes() if log.exists() else b"",
            files=scene.files(),
            counted_turns=counted,
        )


def trace_tiers(stage: Runs, command: tuple[str, ...] = ADAPTER) -> tuple[Trace | None, Trace | None]:
    """The network calls of a local session, and of a minimized one as the control. Unconfined: a sandbox
    that denies a call would hide that it was tried."""
    traces = []
    for tier in ("local_only", "minimized"):
        with open_scene(stage, f"trace-{tier}", command=command) as scene:
            traces.append(scene.trace(tier, "ccc", "session", "run", stdin=turns_as_input(private_turns(2))))
    return traces[0], traces[1]


def refusals(stage: Runs, command: tuple[str, ...] = ADAPTER) -> tuple[Refusal, ...]:
    """Sessions that must not start."""
    cases = (
        ("no entitlement", "minimized", ("telemetry_full",), 30.0),
        ("a lower entitlement", "full", ("telemetry_minimized",), 30.0),
        ("an expired licence", "full", ("telemetry_minimized", "telemetry_full"), -1.0),
    )
    seen = []
    for number, (why, tier, entitlements, days) in enumerate(cases):
        with open_scene(stage, f"refuse-{number}", command=command) as scene:
            scene.license(*entitlements, days=days)
            done = scene.session(tier, private_turns())
            seen.append(Refusal(why, done.status, scene.tap.connections, scene.files()))
    return tuple(seen)


def replay(stage: Runs, command: tuple[str, ...] = ADAPTER) -> Replay:
    """Two deliveries of events, and one of metrics, whose answers are lost; and one that comes late."""
    with open_scene(stage, "replay", command=command) as scene:
        scene.server.fail(parse_faults("lost,late,lost"))
        scene.session("full", private_turns())
        scene.run("full", "ccc", "upload")
        totals = scene.totals
        return Replay(scene.logged_turns(), totals.turns, totals.metrics, totals.replays)


def kill(stage: Runs, command: tuple[str, ...] = ADAPTER) -> Kill:
    """kill -9 while the server has the request and has not answered; then an ordinary upload."""
    with open_scene(stage, "kill", command=command) as scene:
        killed = scene.run_until_request(
            "full", "ccc", "session", "run", stdin=turns_as_input(private_turns())
        )
        under_way = scene.server.requests > 0
        scene.server.heal()
        scene.run("full", "ccc", "upload")
        totals = scene.totals
        return Kill(under_way, killed.status, scene.logged_turns(), totals.turns, totals.metrics)


def judge_privacy_tier(evidence: Evidence) -> Judgement:
    """All claims together; the worst one decides."""
    return worst(
        (
            judge_local(evidence),
            judge_local_calls(evidence.local_calls, evidence.reporting_calls),
            judge_minimized(evidence.minimized),
            judge_full(evidence.full),
            *(judge_refusal(refusal) for refusal in evidence.refusals),
            judge_replay(evidence.replay),
            judge_kill(evidence.kill),
        )
    )


def judge_local(evidence: Evidence) -> Judgement:
    """LocalOnly: no connection, the three files and no other, the same log wherever it runs."""
    local = evidence.local
    if local.connections or local.wire:
        return failed(f"local_only made {local.connections} connections and sent {len(local.wire)} bytes")
    if local.status != 0 or local.log.count(b'"type":"turn"') != TURNS:
        return failed(
            f"local_only did not record its session (status {local.status}): {len(local.log)} bytes of log"
        )
    if extra := set(local.files) - LOCAL_FILES:
        return failed(f"local_only left files that it has no business with: {', '.join(sorted(extra))}")
    if _without_times(local.log) != _without_times(evidence.local_elsewhere.log):
        return failed("local_only recorded something else inside the isolation than outside")
    return passed(f"local_only: {TURNS} turns recorded, no connection, the same log as unconfined")


def judge_local_calls(local: Trace | None, control: Trace | None) -> Judgement:
    """LocalOnly: not one network system call, a DNS look-up included."""
    if local is None or control is None:
        return cannot_tell("strace could not be run, so nothing is known of the system calls")
    if local.calls:
        return failed(f"local_only made a network system call: {local.calls[0][:200]}")
    if not control.calls:
        return cannot_tell("the trace saw no network call of minimized either, so it sees none at all")
    return passed(
        f"local_only: no network system call; minimized made {len(control.calls)} under the same trace"
    )


def judge_minimized(seen: Visit) -> Judgement:
    """Minimized: the agreed numbers, the agreed headers, no text of an event in any form."""
    requests = parse_requests(seen.wire)
    faults = [f"minimized put the private field {name} on the wire" for name in find_canaries(seen.wire)]
    faults += [fault for request in requests or () for fault in request_faults(request)]
    if faults:
        return failed(*faults)
    if requests is None:
        return cannot_tell("the bytes that minimized sent are not whole HTTP requests")
    if not requests or not seen.counted_turns:
        return cannot_tell("minimized sent no metrics, so nothing is known of what it would send")
    if MARK.encode() not in seen.log:
        return cannot_tell("the session had no canary in it")
    if seen.counted_turns != TURNS:
        return failed(f"minimized reported {seen.counted_turns} turns of {TURNS}")
    return passed(f"minimized: {len(requests)} requests, {len(seen.wire)} bytes, only agreed numbers in them")


def judge_full(seen: Visit) -> Judgement:
    """Full: events, but of `value` only summary and links, and no field that the schema does not name."""
    leaks = set(find_canaries(seen.wire))
    if not leaks >= FULL_MAY:
        return cannot_tell("the tap saw no canary under full, so it would have seen none under minimized")
    if bad := leaks & {"kind", "value_later", "later"}:
        return failed(f"full put private fields on the wire: {', '.join(sorted(bad))}")
    if seen.counted_turns != TURNS:
        return failed(f"full reported {seen.counted_turns} turns of {TURNS}")
    return passed(f"full: {TURNS} turns streamed, value reduced to {' and '.join(sorted(FULL_MAY))}")


def judge_refusal(seen: Refusal) -> Judgement:
    """Without the entitlement nothing starts, nothing is written, nothing is sent."""
    if seen.connections:
        return failed(f"with {seen.why} the adapter made {seen.connections} connections")
    if seen.files:
        return failed(f"with {seen.why} the adapter wrote {', '.join(seen.files)}")
    if seen.status != 64:
        return failed(f"with {seen.why} the adapter ended with {seen.status}, not 64")
    return passed(f"{seen.why}: refused, nothing written, nothing sent")


def judge_replay(seen: Replay) -> Judgement:
    """A delivery that comes again counts once."""
    if not seen.logged:
        return cannot_tell("no turn was logged for the replay")
    if seen.counted != seen.logged or seen.metrics_rows != 1:
        return failed(
            f"after replays the server counts {seen.counted} turns and {seen.metrics_rows} sessions;"
            f" {seen.logged} and 1 were logged"
        )
    if not seen.replays:
        return cannot_tell("no delivery came twice, so nothing is known of replays")
    return passed(f"{seen.replays} rows were delivered again and counted once")


def judge_kill(seen: Kill) -> Judgement:
    """A killed client loses nothing that was logged, and doubles nothing."""
    if not seen.under_way or seen.killed_status != 137 or not seen.logged:
        return cannot_tell(f"the client was not killed inside a request (status {seen.killed_status})")
    if seen.counted != seen.logged or seen.metrics_rows != 1:
        return failed(
            f"after kill -9 the server counts {seen.counted} turns and {seen.metrics_rows} sessions;"
            f" {seen.logged} and 1 were logged"
        )
    return passed(f"kill -9 inside a request: {seen.logged} turns, each counted once")


def make_suite(command: tuple[str, ...] = ADAPTER) -> Suite[Evidence]:
    """The suite for the adapter that `command` starts; the tests' planted faults are such commands."""
    return Suite(
        name="agentos",
        title="CCC adapter: telemetry that obeys its privacy tier",
        gather=gather_with(command),
        gates=(
            Gate(
                "privacy_tier",
                "Each tier puts on the wire what it names and nothing else, and of that nothing is lost or doubled",
                judge_privacy_tier,
            ),
        ),
        details=lambda e: {
            "bytes_on_the_wire": {
                "local_only": len(e.local.wire),
                "minimized": len(e.minimized.wire),
                "full": len(e.full.wire),
            },
            "replayed_rows": e.replay.replays,
        },
    )


def _without_times(log: bytes) -> bytes:
    return re.sub(rb'"(created_at|ended_at)":"[^"]*"', rb'"\1":""', log)


suite = make_suite()
"""What the entry point names."""
