"""The engine inside: rollouts on live traffic, stores that fail, and every parser under arbitrary bytes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast.systems.kakeya.dedup import StoreUnavailableError
from holdfast.systems.kakeya.identity import Identity
from holdfast.systems.kakeya.pcs import BadFieldError, canonical, fixed9, parse_body
from holdfast.systems.kakeya.quickstart import TENANT, Client, lay_out, open_client
from holdfast.systems.kakeya.routing.rollout import Arm, Rollout
from holdfast.systems.kakeya.service.engine import Answer, Engine
from holdfast.systems.kakeya.service.inbox import Inbox, iter_bodies
from holdfast.systems.kakeya.service.policy_file import PolicyFile
from holdfast.systems.kakeya.service.rollouts import BASELINE, Rollouts
from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

WHO = Identity(TENANT, "s", "hmac")


def now() -> float:
    return 1_700_000_000.0


def made(folder: Path, **controls: Any) -> tuple[Engine, Client]:
    return Engine(PolicyFile(lay_out(folder, **controls)), folder / "data", now), open_client(folder, now)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Engine, Client]]:
    (tmp_path / "data").mkdir()
    engine, client = made(tmp_path, riskRouting={"enabled": True, "canary": 10})
    yield engine, client
    engine.close()


def answer(engine: Engine, raw: bytes) -> Answer:
    judged = engine.judge(raw, WHO, None)
    return judged if isinstance(judged, Answer) else engine.settle(judged, engine.put_first(judged))


def test_both_arms_are_served_and_the_canary_is_a_tenth(engine: tuple[Engine, Client]) -> None:
    served, client = engine
    risk = {"risk": 0.01, "low": 0.0, "high": 0.02}
    paths = [answer(served, client.submission(risk=risk)).body["path"] for _ in range(300)]
    assert 10 <= paths.count("fast") <= 60


@pytest.mark.parametrize(
    ("arm", "reason"),
    [(Arm(1.0, missed=True), "containment_regression"), (Arm(99.0, missed=False), "p95_regression")],
    ids=["misses", "slower"],
)
@pytest.mark.parametrize("start", [10.0, 100.0])
def test_a_regression_takes_the_canary_back_and_a_restart_does_not_forget_it(
    tmp_path: Path, arm: Arm, reason: str, start: float
) -> None:
    steps: list[tuple[str, Rollout]] = []
    rollouts = Rollouts(tmp_path / "r.json", lambda name, rollout: steps.append((name, rollout)))
    for n in range(BASELINE):
        rollouts.observe("t", start, Arm(1.0 + n / BASELINE, missed=False), canary=False)
    for _ in range(400):
        rollouts.observe("t", start, Arm(1.5, missed=False), canary=False)
        rollouts.observe("t", start, arm, canary=True)
    assert rollouts.percent("t", start) == 0
    assert [(name, r.percent, r.reason) for name, r in steps] == [("t", 0, reason)]
    again = Rollouts(tmp_path / "r.json", lambda *_: None)
    assert again.percent("t", start) == 0
    assert again.percent("t", 50.0) == 50.0, "a new start percentage starts anew"


def test_no_canary_is_judged_before_there_is_a_baseline(tmp_path: Path) -> None:
    rollouts = Rollouts(tmp_path / "r.json", lambda *_: None)
    for _ in range(BASELINE - 1):
        rollouts.observe("t", 10, Arm(1.0, missed=False), canary=False)
        rollouts.observe("t", 10, Arm(1.0, missed=True), canary=True)
    assert rollouts.percent("t", 10) == 10


def test_a_rollback_is_logged_before_it_takes_effect(engine: tuple[Engine, Client]) -> None:
    from holdfast.systems.kakeya.routing.worm import iter_entries

    served, _ = engine
    served._on_step(TENANT, Rollout(0, 1.0, reason="p95_regression"))
    log = list(iter_entries(Path(served._log._folder)))
    assert log[-1]["reason"] == "p95_regression"
    assert served.metrics.value("kakeya_rollbacks_total", reason="p95_regression") == 1


def test_a_store_that_fails_accepts_nothing(engine: tuple[Engine, Client]) -> None:
    served, client = engine
    served.store.close()
    with pytest.raises(StoreUnavailableError):
        answer(served, client.submission())


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
@pytest.mark.parametrize("shown", ["none", "good", "other tenant", "garbage"])
def test_the_token_itself_may_be_asked_for(tmp_path: Path, mode: str, shown: str) -> None:
    from joserfc import jwt
    from joserfc.jwk import KeySet, OKPKey

    key = OKPKey.generate_key("Ed25519", {"kid": "k"}, private=True)
    policy = lay_out(tmp_path, identity={"token": mode})
    document = json.loads(policy.read_text())
    document["gateway"]["jwksFile"] = "jwks.json"
    (tmp_path / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    policy.write_text(json.dumps(document))
    gateway = document["gateway"]
    claims = {"iss": gateway["issuer"], "aud": gateway["audience"], "exp": now() + 60}
    tokens = {
        "none": None,
        "garbage": "a.b.c",
        "good": jwt.encode(
            {"alg": "Ed25519", "kid": "k"}, {**claims, "tenant_id": TENANT}, key, algorithms=["Ed25519"]
        ),
        "other tenant": jwt.encode(
            {"alg": "Ed25519", "kid": "k"}, {**claims, "tenant_id": "x"}, key, algorithms=["Ed25519"]
        ),
    }
    (tmp_path / "data").mkdir()
    served = Engine(PolicyFile(policy), tmp_path / "data", now)
    judged = served.judge(open_client(tmp_path, now).submission(), WHO, tokens[shown])
    refused = isinstance(judged, Answer) and judged.status == 401
    assert refused is (mode == "enforce" and shown != "good")
    served.close()


# -- the inbox ----------------------------------------------------------------------------------------


def test_the_inbox_cuts_off_a_torn_frame_and_goes_on(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.append(b"one")
    inbox.append(b"")
    inbox.close()
    segment = next(tmp_path.iterdir())
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"\x00\x00\x00\x09halfafra")
    again = Inbox(tmp_path)
    again.append(b"two")
    again.close()
    assert list(iter_bodies(tmp_path)) == [b"one", b"", b"two"]


def test_the_inbox_is_bounded(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, segment_bytes=100, segments=3)
    for n in range(40):
        inbox.append(bytes(50) + bytes([n]))
    inbox.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert list(iter_bodies(tmp_path))[-1][-1] == 39


# -- parsers under fire -------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "pcs_id",
    "merkle_root",
    "epoch",
    "shard_id",
    "D_hat",
    "coh_star",
    "r",
    "budget",
    "sig",
    "vrf_proof",
    "risk",
    "grounding",
]


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.dictionaries(st.sampled_from(FIELDS), json_values).map(lambda d: json.dumps(d).encode()),
    )
)
@example(b'{"D_hat":1e999}')
@example(b'{"\\ud800":1}')
@example(b"[" * 50_000)
def test_no_bytes_crash_the_body_reader_and_every_refusal_names_a_field(raw: bytes) -> None:
    with pytest.raises(BadFieldError) as refused:
        parse_body(raw)
    assert refused.value.field
    assert refused.value.field.isascii()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=json_values, cut=st.integers(0, 700))
def test_no_change_to_a_genuine_submission_crashes_the_engine(
    engine: tuple[Engine, Client], field: str, value: object, cut: int
) -> None:
    served, client = engine
    body = {**json.loads(client.submission()), field: value}
    for raw in (json.dumps(body).encode(), client.submission()[:cut]):
        assert answer(served, raw).status in {202, 400, 401, 409}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_strict_json_accepts_nothing_that_json_does_not(raw: bytes) -> None:
    try:
        value = parse_object(raw)
    except BadJsonError:
        return
    assert json.loads(raw) == value


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_nine_decimals_are_the_nearest_with_ties_to_even(value: float) -> None:
    """Against exact rational arithmetic."""
    from fractions import Fraction

    text = fixed9(value)
    scaled = Fraction(value) * 10**9
    assert Fraction(text) * 10**9 == round(scaled)
    assert text == "0.000000000" or text.lstrip("-0.") != ""
    assert len(text.rsplit(".", 1)[1]) == 9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_decimals(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fixed9(value)


def test_the_signed_bytes_are_sorted_and_bare() -> None:
    folder_free = Client(bytes(32), bytes(32), bytes(range(32)), now)
    payload = canonical(parse_body(folder_free.submission()).pcs).decode()
    assert list(json.loads(payload)) == sorted(json.loads(payload))
    assert " " not in payload
