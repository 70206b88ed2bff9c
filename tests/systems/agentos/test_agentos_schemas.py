"""A violation names the JSON path and the rule; the published schemas are the ones that are enforced."""

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.schemas import SchemaViolationError, load_schema, require_event

ROOT = Path(__file__).parents[3]
TURN: dict[str, Any] = {
    "type": "turn",
    "v": 1,
    "turn_id": "t",
    "session_id": "s",
    "model": "m",
    "tokens_in": 1,
    "tokens_out": 1,
    "input_kind": "text",
    "latency_ms": 1,
}
SESSION: dict[str, Any] = {
    "type": "session",
    "v": 1,
    "session_id": "s",
    "repo_id": "r",
    "branch": "b",
    "commit": "c",
    "license_id": None,
    "privacy_tier": "full",
    "created_at": "2026-01-01T00:00:00Z",
}
VIOLATIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({}, "$.type", "enum"),
    "a type that is not ours": ({"type": "ping"}, "$.type", "enum"),
    "a type that is no text": ({"type": ["turn"]}, "$.type", "enum"),
    "a field is missing": ({k: v for k, v in TURN.items() if k != "model"}, "$", "required"),
    "an unknown field": ({**TURN, "token_in": 1}, "$", "additionalProperties"),
    "a negative count": ({**TURN, "tokens_in": -1}, "$.tokens_in", "minimum"),
    "a fraction of a token": ({**TURN, "tokens_in": 1.5}, "$.tokens_in", "type"),
    "a count past 2^53": ({**TURN, "tokens_in": 2**53}, "$.tokens_in", "maximum"),
    "a count past 2^64": ({**TURN, "tokens_in": 2**70}, "$.tokens_in", "maximum"),
    "a bool as a count": ({**TURN, "tokens_in": True}, "$.tokens_in", "type"),
    "another kind of input": ({**TURN, "input_kind": "audio"}, "$.input_kind", "enum"),
    "a share above one": ({**TURN, "attribution": {"m": 1.5}}, "$.attribution.m", "maximum"),
    "shares of less than one": ({**TURN, "attribution": {"m": 0.5}}, "$.attribution", "sharesAddUpToOne"),
    "a wrong part": ({**TURN, "feature": {"feature_id": "f", "status": "done"}}, "$.feature.status", "enum"),
    "a list's element": ({**TURN, "value": {"links": ["ok", 1]}}, "$.value.links[1]", "type"),
    "a control character in an id": ({**TURN, "turn_id": "a\nb"}, "$.turn_id", "pattern"),
    "an unknown tier": ({**SESSION, "privacy_tier": "private"}, "$.privacy_tier", "enum"),
    "a time that is none": ({**SESSION, "created_at": "2026-13-01T00:00:00Z"}, "$.created_at", "format"),
    "a time of another zone": (
        {**SESSION, "created_at": "2026-01-01T00:00:00+02:00"},
        "$.created_at",
        "pattern",
    ),
    "not a number": ({**TURN, "latency_ms": float("nan")}, "$.latency_ms", "type"),
    "infinity": ({**TURN, "latency_ms": float("inf")}, "$.latency_ms", "type"),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_violation_names_the_path_and_the_rule(case: str) -> None:
    event, path, rule = VIOLATIONS[case]
    with pytest.raises(SchemaViolationError) as caught:
        require_event(event)
    assert (caught.value.path, caught.value.rule) == (path, rule)
    assert f"`{path}`" in str(caught.value)
    assert f"`{rule}`" in str(caught.value)


@pytest.mark.parametrize("odd", [float("nan"), b"bytes", {1, 2}, "\ud800"])
def test_what_json_cannot_say_is_refused_before_it_is_written(odd: object, tmp_path: Path) -> None:
    """Under a caller's own name, where the schema looks no further."""
    with Recorder(tmp_path) as recorder:
        recorder.start(SESSION)
        before = (tmp_path / "windows.jsonl").read_bytes()
        with pytest.raises(SchemaViolationError):
            recorder.log({**TURN, "x_mine": [odd]})
        assert (tmp_path / "windows.jsonl").read_bytes() == before


@pytest.mark.parametrize("event", [TURN, SESSION, {**TURN, "x_mine": {"any": [1, "thing"]}}])
def test_a_good_event_passes(event: dict[str, Any]) -> None:
    require_event(event)


def test_a_long_bad_value_does_not_make_a_long_message() -> None:
    with pytest.raises(SchemaViolationError) as caught:
        require_event({**TURN, "model": "m" * 100_000})
    assert len(str(caught.value)) < 500


def test_the_schemas_in_the_docs_are_the_ones_that_are_enforced() -> None:
    enforced = {
        f"ccc-{path.name}" for path in (ROOT / "systems" / "agentos" / "schemas" / "v1").glob("*.json")
    }
    published = {path.name: path for path in (ROOT / "docs" / "schemas").glob("ccc-*.json")}
    assert set(published) == enforced
    for name, path in published.items():
        assert json.loads(path.read_bytes()) == load_schema(name.removeprefix("ccc-").removesuffix(".json"))
