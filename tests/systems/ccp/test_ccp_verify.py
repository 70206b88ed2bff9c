"""`ccp verify` and `ccp doctor`: they pass on the real proxy, and each rule can fail."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.systems.ccp.cli import main
from holdfast.systems.ccp.contract import CLAUSES, check_contract
from holdfast.systems.ccp.doctor import run_doctor
from holdfast.systems.ccp.http1 import Limits, RequestReader
from holdfast.systems.ccp.rig import Captured, Witness
from holdfast.systems.ccp.verify import ENDPOINTS, MODELS, Evidence, Outcome, gather, judge


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """One real run, shared: every planted fault below is a change to what it saw."""
    return gather(tmp_path_factory.mktemp("verify"))


def test_every_rule_passes_on_the_real_proxy(evidence: Evidence) -> None:
    findings = judge(evidence)
    assert len(findings) == 12
    assert {f.rule: f.outcome for f in findings if f.outcome is not Outcome.PASS} == {}


def test_the_matrix_was_driven_whole(evidence: Evidence) -> None:
    streams = sum(2 if "count" not in endpoint else 1 for endpoint in ENDPOINTS)
    assert len(evidence.sent) == len(MODELS) * 3 * streams == 75


def test_with_no_evidence_no_rule_passes(evidence: Evidence) -> None:
    empty = replace(
        evidence,
        sent=(),
        captured={"anthropic": (), "zai": ()},
        raw={"anthropic": b"", "zai": b""},
        usage_lines=(),
    )
    assert {f.outcome for f in judge(empty)} == {Outcome.CANNOT_TELL}


def recaptured(raw: bytes) -> Captured:
    reader = RequestReader(Limits())
    reader.feed(raw)
    request = reader.next_request()
    assert request is not None
    return Captured(raw, request, 1)


def moved(evidence: Evidence, source: str, target: str) -> Evidence:
    """One request of a lane went to the other."""
    one = evidence.captured[source][0]
    captured = {source: evidence.captured[source][1:], target: (*evidence.captured[target], one)}
    raw = {source: evidence.raw[source], target: evidence.raw[target] + one.raw}
    return replace(evidence, captured=captured, raw=raw)


def with_raw(evidence: Evidence, lane: str, more: bytes) -> Evidence:
    return replace(evidence, raw={**evidence.raw, lane: evidence.raw[lane] + more})


def with_first(evidence: Evidence, lane: str, old: bytes, new: bytes) -> Evidence:
    first, *rest = evidence.captured[lane]
    changed = recaptured(re.sub(old, new, first.raw))
    return replace(evidence, captured={**evidence.captured, lane: (changed, *rest)})


PLANTED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "haiku-to-anthropic": (lambda e: moved(e, "zai", "anthropic"), "no haiku on the anthropic lane"),
    "zai-key-to-anthropic": (
        lambda e: moved(e, "zai", "anthropic"),
        "no zai credential on the anthropic lane",
    ),
    "oauth-to-zai": (lambda e: moved(e, "anthropic", "zai"), "no anthropic credential on the zai lane"),
    "zai-key-in-base64": (
        lambda e: with_raw(
            e, "anthropic", __import__("base64").b64encode(b"u:" + e.canaries.zai_key.encode() + b":p")
        ),
        "no zai credential on the anthropic lane",
    ),
    "credential-changed": (
        lambda e: with_first(e, "anthropic", rb"Authorization: Bearer", b"authorization: Bearer"),
        "the client's credential untouched on anthropic",
    ),
    "key-missing": (
        lambda e: with_first(e, "zai", rb"x-api-key: [^\r]*\r\n", b""),
        "lane zai's own key, once, on every request",
    ),
    "body-changed": (lambda e: with_first(e, "zai", rb'"n": ', b'"n":\t'), "bodies arrive byte for byte"),
    "a-500": (lambda e: replace(e, sent=(replace(e.sent[0], status=500), *e.sent[1:])), "200 on lane zai"),
    "answer-changed": (
        lambda e: replace(e, sent=(replace(e.sent[0], payload=b"{}"), *e.sent[1:])),
        "answers arrive byte for byte",
    ),
    "buffered": (
        lambda e: replace(e, sent=tuple(replace(s, late_events=1) if s.stream else s for s in e.sent)),
        "each event leaves before the next one comes",
    ),
    "body-logged": (
        lambda e: replace(e, written=e.written + e.canaries.prompt.encode().hex().encode()),
        "no body and no secret written anywhere",
    ),
    "line-missing": (
        lambda e: replace(e, usage_lines=e.usage_lines[1:]),
        "one usage line a request, digests equal",
    ),
    "digests-differ": (
        lambda e: replace(
            e, usage_lines=({**e.usage_lines[0], "sha256_downstream": "0"}, *e.usage_lines[1:])
        ),
        "one usage line a request, digests equal",
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize(("plant", "rule"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_each_fault_turns_its_rule_red(
    evidence: Evidence, plant: Callable[[Evidence], Evidence], rule: str
) -> None:
    outcomes = {f.rule: f.outcome for f in judge(plant(evidence))}
    assert outcomes[rule] is Outcome.FAIL


def test_verify_prints_its_findings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["schema"], page["live"], len(page["findings"])) == ("ccp.verify/1", False, 12)


def test_every_clause_of_the_contract_holds(tmp_path: Path) -> None:
    assert {c.name: c.complaint for c in check_contract(tmp_path) if c.complaint} == {}
    assert len(CLAUSES) == 18


def test_the_doctor_is_content_with_a_sound_machine(
    tmp_path: Path, anthropic: Witness, zai: Witness, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"ZAI_API_KEY": "k-1234567", "CCP_ANTHROPIC_URL": anthropic.url, "CCP_ZAI_URL": zai.url}
    assert run_doctor(environ, tmp_path, contract=False) == 0
    out = capsys.readouterr().out
    assert "k-1234567" not in out
    assert "is not supported by Anthropic" in out
    for witness in (anthropic, zai):
        assert [(c.request.head.method, c.request.head.path) for c in witness.captured] == [("HEAD", "/")]


SICK = {
    "no-key": ({"ZAI_API_KEY": ""}, "key of lane zai"),
    "bad-url": ({"CCP_ZAI_URL": "ftp://x"}, "lanes"),
    "bad-policy": ({"CCP_POLICY_URL": "/nowhere"}, "environment and policy"),
    "bad-switch": ({"CCP_BLOCK_CN": "x"}, "environment and policy"),
    "nobody-there": ({"CCP_ZAI_URL": "http://127.0.0.1:1"}, "upstream of lane zai"),
}


@pytest.mark.planted
@pytest.mark.parametrize(("change", "row"), SICK.values(), ids=SICK.keys())
def test_planted_the_doctor_names_what_is_wrong(
    tmp_path: Path,
    anthropic: Witness,
    zai: Witness,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    row: str,
) -> None:
    environ = {"ZAI_API_KEY": "k", "CCP_ANTHROPIC_URL": anthropic.url, "CCP_ZAI_URL": zai.url, **change}
    assert run_doctor(environ, tmp_path, contract=False) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert row in failed[0]
