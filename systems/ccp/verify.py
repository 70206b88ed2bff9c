"""`ccp verify`: prove the lane rules from captured bytes.

Two witnesses stand in for the upstreams; models x endpoints x credential forms x streaming are driven
through the real command; then every rule is judged on what the witnesses received. `judge` is pure, and a
rule that saw nothing cannot tell, which is no pass.
"""

import base64
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import final

from holdfast.systems.ccp.rig import SECONDS, Answer, Canaries, Captured, Script, Witness, ask, stage

__all__ = ["Evidence", "Finding", "Outcome", "Sent", "gather", "judge", "run_verify"]

MODELS = {
    "claude-haiku-4-5-20251001": "zai",
    "claude-3-5-haiku-latest": "zai",
    "Claude-HAIKU-Next": "zai",
    "claude-sonnet-4-5": "anthropic",
    "claude-opus-4-1": "anthropic",
}
ENDPOINTS = ("/v1/messages?beta=true", "/v1/messages", "/v1/messages/count_tokens?beta=true")
EVENTS = tuple(
    f"event: {name}\ndata: {json.dumps({'type': name, **more})}\n\n".encode()
    for name, more in (
        ("message_start", {"message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("ping", {}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "good"}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
        ("message_stop", {}),
    )
)
ANSWER = b'{ "type": "message",  "usage": {"input_tokens": 3, "output_tokens": 2} }'


class Outcome(Enum):
    """What a rule can say."""

    PASS = "pass"  # noqa: S105 - an outcome, not a secret
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


@final
@dataclass(frozen=True, slots=True)
class Sent:
    """One request that was driven through the proxy, and what came back."""

    model: str
    lane: str
    """Where the rules say that it belongs."""
    stream: bool
    body: bytes
    credentials: tuple[tuple[str, str], ...]
    status: int
    payload: bytes
    late_events: int
    """Events that reached the client only after the next one had been sent: a buffering proxy."""


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a run left."""

    sent: tuple[Sent, ...]
    captured: dict[str, tuple[Captured, ...]]
    """By lane."""
    raw: dict[str, bytes]
    canaries: Canaries
    written: bytes
    """Every file of the log folder and everything printed, in one."""
    usage_lines: tuple[dict[str, object], ...]


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's answer."""

    rule: str
    outcome: Outcome
    reason: str


def spellings(secret: str) -> tuple[bytes, ...]:
    """A secret as it may show up: plain, hex, and base64 at each of the three alignments."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return (raw, raw.hex().encode(), *shifted)


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Every rule, in the order in which they are printed."""
    return tuple(_judge_one(rule, check, evidence) for rule, check in _RULES.items())


def _judge_one(rule: str, check: "Callable[[Evidence], tuple[int, str]]", evidence: Evidence) -> Finding:
    seen, wrong = check(evidence)
    if wrong:
        return Finding(rule, Outcome.FAIL, wrong)
    if not seen:
        return Finding(rule, Outcome.CANNOT_TELL, "nothing was seen that could show it")
    return Finding(rule, Outcome.PASS, f"on {seen} observations")


def _model_of(captured: Captured) -> str:
    return str(json.loads(captured.request.body).get("model", "")) if captured.request.body else ""


def _no_haiku_on_anthropic(evidence: Evidence) -> tuple[int, str]:
    models = [_model_of(c) for c in evidence.captured["anthropic"]]
    haiku = [m for m in models if "haiku" in m.lower()]
    return len(models), f"model `{haiku[0]}` reached the anthropic lane" if haiku else ""


def _no_secret(
    lane: str, secrets: Callable[[Canaries], tuple[str, ...]]
) -> Callable[[Evidence], tuple[int, str]]:
    def check(evidence: Evidence) -> tuple[int, str]:
        raw = evidence.raw[lane]
        leaked = [s for secret in secrets(evidence.canaries) for s in spellings(secret) if s in raw]
        return len(
            evidence.captured[lane]
        ), f"another lane's credential reached lane {lane}" if leaked else ""

    return check


def _pairs(evidence: Evidence, lane: str) -> Iterator[tuple[Sent, Captured | None]]:
    """Each request of a lane with what its witness got, matched by the body's own nonce."""
    by_body = {c.request.body: c for c in evidence.captured[lane]}
    for sent in evidence.sent:
        if sent.lane == lane:
            yield sent, by_body.get(sent.body)


def _bodies_untouched(evidence: Evidence) -> tuple[int, str]:
    pairs = [pair for lane in evidence.captured for pair in _pairs(evidence, lane)]
    lost = [sent for sent, captured in pairs if captured is None]
    return len(pairs), f"a request of model `{lost[0].model}` did not arrive as it was sent" if lost else ""


def _credential_untouched(evidence: Evidence) -> tuple[int, str]:
    count = 0
    for sent, captured in _pairs(evidence, "anthropic"):
        for name, value in sent.credentials:
            line = f"\r\n{name}: {value}\r\n".encode()
            count += 1
            if captured is not None and line not in captured.raw:
                return count, f"the client's `{name}` did not arrive as it was sent"
    return count, ""


def _own_key_on_zai(evidence: Evidence) -> tuple[int, str]:
    line = f"x-api-key: {evidence.canaries.zai_key}\r\n".encode()
    captured = evidence.captured["zai"]
    without = [c for c in captured if c.raw.count(line) != 1]
    return len(captured), "a request on lane zai lacks its key, or has it twice" if without else ""


def _a_200_on(lane: str) -> Callable[[Evidence], tuple[int, str]]:
    def check(evidence: Evidence) -> tuple[int, str]:
        statuses = [sent.status for sent in evidence.sent if sent.lane == lane]
        bad = [status for status in statuses if status != 200]
        return len(statuses), f"a request on lane {lane} got status {bad[0]}" if bad else ""

    return check


def _answers_verbatim(evidence: Evidence) -> tuple[int, str]:
    for sent in evidence.sent:
        if sent.payload != (b"".join(EVENTS) if sent.stream else ANSWER):
            return len(evidence.sent), f"an answer to model `{sent.model}` is not what the upstream sent"
    return len(evidence.sent), ""


def _not_buffered(evidence: Evidence) -> tuple[int, str]:
    streams = [sent for sent in evidence.sent if sent.stream]
    late = sum(sent.late_events for sent in streams)
    return len(streams), f"{late} events came only after the next one was sent" if late else ""


def _nothing_written(evidence: Evidence) -> tuple[int, str]:
    canaries = evidence.canaries
    names = {
        "zai_key": canaries.zai_key,
        "oauth": canaries.oauth,
        "api_key": canaries.api_key,
        "prompt": canaries.prompt,
    }
    leaked = [name for name, secret in names.items() if any(s in evidence.written for s in spellings(secret))]
    return len(evidence.usage_lines), f"`{leaked[0]}` stands in a log or in the output" if leaked else ""


def _one_line_each(evidence: Evidence) -> tuple[int, str]:
    lines = evidence.usage_lines
    if len(lines) != len(evidence.sent):
        return len(lines), f"{len(evidence.sent)} requests left {len(lines)} usage lines"
    altered = [line for line in lines if line["sha256_upstream"] != line["sha256_downstream"]]
    return len(lines), "a usage line's digests differ" if altered else ""


_RULES: dict[str, Callable[[Evidence], tuple[int, str]]] = {
    "no haiku on the anthropic lane": _no_haiku_on_anthropic,
    "no zai credential on the anthropic lane": _no_secret("anthropic", lambda c: (c.zai_key,)),
    "no anthropic credential on the zai lane": _no_secret("zai", lambda c: (c.oauth, c.api_key)),
    "the client's credential untouched on anthropic": _credential_untouched,
    "lane zai's own key, once, on every request": _own_key_on_zai,
    "bodies arrive byte for byte": _bodies_untouched,
    "200 on lane anthropic": _a_200_on("anthropic"),
    "200 on lane zai": _a_200_on("zai"),
    "answers arrive byte for byte": _answers_verbatim,
    "each event leaves before the next one comes": _not_buffered,
    "no body and no secret written anywhere": _nothing_written,
    "one usage line a request, digests equal": _one_line_each,
}


@final
class _Pace:
    """Lets a witness send an event only once the client has the one before it."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._seen = 0
        self.late = 0

    def client_has(self, size: int) -> None:
        with self._news:
            self._seen = size
            self._news.notify_all()

    def wait_for(self, size: int) -> None:
        with self._news:
            if not self._news.wait_for(lambda: self._seen >= size, timeout=2.0):
                self.late += 1

    def restart(self) -> None:
        with self._news:
            self._seen = 0
            self.late = 0


def _script(pace: _Pace) -> Script:
    def play(sock: socket.socket, captured: Captured) -> bool:
        if not json.loads(captured.request.body or b"{}").get("stream"):
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(ANSWER), ANSWER)
            )
            return True
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        size = 0
        for event in EVENTS:
            sock.sendall(b"%x\r\n%s\r\n" % (len(event), event))
            size += len(event)
            if event is not EVENTS[-1]:
                pace.wait_for(size)
        sock.sendall(b"0\r\n\r\n")
        return True

    return play


def gather(folder: Path) -> Evidence:
    """Drive the whole matrix once."""
    canaries = Canaries()
    pace = _Pace()
    with closing(Witness(_script(pace))) as anthropic, closing(Witness(_script(pace))) as zai:
        with stage(folder, anthropic, zai, canaries=canaries) as proxy:
            sent = tuple(_drive(proxy.port, canaries, pace))
        output = proxy.line + proxy.errors
        captured = {"anthropic": tuple(anthropic.captured), "zai": tuple(zai.captured)}
        raw = {"anthropic": bytes(anthropic.raw), "zai": bytes(zai.raw)}
    written = output.encode() + b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
    lines = tuple(json.loads(line) for line in (folder / "usage.jsonl").read_bytes().splitlines())
    return Evidence(sent, captured, raw, canaries, written, lines)


def _drive(port: int, canaries: Canaries, pace: _Pace) -> Iterator[Sent]:
    bearer = ("Authorization", f"Bearer {canaries.oauth}")
    key = ("X-Api-Key", canaries.api_key)
    nonce = 0
    for model, lane in MODELS.items():
        for target in ENDPOINTS:
            for credentials in ((bearer,), (key,), (bearer, key)):
                for stream in (False, True) if "count" not in target else (False,):
                    nonce += 1
                    body = json.dumps(
                        {
                            "model": model,
                            "n": nonce,
                            "stream": stream,
                            "messages": [{"content": canaries.prompt}],
                        }
                    ).encode()
                    pace.restart()
                    answer: Answer = ask(
                        port,
                        target,
                        body,
                        [*credentials, ("X-Copy", credentials[0][1]), ("anthropic-version", "2023-06-01")],
                        on_payload=lambda payload: pace.client_has(len(payload)),
                    )
                    yield Sent(
                        model, lane, stream, body, credentials, answer.status, answer.payload, pace.late
                    )


def run_verify(*, as_json: bool) -> int:
    """Gather, judge, print; 0 when every rule passes, 1 when one fails, 2 when one cannot tell."""
    with tempfile.TemporaryDirectory(prefix="ccp-verify-") as folder:
        evidence = gather(Path(folder))
    findings = judge(evidence)
    if as_json:
        rows = [{"rule": f.rule, "outcome": f.outcome.value, "reason": f.reason} for f in findings]
        sys.stdout.write(
            json.dumps({"schema": "ccp.verify/1", "live": False, "findings": rows}, indent=1) + "\n"
        )
    else:
        sys.stdout.write(_render(evidence, findings))
    outcomes = {finding.outcome for finding in findings}
    if Outcome.FAIL in outcomes:
        return 1
    return 2 if Outcome.CANNOT_TELL in outcomes else 0


def _render(evidence: Evidence, findings: tuple[Finding, ...]) -> str:
    lines = [f"{f.outcome.value:<12}{f.rule:<50}{f.reason}" for f in findings]
    counts = ", ".join(f"{len(captured)} on {lane}" for lane, captured in evidence.captured.items())
    lines.append(f"lane hygiene on {len(evidence.sent)} requests: {counts}")
    lines.append(
        f"the upstreams were recording witnesses (waits of at most {SECONDS:g} s); nothing is shown of the providers"
    )
    return "\n".join(lines) + "\n"
