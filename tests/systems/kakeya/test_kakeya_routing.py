"""Risk routing: the decision as a table, the write-once log, the canary, and the guard's error rates."""

import json
import math
import os
import random
import stat
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.systems.kakeya import simulation
from holdfast.systems.kakeya.routing import (
    Arm,
    BrokenLogError,
    Estimate,
    Guard,
    GuardPolicy,
    Head,
    Path,
    Reason,
    RiskPolicy,
    Rollout,
    Verdict,
    WormLog,
    bucket,
    decide,
    in_canary,
    observe,
    record,
    verdict,
    verify_log,
)
from holdfast.systems.kakeya.routing.decision import estimate_from
from holdfast.systems.kakeya.routing.rollout import CONTAINMENT
from holdfast.systems.kakeya.routing.worm import GENESIS, iter_entries

ON = RiskPolicy(enabled=True)
NAN, INF = math.nan, math.inf
NIGHTLY = os.environ.get("HOLDFAST_PROFILE") == "nightly"


@pytest.mark.parametrize(
    ("estimate", "reason"),
    [
        ((0.05, 0.04, 0.06), Reason.LOW_RISK_NARROW_CI),
        ((0.0, 0.0, 0.0), Reason.LOW_RISK_NARROW_CI),
        ((0.0999999, 0.09, 0.11), Reason.LOW_RISK_NARROW_CI),
        ((0.10, 0.09, 0.11), Reason.HIGH_RISK),
        ((0.9, 0.89, 0.91), Reason.HIGH_RISK),
        ((0.0625, 0.03125, 0.08125), Reason.WIDE_CONFIDENCE_INTERVAL),
        ((0.05, 0.0, 0.09), Reason.WIDE_CONFIDENCE_INTERVAL),
        ((NAN, 0.0, 0.01), Reason.INVALID_INTERVAL),
        ((0.01, NAN, 0.02), Reason.INVALID_INTERVAL),
        ((0.01, 0.0, NAN), Reason.INVALID_INTERVAL),
        ((-INF, -INF, INF), Reason.INVALID_INTERVAL),
        ((0.01, 0.0, INF), Reason.INVALID_INTERVAL),
        ((-0.01, -0.02, 0.0), Reason.INVALID_INTERVAL),
        ((0.01, 0.02, 0.03), Reason.INVALID_INTERVAL),
        ((0.05, 0.01, 0.04), Reason.INVALID_INTERVAL),
        ((0.05, 0.06, 0.04), Reason.INVALID_INTERVAL),
        ((1.01, 1.0, 1.02), Reason.INVALID_INTERVAL),
    ],
)  # fmt: skip
def test_the_way_of(estimate: tuple[float, float, float], reason: Reason) -> None:
    decision = decide(ON, Estimate(*estimate))
    assert decision.reason is reason
    assert (decision.path is Path.FAST) is (reason is Reason.LOW_RISK_NARROW_CI)


def test_a_width_that_equals_the_limit_goes_the_standard_way() -> None:
    policy = RiskPolicy(enabled=True, max_ci_width=0.0625)
    assert decide(policy, Estimate(0.03125, 0.0, 0.0625)).reason is Reason.WIDE_CONFIDENCE_INTERVAL
    assert decide(policy, Estimate(0.03125, 0.0, 0.0624)).path is Path.FAST


@pytest.mark.parametrize(
    ("policy", "estimate", "reason"),
    [
        (RiskPolicy(), Estimate(0.01, 0.0, 0.02), Reason.RISK_ROUTING_DISABLED),
        (RiskPolicy(), None, Reason.RISK_ROUTING_DISABLED),
        (ON, None, Reason.INVALID_INTERVAL),
        (
            RiskPolicy(enabled=True, require_narrow_ci=False),
            Estimate(0.05, 0.0, 0.9),
            Reason.LOW_RISK_NARROW_CI,
        ),
        (RiskPolicy(enabled=True, skip_ensemble_below=0.0), Estimate(0.0, 0.0, 0.0), Reason.HIGH_RISK),
        (
            RiskPolicy(enabled=True, max_ci_width=0.0),
            Estimate(0.0, 0.0, 0.0),
            Reason.WIDE_CONFIDENCE_INTERVAL,
        ),
    ],
)
def test_each_key_of_the_policy_decides(
    policy: RiskPolicy, estimate: Estimate | None, reason: Reason
) -> None:
    assert decide(policy, estimate).reason is reason


any_float = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=300, deadline=None)
@given(risk=any_float, low=any_float, high=any_float, narrow=st.booleans())
@example(risk=0.01, low=0.02, high=0.03, narrow=False)
def test_the_fast_path_is_never_taken_on_insane_numbers(
    risk: float, low: float, high: float, *, narrow: bool
) -> None:
    decision = decide(RiskPolicy(enabled=True, require_narrow_ci=narrow), Estimate(risk, low, high))
    sane = all(map(math.isfinite, (risk, low, high))) and 0 <= low <= risk <= high <= 1
    assert decision.path is not Path.FAST or sane
    assert (decision.reason is Reason.INVALID_INTERVAL) is not sane


@pytest.mark.planted
def test_planted_a_decision_that_compares_first_takes_nan_the_fast_way() -> None:
    def compares_first(e: Estimate) -> bool:
        return not e.risk >= ON.skip_ensemble_below and not e.high - e.low >= ON.max_ci_width

    nan = Estimate(NAN, NAN, NAN)
    assert compares_first(nan)
    assert decide(ON, nan).path is Path.STANDARD


@pytest.mark.parametrize(
    "value",
    [None, [], "0.01", {}, {"risk": 0.01}, {"risk": "0.01", "low": 0, "high": 0.02}, {"risk": True, "low": 0, "high": 1},
     {"risk": 0.01, "low": 0, "high": 0.02, "x": 1}, {"risk": 10**400, "low": 0, "high": 1}, {"risk": None, "low": 0, "high": 1}],
)  # fmt: skip
def test_what_is_no_estimate_goes_the_standard_way(value: object) -> None:
    assert estimate_from(value) is None


# -- the log ------------------------------------------------------------------------------------------


def written(folder: File, entries: int, *, each: int = 4) -> Head:
    log = WormLog(folder, segment_entries=each)
    for number in range(entries):
        log.append({"n": number, "text": "é"})
    log.close()
    return log.head


def test_a_log_reads_back_in_order_and_its_chain_holds(tmp_path: File) -> None:
    head = written(tmp_path, 10)
    assert [entry["n"] for entry in iter_entries(tmp_path)] == list(range(10))
    assert verify_log(tmp_path, open_tail=True) == head
    assert head.entries == 10


def test_closed_segments_are_read_only_and_the_tail_is_closed_by_seal(tmp_path: File) -> None:
    written(tmp_path, 10)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.iterdir())]
    assert modes == [0o444, 0o444, 0o600]
    with pytest.raises(BrokenLogError, match="mode is not 0444"):
        verify_log(tmp_path)
    log = WormLog(tmp_path, segment_entries=4)
    log.seal()
    assert stat.S_IMODE((tmp_path / "segment-000002.jsonl").stat().st_mode) == 0o444
    log.close()


def test_a_log_goes_on_where_the_process_before_stopped(tmp_path: File) -> None:
    first = written(tmp_path, 6)
    second = written(tmp_path, 3)
    assert second.entries == 9
    assert verify_log(tmp_path, expected=first, open_tail=True) == second


def lines_of(folder: File) -> list[tuple[File, int, bytes]]:
    return [
        (p, n, line)
        for p in sorted(folder.iterdir())
        for n, line in enumerate(p.read_bytes().splitlines(keepends=True))
    ]


def replace_line(path: File, number: int, new: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = new
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    path.write_bytes(b"".join(lines))
    path.chmod(mode)


@pytest.mark.parametrize("victim", range(9))
@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'"n":', b'"n": '),
        lambda line: line.replace(b'"n":', b'"m":'),
        lambda line: b"",
        lambda line: line + line,
        lambda line: line[:-1],
        lambda line: line.replace(b"}", b",}", 1),
        lambda line: b"garbage\n",
        lambda line: line.replace(b'"prev":"', b'"prev":"0', 1),
    ],
    ids=["space", "key", "dropped", "doubled", "torn", "no json", "garbage", "prev"],
)
def test_any_change_to_a_line_breaks_the_chain(tmp_path: File, victim: int, change: Any) -> None:
    head = written(tmp_path, 9)
    path, number, line = lines_of(tmp_path)[victim]
    replace_line(path, number, change(line))
    with pytest.raises(BrokenLogError):
        verify_log(tmp_path, expected=head, open_tail=True)


def test_a_rewritten_tail_is_seen_against_a_head_kept_elsewhere(tmp_path: File) -> None:
    """Without the head it is a chain like any other: that is what the head is for."""
    head = written(tmp_path, 3)
    (tmp_path / "segment-000000.jsonl").unlink()
    written(tmp_path, 2)
    verify_log(tmp_path, open_tail=True)
    with pytest.raises(BrokenLogError, match="expected head"):
        verify_log(tmp_path, expected=head, open_tail=True)


def test_a_missing_segment_and_a_writable_one_are_named(tmp_path: File) -> None:
    written(tmp_path, 10)
    (tmp_path / "segment-000000.jsonl").chmod(0o644)
    with pytest.raises(BrokenLogError, match=r"segment-000000\.jsonl"):
        verify_log(tmp_path, open_tail=True)
    (tmp_path / "segment-000000.jsonl").unlink()
    with pytest.raises(BrokenLogError, match="segment 0 is missing"):
        verify_log(tmp_path, open_tail=True)


def test_a_broken_log_is_not_continued(tmp_path: File) -> None:
    written(tmp_path, 3)
    path, number, line = lines_of(tmp_path)[1]
    replace_line(path, number, line.replace(b'"n":1', b'"n":7'))
    with pytest.raises(BrokenLogError):
        WormLog(tmp_path)


def test_an_empty_log_has_the_genesis_head(tmp_path: File) -> None:
    assert verify_log(tmp_path) == Head(0, GENESIS)


# -- the canary ---------------------------------------------------------------------------------------


def test_buckets_are_the_same_for_ever() -> None:
    """Pinned: another hash would move every tenant's canary with the next release."""
    assert [bucket("riskRouting", "acme", str(n)) for n in range(4)] == PINNED


PINNED = [8745, 3369, 9249, 7224]


def test_whoever_is_in_at_ten_percent_stays_in(tmp_path: File) -> None:
    keys = [str(n) for n in range(4000)]
    inside = {
        p: {k for k in keys if in_canary(p, control="vrf", tenant="t", key=k)} for p in (0, 10, 50, 100)
    }
    assert inside[0] == set()
    assert inside[100] == set(keys)
    assert all(inside[a] < inside[b] for a, b in pairwise((0, 10, 50, 100)))
    assert 320 < len(inside[10]) < 480


def test_controls_and_tenants_have_canaries_of_their_own() -> None:
    keys = [str(n) for n in range(2000)]
    one, other, third = (
        {k for k in keys if in_canary(10, control=c, tenant=t, key=k)}
        for c, t in (("vrf", "a"), ("rag", "a"), ("vrf", "b"))
    )
    assert len(one & other) < 60
    assert len(one & third) < 60


# -- the guard ----------------------------------------------------------------------------------------


def play(
    chance: random.Random, canary: float, control: float, *, policy: GuardPolicy, pairs: int, look: int = 200
) -> Verdict:
    """One whole run at these rates of bad outcomes, looked at every `look` pairs."""
    counts = Counter[int]()
    for _ in range(0, pairs, look):
        counts.update((chance.random() < canary) - (chance.random() < control) for _ in range(look))
        said = verdict(Guard(counts[1], counts[0], counts[-1]), policy)
        if said is not Verdict.CONTINUE:
            return said
    return Verdict.CONTINUE


@pytest.mark.parametrize(
    ("canary", "control", "never", "at_most"),
    [
        (0.025, 0.020, Verdict.ROLL_BACK, CONTAINMENT.alpha),
        (0.020, 0.020, Verdict.ROLL_BACK, CONTAINMENT.alpha),
        (0.025, 0.020, Verdict.PROMOTE, CONTAINMENT.beta),
        (0.040, 0.020, Verdict.PROMOTE, CONTAINMENT.beta),
    ],
    ids=[
        "at the margin, rolled back",
        "equal arms, rolled back",
        "at the margin, promoted",
        "harmful, promoted",
    ],
)
def test_wrong_verdicts_are_as_rare_as_promised(
    canary: float, control: float, never: Verdict, at_most: float
) -> None:
    """By simulation, with a look every 200 pairs; the bound allows for the simulation's own noise (3 sigma)."""
    runs = 4000 if NIGHTLY else 400
    chance = random.Random(8)
    wrong = sum(play(chance, canary, control, policy=CONTAINMENT, pairs=6000) is never for _ in range(runs))
    assert wrong / runs <= at_most + 3 * math.sqrt(at_most * (1 - at_most) / runs), f"{wrong} of {runs}"


@pytest.mark.parametrize(
    ("canary", "control", "wanted", "pairs", "at_least"),
    [
        (0.06, 0.02, Verdict.ROLL_BACK, 6000, 0.9),
        (0.12, 0.02, Verdict.ROLL_BACK, 2000, 0.95),
        (0.020, 0.020, Verdict.PROMOTE, 40_000, 0.8),
    ],
    ids=["four points worse", "ten points worse", "no worse"],
)
def test_the_guard_has_the_power_to_say_so(
    canary: float, control: float, wanted: Verdict, pairs: int, at_least: float
) -> None:
    """A guard that always continues has no false alarms either."""
    runs = 200 if NIGHTLY else 20
    chance = random.Random(9)
    right = sum(
        play(chance, canary, control, policy=CONTAINMENT, pairs=pairs, look=500) is wanted
        for _ in range(runs)
    )
    assert right / runs >= at_least, f"{right} of {runs}"


@pytest.mark.planted
def test_planted_a_fixed_size_test_peeked_at_raises_false_alarms() -> None:
    """A z-test at 2.5 % after every 200 pairs: what a guard must not be, caught by the same measure."""

    def peeked(chance: random.Random) -> bool:
        bad = [0, 0]
        for look in range(1, 31):
            bad[0] += sum(chance.random() < 0.02 for _ in range(200))
            bad[1] += sum(chance.random() < 0.02 for _ in range(200))
            n, p = 200 * look, sum(bad) / (400 * look)
            if (bad[0] - bad[1]) / n > 1.96 * math.sqrt(2 * p * (1 - p) / n):
                return True
        return False

    chance = random.Random(10)
    runs = 300
    assert sum(peeked(chance) for _ in range(runs)) / runs > 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)


def test_no_pair_is_no_evidence() -> None:
    assert verdict(Guard(), CONTAINMENT) is Verdict.CONTINUE
    assert observe(Guard(), canary_bad=True, control_bad=True) == Guard(same=1)


def feed(rollout: Rollout, canary: Arm, control: Arm, times: int) -> Rollout:
    for _ in range(times):
        rollout = record(rollout, canary, control)
    return rollout


GOOD, SLOW, MISSED = Arm(5.0, missed=False), Arm(50.0, missed=False), Arm(5.0, missed=True)


@pytest.mark.parametrize(
    ("arm", "reason"),
    [(MISSED, "containment_regression"), (SLOW, "p95_regression")],
    ids=["misses", "slower"],
)
def test_a_regression_rolls_back_by_itself_and_for_good(arm: Arm, reason: str) -> None:
    started = Rollout(10, p95_ms=10.0)
    back = feed(started, arm, GOOD, 200)
    assert (back.percent, back.reason) == (0, reason)
    assert feed(back, GOOD, GOOD, 5000) == back


def test_a_good_canary_goes_from_10_to_50_to_100_and_no_further() -> None:
    percents = [10.0]
    rollout = Rollout(10, p95_ms=10.0)
    for _ in range(5000):
        rollout = record(rollout, GOOD, GOOD)
        if rollout.percent != percents[-1]:
            percents.append(rollout.percent)
    assert percents == [10, 50, 100]


# -- the simulator ------------------------------------------------------------------------------------


def test_the_committed_setting_keeps_its_promises() -> None:
    setting, _ = simulation.committed()
    outcome = simulation.run(setting)
    assert 25 <= outcome.gain_percent <= 40
    assert abs(outcome.containment_delta_points) <= 0.5
    assert outcome.requests == 40_000


def test_without_routing_both_arms_are_one() -> None:
    setting, _ = simulation.committed()
    outcome = simulation.run(setting, RiskPolicy(enabled=False))
    assert (outcome.gain_percent, outcome.containment_delta_points, outcome.fast_share) == (0, 0, 0)


def test_the_sensitivity_table_shows_where_the_claim_fails() -> None:
    """A table in which nothing fails was not looked for hard enough."""
    setting, axes = simulation.committed()
    rows = simulation.sensitivity(replace(setting, requests=3_000), axes)
    assert len(rows) == sum(map(len, axes.values()))
    assert any(o.gain_percent < 25 for _, _, o in rows)
    assert any(o.gain_percent > 40 for _, _, o in rows)
    assert any(o.containment_delta_points < -0.5 for _, _, o in rows)


def test_the_simulation_file_is_one() -> None:
    raw = json.loads(File(simulation.__file__).with_name("simulation.json").read_text())
    assert raw["schema"] == "holdfast.kakeya-simulation/1"
