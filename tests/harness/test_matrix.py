"""The matrix, without a sandbox: what a cell says, by what an act is held, and how the page tells it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from holdfast.harness.battery import ArmRun, Finding
from holdfast.harness.matrix import (
    Column,
    Ground,
    Status,
    exit_code,
    held_by,
    ineffective,
    matrix_document,
    missing,
)
from holdfast.harness.report.matrix_page import render_matrix_html, render_matrix_markdown, view_of
from holdfast.harness.results import validate_document
from holdfast.harness.run_id import Run
from holdfast.sandbox import Isolation
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.probes.probe import Level, Probe
from holdfast.sandbox.verdict import Arm, ArmOutcome, ProbeVerdict, Proof

ROOT = Path(__file__).parents[2]
REACHED, DENIED = Arm(ArmOutcome.REACHED), Arm(ArmOutcome.DENIED, "EPERM")
BROKEN, LOST = Arm(ArmOutcome.TIMEOUT), Arm(ArmOutcome.SETUP_FAILED)
ARMS = {"r": REACHED, "d": DENIED, "b": BROKEN}


def probe(act: str, level: Level) -> Probe:
    return Probe("family", act, level, "x", lambda _: "")


EFFECT, REACH = probe("act", Level.EFFECT), probe("act", Level.REACH)
PROBES = (EFFECT, REACH)


def run_of(
    isolation: AnyIsolation, effect: Arm, reach: Arm | None = None, inside: Mapping[str, str] | None = None
) -> ArmRun:
    arms = {EFFECT.id: effect, REACH.id: reach or effect}
    return ArmRun(isolation, None, arms, {"family": None}, {"Uid": "0"}, {"status": inside or {}}, (), None)


CONTROL = run_of(Isolation.NONE, REACHED)
BOX = Foreign("box", ("box",))
GROUND = Ground(
    Run("20260101T000000-abcd", "2026-01-01T00:00:00+00:00", "abc"),
    {
        "kernel": "6.1",
        "machine": "x86_64",
        "uid": 0,
        "seccomp_around_harness": 0,
        "confounders": {"lsm": None},
    },
    PROBES,
    0,
    {"family": "do a thing"},
    None,
)


def document(*columns: Column, control: ArmRun = CONTROL) -> dict[str, Any]:
    made = matrix_document(columns, control, GROUND)
    validate_document(made)
    return made


def cell(column: Column, control: ArmRun = CONTROL) -> dict[str, Any]:
    (only,) = document(column, control=control)["cells"]
    found: dict[str, Any] = only
    return found


def column(effect: Arm, reach: Arm | None = None, **more: Any) -> Column:
    return Column(BOX, Status.MEASURED, run_of(BOX, effect, reach), **more)


@pytest.mark.parametrize(
    ("control", "effect", "reach", "state"),
    [
        (REACHED, DENIED, DENIED, "held"),
        (REACHED, REACHED, DENIED, "breached"),
        (REACHED, DENIED, REACHED, "breached"),
        (DENIED, DENIED, DENIED, "vacuous"),
        (DENIED, REACHED, DENIED, "breached"),
        (Arm(ArmOutcome.DENIED, "ENOSYS"), DENIED, DENIED, "absent"),
        (REACHED, BROKEN, DENIED, "cannot_tell"),
        (REACHED, LOST, LOST, "cannot_tell"),
        (BROKEN, DENIED, DENIED, "cannot_tell"),
    ],
)
def test_a_cell_says_held_only_where_the_control_reached(
    control: Arm, effect: Arm, reach: Arm, state: str
) -> None:
    assert cell(column(effect, reach), run_of(Isolation.NONE, control))["state"] == state


def test_a_vacuous_effect_is_covered_by_a_held_reach_probe() -> None:
    control = run_of(Isolation.NONE, DENIED, REACHED)
    assert cell(column(DENIED, DENIED), control)["state"] == "held"


def test_a_vacuous_reach_is_covered_by_a_proof_and_only_by_one() -> None:
    control = run_of(Isolation.NONE, REACHED, DENIED)
    assert cell(column(DENIED), control)["state"] == "vacuous"
    assert cell(column(DENIED, proofs={"act": (Proof.PROVEN, "unsat")}), control)["state"] == "held"
    assert (
        cell(column(DENIED, proofs={"act": (Proof.CANNOT_TELL, "no right")}), control)["state"] == "vacuous"
    )


@pytest.mark.parametrize(
    ("effect", "reach", "breach", "said"),
    [
        (REACHED, REACHED, "effect", "**breached** |"),
        (REACHED, DENIED, "effect", "**breached** |"),
        (DENIED, REACHED, "reach", "**breached**, reach only |"),
        (DENIED, DENIED, None, "held |"),
    ],
)
def test_a_call_that_only_reaches_the_kernel_is_told_from_the_act_itself(
    effect: Arm, reach: Arm, breach: str | None, said: str
) -> None:
    made = document(column(effect, reach))
    assert made["cells"][0]["breach"] == breach
    assert said in render_matrix_markdown(made)


@pytest.mark.planted
def test_a_proof_does_not_cover_a_breach() -> None:
    assert cell(column(REACHED, proofs={"act": (Proof.PROVEN, "unsat")}))["state"] == "breached"


def test_the_control_itself_is_open_or_cannot_tell() -> None:
    assert cell(Column(Isolation.NONE, Status.MEASURED, CONTROL))["state"] == "open"
    closed = run_of(Isolation.NONE, DENIED)
    assert cell(Column(Isolation.NONE, Status.MEASURED, closed), closed)["state"] != "open"


@pytest.mark.planted
def test_without_a_control_nothing_is_held() -> None:
    lost = ArmRun(Isolation.NONE, None, {}, {}, {}, {}, (), "the agent is lost")
    assert cell(column(DENIED), lost)["state"] == "cannot_tell"
    assert exit_code([column(DENIED)], lost) == 2


def off(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.mark.parametrize(
    ("bare", "filter_only", "caps_only", "layers"),
    [
        ("r", "d", "r", ("filter",)),
        ("r", "r", "d", ("capabilities",)),
        ("r", "d", "d", ("filter", "capabilities")),
        ("r", "r", "r", ("together",)),
        ("d", "d", "d", ("rest",)),
        ("d", "r", "r", ("rest",)),
        ("b", "d", "d", None),
        ("r", "b", "d", None),
    ],
)
def test_a_layer_is_named_when_it_denies_with_all_others_off(
    bare: str, filter_only: str, caps_only: str, layers: tuple[str, ...] | None
) -> None:
    flips = {
        off("filter", "capabilities"): run_of(BOX, ARMS[bare]),
        off("capabilities"): run_of(BOX, ARMS[filter_only]),
        off("filter"): run_of(BOX, ARMS[caps_only]),
    }
    finding = Finding(EFFECT, REACHED, DENIED, ProbeVerdict.HELD)
    assert held_by([finding], ("filter", "capabilities"), flips) == layers


@pytest.mark.planted
def test_an_ablation_in_which_nothing_lives_names_no_layer() -> None:
    finding = Finding(EFFECT, REACHED, DENIED, ProbeVerdict.HELD)
    flips = {off("filter"): run_of(BOX, REACHED), off(): run_of(BOX, DENIED)}
    assert held_by([finding], ("filter",), flips) == ("filter",)
    for sick, run in flips.items():
        dead = {**flips, sick: replace(run, alive={"family": "it failed"})}
        assert held_by([finding], ("filter",), dead) is None


def test_no_switch_and_no_ablation_name_no_layer() -> None:
    finding = Finding(EFFECT, REACHED, DENIED, ProbeVerdict.HELD)
    assert held_by([finding], (), {}) is None
    assert held_by([finding], ("filter",), {}) is None
    assert held_by([], ("filter",), {off("filter"): run_of(BOX, REACHED)}) is None


def test_the_attempt_at_the_act_decides_over_the_reach_probe() -> None:
    """Bogus arguments fail before capabilities are looked at, so capabilities never deny a reach probe."""
    findings = [Finding(p, REACHED, DENIED, ProbeVerdict.HELD) for p in PROBES]
    flips = {
        off("filter", "capabilities"): run_of(BOX, REACHED),
        off("capabilities"): run_of(BOX, DENIED),
        off("filter"): run_of(BOX, DENIED, REACHED),
    }
    assert held_by(findings, ("filter", "capabilities"), flips) == ("filter", "capabilities")
    assert held_by(findings[1:], ("filter", "capabilities"), flips) == ("filter",)


def flipped(bare: Arm, proof: Proof) -> dict[str, Any]:
    flips = {off("filter"): run_of(BOX, bare), off(): run_of(BOX, DENIED)}
    return cell(column(DENIED, switches=("filter",), flips=flips, proofs={"act": (proof, "why")}))


@pytest.mark.planted
def test_a_filter_that_admits_the_act_by_another_input_holds_nothing_alone() -> None:
    alone = flipped(REACHED, Proof.COUNTEREXAMPLE)
    assert (alone["state"], alone["held_by"]) == ("cannot_tell", None)
    assert "the live filter admits why" in alone["reason"]
    unknown = cell(column(DENIED, proofs={"act": (Proof.COUNTEREXAMPLE, "why")}))
    assert unknown["state"] == "cannot_tell"
    backed = flipped(DENIED, Proof.COUNTEREXAMPLE)
    assert (backed["state"], backed["held_by"]) == ("held", ["rest"])


def test_one_defence_deep_is_said_of_a_measured_layer_only() -> None:
    deep = flipped(REACHED, Proof.CANNOT_TELL)
    assert (deep["held_by"], deep["one_defence_deep"], deep["held_by_proof"]) == (["filter"], True, False)
    other = flipped(DENIED, Proof.COUNTEREXAMPLE)
    assert (other["held_by"], other["one_defence_deep"]) == (["rest"], False)
    both = flipped(DENIED, Proof.PROVEN)
    assert (both["held_by"], both["one_defence_deep"], both["held_by_proof"]) == (
        ["filter", "rest"],
        False,
        True,
    )
    by_proof = cell(column(DENIED, proofs={"act": (Proof.PROVEN, "unsat")}))
    assert (by_proof["held_by"], by_proof["one_defence_deep"], by_proof["held_by_proof"]) == (
        ["filter"],
        False,
        True,
    )


@pytest.mark.planted
@pytest.mark.parametrize(
    ("switch", "before", "inside", "works"),
    [
        ("filter", {"Seccomp_filters": "2"}, {"Seccomp_filters": "0"}, True),
        ("filter", {"Seccomp_filters": "2"}, {"Seccomp_filters": "1"}, True),
        ("filter", {"Seccomp_filters": "2"}, {"Seccomp_filters": "2"}, False),
        ("capabilities", {"CapEff": "00ff"}, {"CapEff": "ffff"}, True),
        ("capabilities", {"CapEff": "00ff"}, {"CapEff": "00ff"}, False),
        ("capabilities", {"CapEff": "00ff"}, {}, False),
    ],
)
def test_a_switch_that_does_nothing_is_no_ablation(
    switch: str, before: dict[str, str], inside: dict[str, str], works: bool
) -> None:
    found = ineffective(off(switch), run_of(BOX, DENIED, inside=inside), run_of(BOX, DENIED, inside=before))
    assert (found is None) is works


def test_a_missing_launcher_is_listed_and_a_lost_one_makes_the_whole_cannot_tell() -> None:
    absent = missing(Foreign("nsjail", ("nsjail",)), "not installed")
    assert exit_code([column(DENIED), absent], CONTROL) == 0
    made = document(column(DENIED), absent)
    assert [(c["name"], c["status"]) for c in made["columns"]] == [("box", "measured"), ("nsjail", "missing")]
    for text in (render_matrix_markdown(made), render_matrix_html(made)):
        assert "nsjail" in text
        assert "missing here:" in text
    lost = Column(BOX, Status.FAILED, ArmRun(BOX, None, {}, {}, {}, {}, (), "it ended"), "it ended")
    assert exit_code([column(DENIED), lost], CONTROL) == 2
    assert (cell(lost)["state"], cell(lost)["reason"]) == ("cannot_tell", "it ended")


def test_nothing_but_the_control_is_no_matrix() -> None:
    assert exit_code([Column(Isolation.NONE, Status.MEASURED, CONTROL)], CONTROL) == 2
    assert exit_code([], CONTROL) == 2


def test_what_a_launcher_says_is_text_on_the_page_and_nothing_else() -> None:
    nasty = "<script>alert(1)</script> | `x`\x1b[31m\u202e"
    facts = {"name": "box", "version": nasty, "sha256": None, "policy": nasty}
    lost = Column(BOX, Status.FAILED, ArmRun(BOX, None, {}, {}, {}, {}, (), nasty), nasty, facts)
    html, markdown = render_matrix_html(document(lost)), render_matrix_markdown(document(lost))
    for text in (html, markdown):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert html.count("<script>") == 1
    assert "\\<script\\>" in markdown
    assert "\\|" in markdown


def test_the_page_loads_nothing_from_anywhere() -> None:
    html = render_matrix_html(document(column(DENIED)))
    assert "default-src 'none'" in html
    for word in ("http://", "https://", "src=", "@import", "url("):
        assert word not in html


def test_a_held_cell_says_by_what_and_a_proven_one_is_marked() -> None:
    flips = {off("filter"): run_of(BOX, REACHED), off(): run_of(BOX, DENIED)}
    held = column(DENIED, switches=("filter",), flips=flips, proofs={"act": (Proof.PROVEN, "unsat")})
    (row,) = view_of(document(held)).rows
    assert (row.cells[0].word, row.cells[0].by, row.cells[0].proven, row.cells[0].deep) == (
        "held",
        "filter",
        True,
        True,
    )
    assert "| `act` | held ✓ by filter (1) |" in render_matrix_markdown(document(held))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["cells"][0].update(state="fine"),
        lambda d: d["cells"][0].update(held_by=[]),
        lambda d: d["cells"][0].pop("proof"),
        lambda d: d.update(rows=[]),
        lambda d: d["columns"][0].update(status="ok"),
    ],
)
def test_the_schema_refuses_what_the_command_never_writes(edit: Any) -> None:
    made = json.loads(json.dumps(document(column(DENIED))))
    edit(made)
    with pytest.raises(jsonschema.ValidationError):
        validate_document(made)


def test_the_published_matrix_is_what_the_command_renders_and_compares_at_least_nine() -> None:
    folder = ROOT / "docs" / "matrix"
    published = json.loads((folder / "MATRIX.json").read_text(encoding="utf-8"))
    validate_document(published)
    assert (folder / "MATRIX.md").read_text(encoding="utf-8") == render_matrix_markdown(published)
    assert (folder / "MATRIX.html").read_text(encoding="utf-8") == render_matrix_html(published)
    measured = [c["name"] for c in published["columns"] if c["status"] == "measured"]
    assert {"none", "seccomp", "bwrap"} < set(measured)
    assert len(measured) >= 9
    assert len(published["cells"]) == len(measured) * len(published["rows"])
    states = {c["state"] for c in published["cells"] if c["column"] == "none"}
    assert states <= {"open", "absent"}, "each act had a control that reached, or is not on this kernel"
