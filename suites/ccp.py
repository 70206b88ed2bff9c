"""The suite of the routing proxy: real streaming traffic through two witnesses, judged on captured bytes.

    drive(stage)   proxy inside, witnesses outside, one client   -> Evidence
    GATES          lane hygiene and streaming, pure

Any proxy can take ccp's place (`--proxy-cmd`); it is told where the witnesses are as `design` says: by
environment and by `{template}` words.
"""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import final

from holdfast.harness.driver import Exchange
from holdfast.harness.gate import Gate, Judgement, cannot_tell, failed, passed
from holdfast.harness.leak import Found, decoys, search
from holdfast.harness.service import ServiceSpec, free_port
from holdfast.harness.suite import LaneMetrics, Stage, Suite
from holdfast.harness.witness import Capture, Ledger, Witness
from holdfast.sandbox.instance import AgentLostError
from holdfast.suites.ccp_traffic import (
    ANTHROPIC,
    CROWD_SIZE,
    LANES,
    ZAI,
    Script,
    Secrets,
    Sent,
    converse,
    quick,
)

__all__ = ["GATES", "Evidence", "Secrets", "quick_suite", "suite"]

Talk = Callable[[int, Secrets, Ledger], tuple[tuple[Exchange, ...], Sent]]
"""What is sent to the proxy on a port."""


HTTP1 = "HOLDFAST_HTTP1"
"""Set by `--http1`: the proxy is to speak HTTP/1.1 only, which ccp does anyway."""


MODEL_SHOWN = 80
"""How much of a model's name a reason quotes."""


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What one isolation's traffic showed."""

    exchanges: tuple[Exchange, ...]
    captures: Mapping[str, tuple[Capture, ...]]
    """By lane."""
    crossings: Mapping[str, tuple[Found, ...]]
    """By lane: the credentials found in the bytes that its witness received."""
    expected_credentials: Mapping[bytes, Mapping[str, str]] = field(repr=False)
    """By marker: the credential headers that the client sent."""
    leaks: tuple[Found, ...]
    searched: int
    """Files, streams and answers that were searched for canaries."""
    blind_to: tuple[str, ...]
    """Coats in which the search missed a decoy that it had to find."""
    problems: tuple[str, ...]
    secrets: Secrets
    gathered: int = 0
    """Requests that were seen in flight together, upstream."""
    usage: bytes = field(default=b"", repr=False)
    """What the proxy wrote to `usage.jsonl`."""


def drive(stage: Stage) -> Evidence:
    """The whole traffic."""
    return drive_with(stage, converse)


def drive_quickly(stage: Stage) -> Evidence:
    """One request a lane."""
    return drive_with(stage, quick)


def drive_with(stage: Stage, talk: Talk) -> Evidence:
    """Bring the proxy up between clients and two witnesses; let them talk; search what it left."""
    canaries, ledger = Secrets.fresh(), Ledger()
    logs = stage.folder / "logs"
    logs.mkdir(exist_ok=True)

    script = Script(canaries.answer)
    with (
        Witness(ANTHROPIC, script.on(ANTHROPIC), ledger) as anthropic,
        Witness(ZAI, script.on(ZAI), ledger) as zai,
    ):
        script.urls |= {ANTHROPIC: anthropic.url, ZAI: zai.url}
        spec = proxy_spec(stage, anthropic.url, zai.url, canaries.zai_key, logs)
        try:
            with stage.serve(spec) as proxy:
                exchanges, sent = talk(spec.port, canaries, ledger)
        except AgentLostError as error:  # it quotes the proxy's last words, and they may be a secret
            raise AgentLostError(_without(str(error), canaries)) from None
        captures = {ANTHROPIC: anthropic.captures, ZAI: zai.captures}
        fragments = {ANTHROPIC: anthropic.fragments, ZAI: zai.fragments}
        problems = tuple(f"{w.name}: {p}" for w in (anthropic, zai) for p in w.problems)
        outputs = proxy.outputs()
    places = places_of(stage.folder, outputs)
    own = {name: value for name, value in canaries.named().items() if name != "the answer's text"}
    answers = [(f"answer {i}", _head(e) + e.body) for i, e in enumerate(exchanges)]
    return Evidence(
        exchanges=exchanges,
        captures=captures,
        crossings={lane: search(canaries.named(), _raw(captures[lane], fragments[lane])) for lane in LANES},
        expected_credentials=sent,
        leaks=(*search(canaries.named(), places), *search(own, answers)),
        searched=len(places) + len(answers),
        blind_to=missed_decoys(stage.folder, canaries.question),
        problems=(*problems, *(f"{lane}: {len(f)} fragment(s)" for lane, f in fragments.items() if f)),
        secrets=canaries,
        gathered=script.gathered,
        usage=b"".join(text for place, text in places if place == "logs/usage.jsonl"),
    )


def _without(text: str, canaries: Secrets) -> str:
    for name, value in canaries.named().items():
        text = text.replace(value, f"[{name}]")
    return text


def places_of(folder: Path, outputs: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """All that the proxy left: files and what it said."""
    return [*_files(folder), *((f"the proxy's {name}", text) for name, text in outputs.items())]


def proxy_spec(stage: Stage, anthropic: str, zai: str, zai_key: str, logs: Path) -> ServiceSpec:
    """How the proxy under test is started: ccp, or what the user put in its place."""
    port = free_port()
    told = {"port": str(port), "anthropic": anthropic, "zai": zai, "zai_key": zai_key, "log_dir": str(logs)}
    environment = {
        "HOLDFAST_PORT": told["port"],
        "HOLDFAST_UPSTREAM_ANTHROPIC": anthropic,
        "HOLDFAST_UPSTREAM_ZAI": zai,
        "HOLDFAST_ZAI_KEY": zai_key,
        "HOLDFAST_LOG_DIR": told["log_dir"],
        "ZAI_API_KEY": zai_key,
        "CCP_ANTHROPIC_URL": anthropic,
        "CCP_ZAI_URL": zai,
        "CCP_SANDBOX": "none",  # confined from outside, as any service would be
    }
    if os.environ.get(HTTP1):  # bwrap empties the environment, so what a user asked for is said again
        environment[HTTP1] = "1"
    if stage.command is None:
        ccp = Path(sys.executable).with_name("ccp")
        argv: tuple[str, ...] = (str(ccp), "serve", "--port", told["port"], "--log-dir", told["log_dir"])
    else:
        argv = tuple(fill(word, told) for word in stage.command)
    return ServiceSpec(argv, str(stage.folder), port, environment)


def fill(word: str, told: Mapping[str, str]) -> str:
    """Replace `{port}` and the like; other braces stay as they are."""
    for name, value in told.items():
        word = word.replace("{" + name + "}", value)
    return word


def missed_decoys(folder: Path, canary: str) -> tuple[str, ...]:
    """Hide the canary in each coat in a file of its own; the coats in which the search did not find it."""
    hidden = folder / "decoys"
    hidden.mkdir()
    try:
        for coat, text in decoys(canary).items():
            (hidden / coat.replace(" ", "-")).write_bytes(text)
        found = {f.place for f in search({"decoy": canary}, _files(folder))}
        return tuple(c for c in decoys(canary) if f"decoys/{c.replace(' ', '-')}" not in found)
    finally:
        for path in hidden.iterdir():
            path.unlink()
        hidden.rmdir()


def _files(folder: Path) -> list[tuple[str, bytes]]:
    """Every regular file below a folder, by its path within it."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return [(str(p.relative_to(folder)), p.read_bytes()) for p in paths]


def _raw(captures: Sequence[Capture], fragments: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """All that a witness received, whole requests or not."""
    whole = [(f"request {i}", capture.raw) for i, capture in enumerate(captures)]
    return whole + [(f"fragment {i}", text) for i, text in enumerate(fragments)]


def _head(seen: Exchange) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in seen.headers)


# -- gates --------------------------------------------------------------------------------------------


def judge_no_haiku_on_anthropic(evidence: Evidence) -> Judgement:
    """No request for a haiku model reaches the anthropic lane."""
    wrong = [c for c in evidence.captures[ANTHROPIC] if "haiku" in model_of(c).lower()]
    right = [c for c in evidence.captures[ZAI] if "haiku" in model_of(c).lower()]
    if wrong:
        return failed(f"{len(wrong)} request(s) for {model_of(wrong[0])} reached the anthropic lane")
    if not right or not evidence.captures[ANTHROPIC]:
        return cannot_tell("no haiku request was seen on the zai lane, or nothing on the anthropic lane")
    return passed(f"{len(right)} haiku requests, all on the zai lane")


def judge_no_other_on_zai(evidence: Evidence) -> Judgement:
    """No request for another model reaches the zai lane."""
    wrong = [c for c in evidence.captures[ZAI] if "haiku" not in model_of(c).lower()]
    right = [c for c in evidence.captures[ANTHROPIC] if "haiku" not in model_of(c).lower()]
    if wrong:
        return failed(f"{len(wrong)} request(s) for {model_of(wrong[0]) or 'no model'} reached the zai lane")
    if not right or not evidence.captures[ZAI]:
        return cannot_tell("no other model was seen on the anthropic lane, or nothing on the zai lane")
    return passed(f"{len(right)} requests for other models, all on the anthropic lane")


def judge_no_zai_credential_on_anthropic(evidence: Evidence) -> Judgement:
    """The zai key never reaches the anthropic lane, in any coat; it must be seen on its own."""
    return _no_crossing(evidence, ANTHROPIC, ("the zai key",), ZAI)


def judge_no_anthropic_credential_on_zai(evidence: Evidence) -> Judgement:
    """The client's credential never reaches the zai lane, in any coat; it must be seen on its own."""
    return _no_crossing(evidence, ZAI, ("the client's api key", "the client's token"), ANTHROPIC)


def _no_crossing(evidence: Evidence, lane: str, names: tuple[str, ...], home: str) -> Judgement:
    crossed = [found for found in evidence.crossings[lane] if found.name in names]
    at_home = {found.name for found in evidence.crossings[home]}
    if crossed:
        return failed(*(f"{found} on the {lane} lane" for found in crossed[:3]))
    if not evidence.captures[lane]:
        return cannot_tell(f"the {lane} lane saw no request")
    if missing := [name for name in names if name not in at_home]:
        return cannot_tell(f"{missing[0]} was not even seen on the {home} lane, where it belongs")
    return passed(f"{len(evidence.captures[lane])} requests on the {lane} lane without {' or '.join(names)}")


def judge_credential_untouched(evidence: Evidence) -> Judgement:
    """The anthropic lane gets exactly the credential headers that the client sent."""
    checked = 0
    for capture in evidence.captures[ANTHROPIC]:
        expected = evidence.expected_credentials.get(capture.marker or b"")
        if expected is None:
            continue
        for name in ("x-api-key", "authorization", "anthropic-beta"):
            wanted = tuple(v for k, v in expected.items() if k.lower() == name)
            if capture.header(name) != wanted:
                return failed(f"`{name}` arrived {len(capture.header(name))} time(s) or changed")
        checked += 1
    return passed(f"{checked} requests") if checked else cannot_tell("no request to compare")


def judge_a_200_on_each_lane(evidence: Evidence) -> Judgement:
    """Each lane answered 200 at least once, and the client got it."""
    good = Counter(e.expected_lane for e in evidence.exchanges if e.status == 200 and e.complete)
    if missing := [lane for lane in LANES if not good[lane]]:
        seen = sorted({e.status for e in evidence.exchanges if e.expected_lane == missing[0]})
        problem = next((e.problem for e in evidence.exchanges if e.problem), "")
        return failed(f"no complete 200 by the {missing[0]} lane (statuses {seen}) {problem}".rstrip())
    return passed(", ".join(f"{good[lane]} on {lane}" for lane in LANES))


def judge_answers_identical(evidence: Evidence) -> Judgement:
    """Each answer reaches the client byte for byte, once, from one upstream request."""
    pairs = _pairs(evidence)
    for seen, captures in pairs:
        if len(captures) != 1 and seen.status == 200:
            return failed(f"one request for {seen.model} became {len(captures)} upstream requests")
        if len(captures) != 1 or not captures[0].whole:
            continue  # what became of a refused or a cut one is for `status_faithful` and `cut_shown`
        if seen.body != captures[0].sent:
            return failed(
                f"an answer for {seen.model} differs {_first_difference(captures[0].sent, seen.body)}"
            )
        if not seen.complete:
            return failed(f"an answer for {seen.model} was cut off")
    streams = [seen for seen, captures in pairs if seen.body.startswith(b"event:")]
    if not streams:
        return cannot_tell("no stream was relayed")
    return passed(
        f"{len(pairs)} answers, {len(streams)} of them streams, {sum(len(s.body) for s in streams)} bytes"
    )


def judge_every_request_accounted(evidence: Evidence) -> Judgement:
    """What reaches a lane is what a client sent there, and all of it; judged by marker, never by model."""
    expected = {seen.marker: seen.expected_lane for seen in evidence.exchanges}
    reached = set()
    for lane in LANES:
        for capture in evidence.captures[lane]:
            if capture.method == "POST" and capture.marker not in expected:
                return failed(f"a request that no client sent reached the {lane} lane ({capture.target})")
            if expected.get(capture.marker or b"", lane) != lane:
                return failed(
                    f"a request for the {expected[capture.marker or b'']} lane reached the {lane} lane"
                )
            reached.add(capture.marker)
    if evidence.problems:
        return failed(f"what is no whole request reached a lane: {evidence.problems[0]}")
    relayed = [seen for seen in evidence.exchanges if _is_json(seen.sent_body)]
    if lost := [seen for seen in relayed if seen.marker not in reached]:
        return failed(f"{len(lost)} request(s) reached no upstream (the client was told {lost[0].status})")
    return passed(f"{len(expected)} requests") if relayed else cannot_tell("no request was sent")


def _is_json(body: bytes) -> bool:
    """What is not may be refused by the proxy itself, and has no lane."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def judge_status_faithful(evidence: Evidence) -> Judgement:
    """The client hears the status that the upstream gave, and no success where there was none."""
    compared = refused = 0
    for seen, captures in _pairs(evidence):
        for capture in captures[-1:]:
            if not capture.status:
                if 0 < seen.status < 400:
                    return failed(f"the client was told {seen.status} where the upstream hung up unheard")
                refused += 1
            elif seen.status != capture.status:
                return failed(f"the client was told {seen.status} where the upstream said {capture.status}")
            compared += 1
    if not refused or not any(c.status >= 400 for lane in LANES for c in evidence.captures[lane]):
        return cannot_tell("no upstream refused, or none hung up")
    return passed(f"{compared} answers, refusals and hang-ups among them")


def judge_many_at_once(evidence: Evidence) -> Judgement:
    """All that is judged was judged with a crowd in flight too; else faults of concurrency had no chance to show."""
    if evidence.gathered < CROWD_SIZE:
        return cannot_tell(
            f"at most {evidence.gathered} of {CROWD_SIZE} requests were in flight together, so nothing is shown "
            "about a crowd"
        )
    return passed(f"{evidence.gathered} requests in flight together, upstream")


def judge_cut_shown(evidence: Evidence) -> Judgement:
    """An answer that breaks off upstream never reaches the client as if it were whole."""
    cut = [
        seen
        for seen, captures in _pairs(evidence)
        if captures and captures[-1].status and not captures[-1].whole
    ]
    if wrong := [seen for seen in cut if seen.complete and seen.status == 200]:
        return failed(f"an answer for {wrong[0].model} broke off upstream and was ended as if it were whole")
    return passed(f"{len(cut)} answers that broke off") if cut else cannot_tell("no answer broke off")


def judge_bodies_untouched(evidence: Evidence) -> Judgement:
    """Each request's body reaches its upstream byte for byte, since signatures and caches hang on it."""
    compared = 0
    for seen, captures in _pairs(evidence):
        for capture in captures:
            if capture.body != seen.sent_body:
                return failed(
                    f"the body for {seen.model} differs {_first_difference(seen.sent_body, capture.body)}"
                )
            compared += 1
    return passed(f"{compared} bodies") if compared else cannot_tell("no body was relayed")


def judge_not_buffered(evidence: Evidence) -> Judgement:
    """Each event leaves the proxy before the next one is sent to it."""
    in_lockstep = [c for lane in LANES for c in evidence.captures[lane] if c.sent.startswith(b"event:")]
    if stalled := [c for c in in_lockstep if c.stalled_after is not None]:
        return failed(
            f"{len(stalled)} of {len(in_lockstep)} streams: event {(stalled[0].stalled_after or 0) + 1} had not "
            "reached the client when the next was due"
        )
    if not in_lockstep:
        return cannot_tell("no stream was sent in lockstep")
    return passed(f"{len(in_lockstep)} streams in lockstep with the client")


def judge_no_leak(evidence: Evidence) -> Judgement:
    """No body text and no secret in any file, log line or output of the run."""
    if evidence.leaks:
        return failed(*(str(found) for found in evidence.leaks[:3]))
    if evidence.blind_to:
        return cannot_tell(f"the search missed its own decoys: {', '.join(evidence.blind_to)}")
    if not evidence.searched or not evidence.exchanges:
        return cannot_tell("there was nothing to search")
    return passed(f"{evidence.searched} files, streams and answers; every decoy was found")


def _pairs(evidence: Evidence) -> list[tuple[Exchange, tuple[Capture, ...]]]:
    """Each exchange with the upstream requests that carry its marker, from either lane."""
    by_marker: dict[bytes | None, list[Capture]] = {}
    for capture in sorted((c for lane in LANES for c in evidence.captures[lane]), key=lambda c: c.arrived):
        by_marker.setdefault(capture.marker, []).append(capture)
    return [(seen, tuple(by_marker.get(seen.marker, ()))) for seen in evidence.exchanges]


def model_of(capture: Capture) -> str:
    """The top-level model of a captured request; empty when there is none."""
    try:
        document = json.loads(capture.body)
    except (ValueError, RecursionError):
        return ""
    model = document.get("model") if isinstance(document, dict) else None
    return model[:MODEL_SHOWN].encode("utf-8", "replace").decode() if isinstance(model, str) else ""


def _first_difference(wanted: bytes, got: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got))
    )
    return f"from byte {at} on ({len(wanted)} bytes became {len(got)})"


GATES = (
    Gate("no_haiku_on_anthropic", "no haiku request reaches the anthropic lane", judge_no_haiku_on_anthropic),
    Gate("no_other_model_on_zai", "no other model's request reaches the zai lane", judge_no_other_on_zai),
    Gate(
        "no_zai_credential_on_anthropic",
        "the zai key never reaches the anthropic lane",
        judge_no_zai_credential_on_anthropic,
    ),
    Gate(
        "no_anthropic_credential_on_zai",
        "the client's credential never reaches the zai lane",
        judge_no_anthropic_credential_on_zai,
    ),
    Gate(
        "credential_untouched", "the client's credential arrives as it was sent", judge_credential_untouched
    ),
    Gate("a_200_on_each_lane", "each lane answers 200", judge_a_200_on_each_lane),
    Gate("bodies_untouched", "requests reach their upstream byte for byte", judge_bodies_untouched),
    Gate(
        "every_request_accounted",
        "what reaches a lane is what a client sent there, and all of it",
        judge_every_request_accounted,
    ),
    Gate("sse_identical", "answers reach the client byte for byte", judge_answers_identical),
    Gate(
        "status_faithful",
        "the client hears the status that the upstream gave, and none before it",
        judge_status_faithful,
    ),
    Gate("many_at_once", "the lanes were watched with many requests in flight together", judge_many_at_once),
    Gate("cut_shown", "an answer that breaks off is never ended as if it were whole", judge_cut_shown),
    Gate("sse_not_buffered", "each event leaves before the next one arrives", judge_not_buffered),
    Gate("no_leak", "no body text and no secret in files, logs or outputs", judge_no_leak),
)


def lanes(evidence: Evidence) -> Mapping[str, LaneMetrics]:
    """The lanes' figures for the metrics."""
    figures = {}
    for lane in LANES:
        own = [e for e in evidence.exchanges if e.expected_lane == lane]
        times = [e.ttfb_ms for e in own if e.ttfb_ms is not None]
        crossed = {"the zai key"} if lane == ANTHROPIC else {"the client's api key", "the client's token"}
        figures[lane] = LaneMetrics(
            requests=len(own),
            status=dict(Counter(str(e.status) for e in own)),
            ttfb_ms=percentiles(times),
            latency_ms=percentiles([e.total_ms for e in own if e.total_ms is not None]),
            tokens=tokens_of(own),
            violations=sum(found.name in crossed for found in evidence.crossings[lane]),
        )
    return figures


def percentiles(times: Sequence[float]) -> Mapping[str, float]:
    """p50, p95 and the largest; nothing where nothing was measured."""
    if not times:
        return {}
    p95 = quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]
    return {"p50": round(median(times), 3), "p95": round(p95, 3), "max": round(max(times), 3)}


_TOKENS = re.compile(rb'"(input|output)_tokens": ?([0-9]{1,9})')


def tokens_of(exchanges: Sequence[Exchange]) -> Mapping[str, int]:
    """What the answers said of tokens; of each kind the largest of an answer, since a stream repeats itself."""
    total = {"input": 0, "output": 0}
    for seen in exchanges:
        largest: dict[str, int] = {}
        for kind, count in _TOKENS.findall(seen.body):
            largest[kind.decode()] = max(int(count), largest.get(kind.decode(), 0))
        for name, number in largest.items():
            total[name] += number
    return total


def usage_of(evidence: Evidence) -> Mapping[str, bytes]:
    """The usage log, for who keeps snapshots."""
    return {"usage": evidence.usage}


def secrets_of(evidence: Evidence) -> Mapping[str, str]:
    """What must not stand in the results either."""
    return evidence.secrets.named()


suite = Suite(
    "ccp",
    "routing proxy: lane hygiene and streaming",
    drive,
    GATES,
    serves=True,
    logs=usage_of,
    lanes=lanes,
    secrets=secrets_of,
)

QUICK_GATES = tuple(
    gate for gate in GATES if gate.name not in {"status_faithful", "cut_shown", "many_at_once"}
)
"""A witness that always answers shows nothing about refusals, so those gates are not asked."""

quick_suite = Suite(
    "ccp-quick",
    "routing proxy: one request a lane",
    drive_quickly,
    QUICK_GATES,
    serves=True,
    accepts=False,
    logs=usage_of,
    lanes=lanes,
    secrets=secrets_of,
)
