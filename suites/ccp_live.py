"""The routing proxy against the real upstreams, with the user's own keys: for `holdfast loop --live` only.

One request a lane, small. Nothing stands between proxy and provider, so what only a witness sees (which
credential went where, byte for byte) is not judged here and no gate claims it.
"""

import json
import os
from collections.abc import Mapping

from holdfast.harness.driver import Exchange, exchange, new_marker
from holdfast.harness.gate import Gate, Judgement, cannot_tell, failed, passed
from holdfast.harness.leak import search
from holdfast.harness.suite import Stage, Suite
from holdfast.harness.witness import Ledger
from holdfast.sandbox.refusal import BadInputError
from holdfast.suites.ccp import (
    Evidence,
    judge_a_200_on_each_lane,
    judge_no_leak,
    lanes,
    missed_decoys,
    places_of,
    proxy_spec,
    secrets_of,
    usage_of,
)
from holdfast.suites.ccp_traffic import ANTHROPIC, COMMON_HEADERS, HAIKU, OTHERS, ZAI, Secrets

__all__ = ["suite"]

UPSTREAMS: Mapping[str, tuple[str, str]] = {
    ANTHROPIC: ("CCP_ANTHROPIC_URL", "https://api.anthropic.com"),
    ZAI: ("CCP_ZAI_URL", "https://api.z.ai/api/anthropic"),
}
CLIENT_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


def drive(stage: Stage) -> Evidence:
    """Two small requests; raises `BadInputError` naming the key that is not set."""
    header, client_key = _client_credential()
    zai_key = _needed("ZAI_API_KEY")
    fresh = Secrets.fresh()
    known = Secrets(zai_key, client_key, client_key, fresh.question, fresh.answer)
    logs = stage.folder / "logs"
    logs.mkdir(exist_ok=True)
    urls = {lane: _real(name, default) for lane, (name, default) in UPSTREAMS.items()}
    spec = proxy_spec(stage, urls[ANTHROPIC], urls[ZAI], zai_key, logs)
    with stage.serve(spec) as proxy:
        exchanges = tuple(_ask(spec.port, model, header, known.question) for model in (OTHERS[0], HAIKU[0]))
    places = places_of(stage.folder, proxy.outputs())
    own = {name: value for name, value in known.named().items() if name != "the answer's text"}
    return Evidence(
        exchanges=exchanges,
        captures={ANTHROPIC: (), ZAI: ()},
        crossings={ANTHROPIC: (), ZAI: ()},
        expected_credentials={},
        leaks=search(own, places),
        searched=len(places),
        blind_to=missed_decoys(stage.folder, known.question),
        problems=(),
        secrets=known,
        usage=b"".join(text for place, text in places if place == "logs/usage.jsonl"),
    )


def _real(name: str, default: str) -> str:
    """The public address; a stand-in would make every result say `live` of something that is not."""
    told = os.environ.get(name, default).rstrip("/")
    if told != default:
        raise BadInputError(f"`--live` with {name}=`{told}` is not live", hint=f"unset {name}")
    return default


def _client_credential() -> tuple[Mapping[str, str], str]:
    """The header that the user's own client would send, and the secret in it."""
    for name in CLIENT_KEYS:
        if value := os.environ.get(name):
            if name == "ANTHROPIC_API_KEY":
                return {"x-api-key": value}, value
            return {"authorization": f"Bearer {value}", "anthropic-beta": "oauth-2025-04-20"}, value
    raise BadInputError("`--live` needs the client's credential", hint=f"set one of {', '.join(CLIENT_KEYS)}")


def _needed(name: str) -> str:
    if value := os.environ.get(name):
        return value
    raise BadInputError(f"`--live` needs {name}", hint="export it; it is handed to the proxy alone")


def _ask(port: int, model: str, credential: Mapping[str, str], question: str) -> Exchange:
    marker = new_marker()
    document = {
        "model": model,
        "max_tokens": 8,
        "stream": True,
        "messages": [{"role": "user", "content": f"Say ok. ({marker.decode()} {question})"}],
    }
    return exchange(
        port,
        marker=marker,
        method="POST",
        target="/v1/messages",
        headers={**COMMON_HEADERS, **credential},
        body=json.dumps(document).encode(),
        model=model,
        expected_lane=ZAI if model in HAIKU else ANTHROPIC,
        ledger=Ledger(),
    )


def judge_logged_lanes(evidence: Evidence) -> Judgement:
    """By the proxy's own log, since nobody else saw: each model went to its lane."""
    lines = [json.loads(line) for line in evidence.usage.splitlines()]
    asked = {exchange.model: exchange.expected_lane for exchange in evidence.exchanges}
    seen = {line.get("model"): line.get("lane") for line in lines if line.get("model") in asked}
    if wrong := [model for model, lane in seen.items() if lane != asked[str(model)]]:
        return failed(f"by its own log the proxy sent {wrong[0]} to the {seen[wrong[0]]} lane")
    if missing := [model for model in asked if model not in seen]:
        return cannot_tell(f"the proxy's log has no line for {missing[0]}")
    return passed(f"{len(seen)} models, by the proxy's own log")


def judge_streams_whole(evidence: Evidence) -> Judgement:
    """Each 200 is a stream that ends as the protocol says."""
    good = [e for e in evidence.exchanges if e.status == 200]
    if broken := [e for e in good if not e.complete or b"event: message_stop" not in e.body]:
        return failed(f"the stream for {broken[0].model} did not end with message_stop")
    return (
        passed(f"{len(good)} streams, each whole") if good else cannot_tell("no stream was answered with 200")
    )


suite = Suite(
    "ccp-live",
    "routing proxy against the real upstreams",
    drive,
    (
        Gate("a_200_on_each_lane", "each lane answers 200", judge_a_200_on_each_lane),
        Gate("logged_lanes", "by the proxy's own log each model went to its lane", judge_logged_lanes),
        Gate("streams_whole", "each stream ends with message_stop", judge_streams_whole),
        Gate("no_leak", "no body text and no secret in files, logs or outputs", judge_no_leak),
    ),
    serves=True,
    accepts=False,
    live=True,
    logs=usage_of,
    lanes=lanes,
    secrets=secrets_of,
)
