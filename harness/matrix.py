"""The matrix: what each sandbox does about each act, as one document; pure.

    matrix_document(columns, control, ...) -> dict      rows are acts, columns are sandboxes

A cell says `held`, `breached`, `vacuous` (denied without the sandbox too), `absent` (this kernel has no such
thing), `open` (under `none`), or `cannot_tell`; beside it whether the live filter's own BPF was proven to
admit no such call, and by which layers the act is held. Layers are found by measurement: with all switches
of a launcher turned off but one, does the act itself still fail? A word that is not measured is null.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, final

from holdfast.harness.battery import ArmRun, Finding, Findings, judge
from holdfast.harness.run_id import Run
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.probes.probe import Level, Probe
from holdfast.sandbox.verdict import ActVerdict, Arm, ProbeVerdict, Proof, judge_act

__all__ = [
    "Column",
    "Ground",
    "State",
    "Status",
    "exit_code",
    "held_by",
    "ineffective",
    "matrix_document",
    "proof_words",
]

REST, TOGETHER = "rest", "together"
"""`rest`: denied with every switch off, so by what has none (namespaces, the root, the kernel's own rules).
`together`: no layer alone, all of them at once."""


@final
class State(Enum):
    """What a cell says."""

    HELD = "held"
    BREACHED = "breached"
    OPEN = "open"
    VACUOUS = "vacuous"
    ABSENT = "absent"
    CANNOT_TELL = "cannot_tell"


@final
class Status(Enum):
    """Whether a column has anything in it."""

    MEASURED = "measured"
    MISSING = "missing"
    """The tool is not on this machine."""
    FAILED = "failed"
    """It is, and did not come up or was lost; every cell is `cannot_tell`."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One sandbox and all that was measured of it."""

    isolation: AnyIsolation
    status: Status
    arm: ArmRun
    reason: str = ""
    """Why it was not measured."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """name, version, sha256, policy."""
    switches: tuple[str, ...] = ()
    flips: Mapping[frozenset[str], ArmRun] = field(default_factory=dict)
    """The same battery with these switches off."""
    proofs: Mapping[str, tuple[Proof, str]] = field(default_factory=dict)
    """By act: what the live filter's BPF admits, and why that is known."""
    filters: tuple[int, ...] | None = None
    """Instructions of each live filter, oldest first; None when they could not be read."""


@final
@dataclass(frozen=True, slots=True)
class Ground:
    """What all columns share."""

    run: Run
    host: Mapping[str, Any]
    probes: tuple[Probe, ...]
    harness_seccomp: int
    words: Mapping[str, str]
    """A family in words."""
    profile: Mapping[str, str] | None


def matrix_document(columns: Sequence[Column], control: ArmRun, ground: Ground) -> dict[str, Any]:
    """`MATRIX.json`; `control` is the arm under `none`, whether or not that is a column."""
    rows = {probe.act: probe.family for probe in ground.probes}
    cells = []
    for column in columns:
        if column.status is Status.MISSING:
            continue
        findings = judge(
            control, column.arm, ground.probes, harness_seccomp=ground.harness_seccomp, claimed=()
        )
        cells += [_cell(act, column, findings) for act in rows]
    return {
        "schema": "holdfast.matrix/1",
        "run": asdict(ground.run),
        "host": dict(ground.host),
        "profile": dict(ground.profile) if ground.profile else None,
        "rows": [{"act": act, "family": f, "words": ground.words.get(f, f)} for act, f in rows.items()],
        "columns": [_column(column) for column in columns],
        "cells": cells,
    }


def _column(column: Column) -> dict[str, Any]:
    status = column.arm.inside.get("status", {})
    return {
        "name": column.isolation.value,
        "status": column.status.value,
        "reason": column.reason,
        "ours": isinstance(column.isolation, Isolation),
        "launcher": dict(column.facts) or None,
        "filters": None if column.filters is None else list(column.filters),
        "switches": list(column.switches),
        "ablations": [
            {"off": sorted(off), "problem": run.problem} for off, run in column.flips.items() if off
        ],
        "inside": {
            name: status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp") if name in status
        },
    }


def _cell(act: str, column: Column, findings: Findings) -> dict[str, Any]:
    own = [f for f in findings.probes if f.probe.act == act]
    proof, why = column.proofs.get(act, (Proof.NOT_RUN, "no filter was read"))
    state = _state(own, proof, is_control=column.isolation is Isolation.NONE)
    measured = held_by(own, column.switches, column.flips) if state is State.HELD else None
    doubt = ""
    if (
        state is State.HELD
        and proof is Proof.COUNTEREXAMPLE
        and not set(measured or ()) - {"filter", TOGETHER}
    ):
        # Some other input passes the filter, and nothing else was shown to deny the act.
        state, measured, doubt = (
            State.CANNOT_TELL,
            None,
            f"the live filter admits {why}, and no other layer is known",
        )
    by_proof = state is State.HELD and proof is Proof.PROVEN and "filter" not in (measured or ())
    layers = _with_proof(measured) if by_proof else measured
    return {
        "act": act,
        "column": column.isolation.value,
        "state": state.value,
        "held_by": None if layers is None else list(layers),
        "held_by_proof": by_proof,
        "breach": _breach(own),
        "one_defence_deep": measured is not None
        and len(layers or ()) == 1
        and not {REST, TOGETHER} & set(layers or ()),
        "proof": proof.value,
        "proof_reason": why,
        "reason": doubt or _reason(own, state, column),
        "counts": dict(sorted(Counter(f.verdict.value for f in own).items())),
        "attempts": [_attempt(f) for f in own],
    }


def _breach(own: Sequence[Finding]) -> str | None:
    """How far a breach goes: the act itself, or only as far as the kernel's code behind the call."""
    levels = {f.probe.level for f in own if f.verdict is ProbeVerdict.BREACHED}
    return max(levels, key=lambda level: level is Level.EFFECT).value if levels else None


def _with_proof(measured: tuple[str, ...] | None) -> tuple[str, ...]:
    """Bytes that admit no such call hold it alone, also where no ablation could show it: a launcher that
    writes another filter once it is given more capabilities."""
    return ("filter", *(layer for layer in measured or () if layer != TOGETHER))


def _state(own: Sequence[Finding], proof: Proof, *, is_control: bool) -> State:
    # A counterexample to the filter is no contradiction where another layer denies the act; see `_cell`.
    cover = proof if proof is Proof.PROVEN else Proof.NOT_RUN
    verdict = judge_act([(f.probe.level, f.verdict) for f in own], proof=cover, is_control=is_control)
    if verdict is not ActVerdict.CANNOT_TELL:
        return State(verdict.value)
    seen = {f.verdict for f in own}
    if seen == {ProbeVerdict.ABSENT}:
        return State.ABSENT
    if ProbeVerdict.VACUOUS in seen and seen <= {
        ProbeVerdict.VACUOUS,
        ProbeVerdict.ABSENT,
        ProbeVerdict.HELD,
    }:
        return State.VACUOUS
    return State.CANNOT_TELL


def _reason(own: Sequence[Finding], state: State, column: Column) -> str:
    """The probes that decide, by what is said of them."""
    if column.status is Status.FAILED:
        return column.reason
    match state:
        case State.BREACHED:
            deciding = [f for f in own if f.verdict is ProbeVerdict.BREACHED]
        case State.HELD | State.OPEN:
            deciding = []
        case _:
            deciding = [f for f in own if f.verdict not in {ProbeVerdict.HELD, ProbeVerdict.OPEN}]
    return "; ".join(
        f"{f.probe.id} is {f.verdict.value} ({_say(f.control)} / {_say(f.treatment)})" for f in deciding
    )


def _say(arm: Arm) -> str:
    return " ".join(
        filter(None, (arm.outcome.value, arm.errno, f"signal {arm.signal}" if arm.signal else ""))
    )


def _attempt(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.probe.id,
        "level": finding.probe.level.value,
        "control": _arm(finding.control),
        "treatment": _arm(finding.treatment),
        "verdict": finding.verdict.value,
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {"outcome": arm.outcome.value, "errno": arm.errno, "signal": arm.signal}


def held_by(
    own: Sequence[Finding], switches: Sequence[str], flips: Mapping[frozenset[str], ArmRun]
) -> tuple[str, ...] | None:
    """The layers each of which denies the act by itself; None when that was not, or could not be, measured.

    Judged on the attempts at the act itself where any is held, else on the reach probes: bogus arguments
    never come as far as a check of capabilities.
    """
    held = [f for f in own if f.verdict is ProbeVerdict.HELD]
    effects = [f for f in held if f.probe.level is Level.EFFECT]
    found = [_layers_of(f.probe, tuple(switches), flips) for f in (effects or held)]
    if not switches or not found or any(layers is None for layers in found):
        return None
    alone = set.intersection(*(set(layers or ()) for layers in found))
    return tuple(word for word in (*switches, REST) if word in alone) or (TOGETHER,)


def _layers_of(
    probe: Probe, switches: tuple[str, ...], flips: Mapping[frozenset[str], ArmRun]
) -> tuple[str, ...] | None:
    """For one probe: `rest` when it is denied with all switches off, else each switch that denies it alone."""
    everything = frozenset(switches)
    bare = _denied(probe, flips.get(everything))
    if bare is None:
        return None
    if bare:
        return (REST,)
    alone = {switch: _denied(probe, flips.get(everything - {switch})) for switch in switches}
    if None in alone.values():
        return None
    return tuple(switch for switch, denied in alone.items() if denied) or (TOGETHER,)


def ineffective(off: frozenset[str], run: ArmRun, base: ArmRun) -> str | None:
    """Why an ablation is none, by the kernel's own word from inside: a switch that does nothing must not look
    like a layer that is not needed. None when nothing speaks against it."""
    inside, before = run.inside.get("status", {}), base.inside.get("status", {})
    filters, filters_before = (int(status.get("Seccomp_filters", "0")) for status in (inside, before))
    if "filter" in off and filters_before and filters >= filters_before:
        return "the process inside is under as many filters as before"
    if "capabilities" in off and int(before.get("CapEff", "0"), 16) >= int(inside.get("CapEff", "0"), 16):
        return "the process inside has no more capabilities than before"
    return None


def _denied(probe: Probe, run: ArmRun | None) -> bool | None:
    """Whether this run denies the probe; None when it shows nothing either way."""
    if run is None or run.alive.get(probe.family, "not asked") is not None:
        return None
    arm = run.arms.get(probe.id)
    if arm is None or arm.is_broken or arm.outcome.value == "not_run":
        return None
    return arm.says_no


def proof_words(document: Mapping[str, Any]) -> Mapping[str, int]:
    """How many cells have which proof."""
    return Counter(cell["proof"] for cell in document["cells"])


def exit_code(columns: Sequence[Column], control: ArmRun) -> int:
    """0 when every sandbox that is here was measured against a control; else 2. A breach is a result, no failure."""
    complete = not control.problem and bool(control.arms)
    measured = any(c.status is Status.MEASURED and c.isolation is not Isolation.NONE for c in columns)
    return 0 if complete and measured and not any(c.status is Status.FAILED for c in columns) else 2


def missing(isolation: Foreign, reason: str) -> Column:
    """A sandbox that this machine does not have: listed, never dropped."""
    return Column(isolation, Status.MISSING, ArmRun(isolation, None, {}, {}, {}, {}, (), reason), reason)
