"""The suite on the real adapter passes, and on each planted fault its gate is red for that fault's reason."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.harness.gate import Outcome
from holdfast.suites.agentos import (
    Evidence,
    Kill,
    Refusal,
    Replay,
    Visit,
    gather_with,
    judge_privacy_tier,
    kill,
    private_turns,
    refusals,
    replay,
    trace_tiers,
    visit,
)
from holdfast.suites.agentos_scene import CommandStage, Runs, Trace, turns_as_input

PLANTED = Path(__file__).parent / "planted"


def request(body: bytes, *more: str, line: str = "POST /v1/metrics HTTP/1.1") -> bytes:
    head = [line, f"content-length: {len(body)}", f"idempotency-key: {'a' * 64}", *more, "", ""]
    return "\r\n".join(head).encode() + body


OK_BODY = b'{"schema": "ccc.metrics/1", "metrics": {"turns": 6}}'
LOG = turns_as_input([{"type": "turn", **turn} for turn in private_turns()]).replace(b": ", b":")
LOCAL = Visit(0, b"", 0, LOG, ("glm_counts.jsonl", "metrics_summary.json", "windows.jsonl"), 0)
GOOD = Evidence(
    local=LOCAL,
    local_elsewhere=LOCAL,
    local_calls=Trace(()),
    reporting_calls=Trace(("socket(AF_UNIX, SOCK_STREAM) = 3",)),
    minimized=replace(LOCAL, wire=request(OK_BODY), connections=1, counted_turns=6),
    full=replace(LOCAL, wire=b"canary7d1b-summary-0 canary7d1b-links-0", connections=1, counted_turns=6),
    refusals=(Refusal("no entitlement", 64, 0, ()),),
    replay=Replay(logged=6, counted=6, metrics_rows=1, replays=9),
    kill=Kill(under_way=True, killed_status=137, logged=6, counted=6, metrics_rows=1),
)
"""Evidence as good as it gets, written by hand: each case below changes one thing of it."""


def test_good_evidence_passes() -> None:
    assert judge_privacy_tier(GOOD).outcome is Outcome.PASS, judge_privacy_tier(GOOD).reasons


def test_the_adapter_passes_its_gate_with_all_controls_shown() -> None:
    """The short folder: a Unix socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        judgement = judge_privacy_tier(gather_with()(CommandStage("none", Path(folder))))
    assert judgement.outcome is Outcome.PASS, judgement.reasons
    assert len(judgement.reasons) == 9, judgement.reasons


Again = Callable[[Runs, tuple[str, ...], Evidence], Evidence]
FAULTS: dict[str, tuple[Again, str]] = {
    "private_field": (
        lambda s, c, e: replace(e, minimized=visit(s, "p-private", "minimized", c)),
        "private field model",
    ),
    "dns_lookup": (
        lambda s, c, e: replace(e, local_calls=trace_tiers(s, c)[0]),
        "local_only made a network system call",
    ),
    "upload_before_check": (
        lambda s, c, e: replace(e, refusals=refusals(s, c)),
        "with no entitlement the adapter made 1 connections",
    ),
    "replay_twice": (lambda s, c, e: replace(e, replay=replay(s, c)), "after replays the server counts"),
    "lost_on_kill": (lambda s, c, e: replace(e, kill=kill(s, c)), "after kill -9 the server counts"),
}


@pytest.mark.planted
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_gate_red(fault: str) -> None:
    """The rest of the evidence is good, so nothing but the fault can be the reason."""
    again, reason = FAULTS[fault]
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        command = (sys.executable, str(PLANTED / f"{fault}.py"))
        judgement = judge_privacy_tier(again(CommandStage("none", Path(folder)), command, GOOD))
    assert judgement.outcome is Outcome.FAIL, judgement.reasons
    assert reason in "; ".join(judgement.reasons)


BLIND: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "no strace": (lambda e: replace(e, local_calls=None), "strace could not be run"),
    "a trace that sees nothing": (lambda e: replace(e, reporting_calls=Trace(())), "it sees none at all"),
    "minimized sent nothing": (
        lambda e: replace(e, minimized=replace(e.minimized, wire=b"")),
        "sent no metrics",
    ),
    "half a request": (
        lambda e: replace(e, minimized=replace(e.minimized, wire=e.minimized.wire[:-1])),
        "not whole HTTP requests",
    ),
    "a tap that sees nothing of full": (
        lambda e: replace(e, full=replace(e.full, wire=b"")),
        "saw no canary",
    ),
    "nothing was replayed": (lambda e: replace(e, replay=replace(e.replay, replays=0)), "came twice"),
    "the kill came too early": (lambda e: replace(e, kill=replace(e.kill, under_way=False)), "not killed"),
    "the kill killed nothing": (lambda e: replace(e, kill=replace(e.kill, killed_status=0)), "not killed"),
}


@pytest.mark.parametrize("case", BLIND)
def test_a_claim_without_its_control_cannot_be_told(case: str) -> None:
    blind, reason = BLIND[case]
    judgement = judge_privacy_tier(blind(GOOD))
    assert judgement.outcome is Outcome.CANNOT_TELL
    assert reason in judgement.reasons[0]


RED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "one connection under local_only": (
        lambda e: replace(e, local=replace(e.local, connections=1)),
        "1 connections",
    ),
    "a queue's file under local_only": (
        lambda e: replace(e, local=replace(e.local, files=(*e.local.files, "outbox.sqlite"))),
        "outbox.sqlite",
    ),
    "another log inside than outside": (
        lambda e: replace(
            e, local=replace(e.local, log=e.local.log.replace(b'"tokens_in":1003', b'"tokens_in":9'))
        ),
        "something else inside",
    ),
    "a field that was not agreed to": (
        lambda e: replace(
            e,
            minimized=replace(e.minimized, wire=request(OK_BODY.replace(b'"turns"', b'"repos": 1, "turns"'))),
        ),
        "the fields repos",
    ),
    "a text in a number's place": (
        lambda e: replace(e, minimized=replace(e.minimized, wire=request(OK_BODY.replace(b"6", b'"six"')))),
        "something else than a number as turns",
    ),
    "a header that was not agreed to": (
        lambda e: replace(e, minimized=replace(e.minimized, wire=request(OK_BODY, "x-repo: mine"))),
        "the header `x-repo: mine`",
    ),
    "a text in a header that is known": (
        lambda e: replace(
            e, minimized=replace(e.minimized, wire=request(OK_BODY, "user-agent: bXktcmVwbw=="))
        ),
        "the header `user-agent: bXktcmVwbw==`",
    ),
    "a session's id for an Idempotency-Key": (
        lambda e: replace(
            e, minimized=replace(e.minimized, wire=request(OK_BODY).replace(b"a" * 64, b"my-session"))
        ),
        "the header `idempotency-key: my-session`",
    ),
    "an events call under minimized": (
        lambda e: replace(
            e, minimized=replace(e.minimized, wire=request(b"{}", line="POST /v1/events HTTP/1.1"))
        ),
        "the call `POST /v1/events",
    ),
    "a canary in another case": (
        lambda e: replace(e, minimized=replace(e.minimized, wire=request(OK_BODY, "host: CANARY7D1B-REPO"))),
        "private field repo",
    ),
    "the kind of value under full": (
        lambda e: replace(e, full=replace(e.full, wire=e.full.wire + b"canary7d1b-kind-0")),
        "private fields on the wire: kind",
    ),
    "a turn short under minimized": (
        lambda e: replace(e, minimized=replace(e.minimized, counted_turns=5)),
        "5 turns of 6",
    ),
    "a refusal that left a file": (
        lambda e: replace(e, refusals=(replace(e.refusals[0], files=("windows.jsonl",)), *e.refusals[1:])),
        "wrote windows.jsonl",
    ),
    "a session that started all the same": (
        lambda e: replace(e, refusals=(replace(e.refusals[0], status=0), *e.refusals[1:])),
        "ended with 0",
    ),
    "two rows of metrics for a session": (
        lambda e: replace(e, replay=replace(e.replay, metrics_rows=2)),
        "2 sessions",
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize("case", RED)
def test_evidence_against_a_claim_fails_the_gate(case: str) -> None:
    against, reason = RED[case]
    judgement = judge_privacy_tier(against(GOOD))
    assert judgement.outcome is Outcome.FAIL, judgement.reasons
    assert reason in judgement.reasons[0]
