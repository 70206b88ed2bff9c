"""Properties over made-up events: what is folded, what is shared out, what may leave the machine."""

import json
import math
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.clock import utc_now
from holdfast.suites.agentos_scene import KEY
from holdfast.suites.agentos_wire import METRICS, parse_requests, request_faults
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.ccc_client import Uplink
from holdfast.systems.agentos.licensing.grant import seal_grant
from holdfast.systems.agentos.metrics import Rollup, model_value, session_value
from holdfast.systems.agentos.metrics.summary import fold_log, render_summary, write_summary
from holdfast.systems.agentos.privacy import SAFE_FIELDS, Minimized, reduce_event, reduce_metrics
from holdfast.systems.agentos.schemas import require_event
from holdfast.systems.agentos.server import Server, Store, Tap
from holdfast.systems.agentos.strict_json import dump_line
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.endpoint import Endpoint
from holdfast.systems.agentos.upload.outbox import Kind, Outbox
from holdfast.systems.agentos.upload.retry import Policy

SECRET = "sEcReT"
TIMES = 20 if os.environ.get("HOLDFAST_PROFILE") == "nightly" else 1
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no finding."""
names = st.sampled_from(["glm-4.6", "claude-haiku", "glm-air", "o"])
secrets = st.text("abc", max_size=3).map(lambda tail: SECRET + tail)
counts = st.integers(0, 2**40)
numbers = st.floats(0, 1e6, allow_nan=False)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | secrets,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(secrets, inner, max_size=3),
    max_leaves=8,
)
later = st.dictionaries(secrets.map(lambda name: "x_" + name), anything, max_size=3)


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    weights = draw(st.dictionaries(names, st.integers(1, 1000), min_size=1, max_size=4))
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def part(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A part of a turn, with fields of a later version, nested."""
    return st.builds(lambda known, more: {**known, **more}, st.fixed_dictionaries({}, optional=fields), later)


measurements = part(
    cls=secrets, impf=numbers, churn_score=numbers, feature_delta=st.floats(-100, 100), errors=counts
)
values = part(kind=secrets, summary=st.just("told"), links=st.just(["https://told.example"]))
decisions = part(lane=secrets, rerouted=st.booleans(), reason=secrets)
turns = st.builds(
    lambda base, optional, more: {"type": "turn", "v": 1, "session_id": "s", **base, **optional, **more},
    st.fixed_dictionaries(
        {
            "model": names,
            "tokens_in": counts,
            "tokens_out": counts,
            "input_kind": st.sampled_from(["text", "image"]),
            "latency_ms": numbers,
        }
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "subagent": secrets,
            "attribution": shares(),
            "capacity_used": st.floats(0, 1),
            "measurement": measurements,
            "value": values,
            "decision": decisions,
        },
    ),
    later,
)


def session_of(made: list[dict[str, Any]], tier: str) -> list[dict[str, Any]]:
    began = {
        "type": "session",
        "v": 1,
        "session_id": "s",
        "repo_id": SECRET,
        "branch": SECRET,
        "commit": SECRET,
        "license_id": SECRET,
        "privacy_tier": tier,
        "created_at": "2026-01-01T00:00:00Z",
        "metadata": {SECRET: [SECRET]},
    }
    numbered = [{**turn, "turn_id": f"{SECRET}{number}"} for number, turn in enumerate(made)]
    ended = {
        "type": "session_end",
        "v": 1,
        "session_id": "s",
        "ended_at": "2026-01-01T00:00:01Z",
        "notes": SECRET,
    }
    return [began, *numbered, ended]


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, max_size=12), st.data())
def test_a_checkpoint_anywhere_changes_nothing_of_the_sum(
    made: list[dict[str, Any]], data: st.DataObject
) -> None:
    events = session_of(made, "local_only")
    whole, pieces = Rollup(), Rollup()
    for place, event in enumerate(events):
        require_event(event)
        whole.add(event, place)
        pieces.add(event, place)
        if data.draw(st.booleans()):
            pieces = Rollup.from_json(json.loads(json.dumps(pieces.to_json())))
    assert pieces.to_json() == whole.to_json()
    assert render_summary(pieces, {}) == render_summary(whole, {})


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, max_size=8), st.integers(0, 10), st.binary(max_size=20))
def test_the_summary_resumed_from_its_file_equals_a_full_rebuild(
    made: list[dict[str, Any]], stop: int, junk: bytes
) -> None:
    """With a line of junk in the middle, and a summary that was written somewhere on the way."""
    lines = [dump_line(event) for event in session_of(made, "full")]
    lines.insert(min(stop, len(lines)), junk.replace(b"\n", b"") + b"\n")
    with tempfile.TemporaryDirectory() as folder:
        log, summary = Path(folder, "windows.jsonl"), Path(folder, "metrics_summary.json")
        log.write_bytes(b"".join(lines[:stop]))
        write_summary(summary, log, fold_log(log, summary), {})
        log.write_bytes(b"".join(lines))
        resumed, rebuilt = fold_log(log, summary), fold_log(log, None)
    assert resumed.resumed
    assert resumed.rollup.to_json() == rebuilt.rollup.to_json()


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, max_size=12))
def test_the_rollup_agrees_with_the_sums_written_down_plainly(made: list[dict[str, Any]]) -> None:
    """The second, small implementation: one expression a figure."""
    events = session_of(made, "local_only")
    rollup = Rollup()
    for event in events:
        rollup.add(event, 0)
    said = [turn.get("measurement", {}) for turn in made]
    assert rollup.turns == len(made)
    assert rollup.tokens_in == sum(turn["tokens_in"] for turn in made)
    assert rollup.errors == sum(one.get("errors", 0) for one in said)
    assert rollup.glm_turns == sum(turn["model"].startswith("glm") for turn in made)
    assert math.isclose(
        rollup.features_shipped, sum(one.get("feature_delta", 0) for one in said), abs_tol=1e-6
    )
    assert rollup.reroutes == sum(bool(turn.get("decision", {}).get("rerouted")) for turn in made)
    for model, value in model_value(made).items():
        assert math.isclose(
            rollup.models[model].value if model in rollup.models else 0.0, value, abs_tol=1e-6
        )


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, max_size=12))
def test_the_models_shares_add_up_to_the_sessions_value(made: list[dict[str, Any]]) -> None:
    size = math.fsum(abs(turn.get("measurement", {}).get("feature_delta", 0)) for turn in made)
    assert abs(math.fsum(model_value(made).values()) - session_value(made)) <= 1e-9 * max(1.0, size)


def leaving(made: list[dict[str, Any]], tier: str) -> dict[Kind, list[bytes]]:
    """The bodies that the queue holds for a session, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "windows.jsonl")
        log.write_bytes(b"".join(dump_line(event) for event in session_of(made, tier)))
        outbox = Outbox(Path(folder, "outbox.sqlite"))
        outbox.catch_up(log, now=utc_now())
        found = {kind: [row.body for row in outbox.head([kind], 1000)] for kind in Kind}
        outbox.close()
    return found


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, max_size=6))
def test_minimized_lets_out_agreed_numbers_whatever_is_in_the_events(made: list[dict[str, Any]]) -> None:
    found = leaving(made, "minimized")
    assert found[Kind.EVENT] == []
    (body,) = found[Kind.METRICS]
    assert SECRET.encode() not in body
    metrics = json.loads(body)["metrics"]
    assert set(metrics) == METRICS
    assert all(type(value) in {int, float} for value in metrics.values())
    assert metrics["turns"] == len(made)


@settings(CALM, max_examples=10 * TIMES)
@given(st.lists(turns, min_size=1, max_size=4))
def test_on_the_wire_itself_minimized_says_nothing_else(made: list[dict[str, Any]]) -> None:
    """The same through the real client, a tap and the real server: head and body of every request."""
    grant = seal_grant(
        license_id=SECRET,
        plan=SECRET,
        entitlements=frozenset({"telemetry_minimized"}),
        expires=utc_now(),
        key_id="k",
    )
    with tempfile.TemporaryDirectory(prefix="hf-") as folder, ExitStack() as stack:
        root = Path(folder)
        (root / "windows.jsonl").write_bytes(
            b"".join(dump_line(event) for event in session_of(made, "minimized"))
        )
        store = Store(root / "server.sqlite")
        stack.callback(store.close)
        stack.enter_context(Server(store, KEY, unix=root / "s"))
        tap = stack.enter_context(Tap(root / "t", root / "s"))
        channel = Channel(Minimized(grant), Endpoint.from_user(tap.address), KEY)
        uplink = stack.enter_context(Uplink(DataFolder(root), Outbox(root / "outbox.sqlite"), channel))
        assert uplink.upload(Policy(tries=1)).stopped is None
        assert store.totals().metrics_turns == len(made)
        wire = tap.sent
    assert SECRET.encode() not in wire
    requests = parse_requests(wire)
    assert requests
    assert [fault for request in requests for fault in request_faults(request)] == []


@settings(CALM, max_examples=40 * TIMES)
@given(st.lists(turns, min_size=1, max_size=4))
def test_local_only_lets_nothing_out_even_when_somebody_opens_a_queue_over_its_log(
    made: list[dict[str, Any]],
) -> None:
    assert leaving(made, "local_only") == {Kind.EVENT: [], Kind.METRICS: []}


@settings(CALM, max_examples=60 * TIMES)
@given(turns)
def test_full_reduces_value_and_leaves_later_fields_at_home(turn: dict[str, Any]) -> None:
    reduced = reduce_event({**turn, "turn_id": "t"})
    assert not any(name.startswith("x_") for name in reduced)
    parts = [reduced[name] for name in ("measurement", "value", "decision") if name in reduced]
    assert not any(name.startswith("x_") for one in parts for name in one)
    assert set(reduced.get("value", {})) <= {"summary", "links"}
    require_event(reduced)


def test_a_text_in_a_numbers_place_stops_the_reduction() -> None:
    rollup = Rollup()
    rollup.turns = SECRET  # type: ignore[assignment]  # what a broken fold might do
    with pytest.raises(TypeError) as caught:
        reduce_metrics(rollup)
    assert SECRET not in str(caught.value)


def test_the_adapters_list_and_the_suites_list_agree() -> None:
    assert set(SAFE_FIELDS) == METRICS
