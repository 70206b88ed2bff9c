"""Which layer denied it? Found by taking layers away and trying again, never by looking at an errno.

    run_ablations(ground, isolation, ...) -> Ablations        one instance an arm: bare, marked, only L, without L
    attribute(findings, ablations)        -> Attribution      pure

A layer *suffices* for a probe when the attempt is denied with that layer alone; it is *the only one* when the
attempt succeeds once that layer alone is gone (the flip). All arms run on the stage of the comparison itself:
throw-away mount, IPC and UTS namespaces, and a key that is revoked.
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.harness.ablation import (
    MARKER,
    Layer,
    bare,
    layers_of,
    marked_filter,
    only_layer,
    with_filter,
    without_layer,
)
from holdfast.harness.battery import ArmRun, Findings, run_arm
from holdfast.harness.stage import Ground
from holdfast.sandbox.confine import policy_for
from holdfast.sandbox.instance import AgentLostError, bring_up, scratch_command
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.plan import Filter, Plan
from holdfast.sandbox.probes.probe import Level, Probe
from holdfast.sandbox.refusal import BadInputError, CannotConfineError
from holdfast.sandbox.verdict import Arm, ArmOutcome, ProbeVerdict

__all__ = ["Ablations", "Attribution", "attribute", "run_ablations", "run_altered"]

LAUNCHER = "launcher"
"""What is denied with every layer gone that can be switched: the launcher's own doing."""


@final
@dataclass(frozen=True, slots=True)
class Ablations:
    """What each arm answered; a problem in place of an arm that did not come up."""

    layers: tuple[Layer, ...]
    bare: ArmRun | str
    marked: ArmRun | str | None
    """None where the plan has no filter."""
    only: Mapping[str, ArmRun | str]
    without: Mapping[str, ArmRun | str]


@final
@dataclass(frozen=True, slots=True)
class Attribution:
    """Who denies what, for the probes of one isolation that were held."""

    denied_by: Mapping[str, tuple[str, ...] | None]
    """By probe: the layers that suffice alone; empty where only several together do, None where unmeasured."""
    opened_by: Mapping[str, tuple[str, ...]]
    """By probe: the layers without which, and with all others, the attempt succeeds."""
    one_deep: Mapping[str, tuple[str, ...]]
    """By family: the layers that some effect of it hangs on alone."""
    unclear: Mapping[str, tuple[str, ...]]
    """By family: layers whose removal left the answer for some effect of it open; nothing is said of its depth."""
    deeper: tuple[str, ...]
    """Families with an effect that was held, none of which succeeds without any one layer."""
    notes: tuple[str, ...]
    """Arms that did not come up, and the marker where it contradicts the filter's own arm."""


def run_ablations(
    ground: Ground,
    isolation: Isolation,
    plan: Plan,
    probes: Sequence[Probe],
    altered: Callable[[Plan], Plan] | None = None,
    readable: Sequence[str] = (),
) -> Ablations:
    """Try each probe in every arm; `plan` is the treatment's, and `altered` what was done to it before."""
    layers = layers_of(plan)

    def arm(alter: Callable[[Plan], Plan]) -> ArmRun | str:
        return run_altered(
            ground, isolation, probes, lambda p: alter(altered(p) if altered else p), readable=readable
        )

    inherited = ground.environment
    marked = None
    if ground.profile is not None and plan.has(Filter):
        code = marked_filter(ground.profile)
        marked = arm(lambda p: with_filter(p, code))
    return Ablations(
        layers,
        arm(lambda p: bare(p, inherited)),
        marked,
        {layer.name: arm(lambda p, x=layer: only_layer(p, x, inherited)) for layer in layers},  # type: ignore[misc]
        {layer.name: arm(lambda p, x=layer: without_layer(p, x, inherited)) for layer in layers},  # type: ignore[misc]
    )


def run_altered(
    ground: Ground,
    isolation: Isolation,
    probes: Sequence[Probe],
    alter: Callable[[Plan], Plan],
    *,
    readable: Sequence[str] = (),
) -> ArmRun | str:
    """One instance under a changed plan, the probes through it; why not, where it did not come up."""
    with tempfile.TemporaryDirectory(prefix="holdfast-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        private = folder / "private"
        private.mkdir()
        command = scratch_command(ground.host, folder, environment=ground.environment, readable=readable)
        policy = policy_for(isolation, ground.profile)
        with contextlib.ExitStack() as stack:
            try:
                instance = stack.enter_context(
                    bring_up(
                        ground.spawner,
                        isolation,
                        policy,
                        command,
                        ground.host,
                        stage=ground.planting,
                        alter=alter,
                    )
                )
                run = run_arm(
                    instance,
                    probes,
                    ground.canaries,
                    stage=ground.planting,
                    home_file=ground.home_file,
                    folder=private,
                )
            except (CannotConfineError, BadInputError, AgentLostError) as error:
                return str(error)
    return run.problem or run


def attribute(findings: Findings, ablations: Ablations) -> Attribution:
    """For each probe that was held, the layers that deny it; pure."""
    held = [f.probe for f in findings.probes if f.verdict is ProbeVerdict.HELD]
    denied_by = {probe.id: _sufficient(probe, ablations) for probe in held}
    opened_by = {
        probe.id: tuple(
            name
            for name, run in ablations.without.items()
            if (arm := _arm(run, probe)) and arm.outcome is ArmOutcome.REACHED
        )
        for probe in held
    }
    one_deep: dict[str, dict[str, None]] = {}
    unclear: dict[str, dict[str, None]] = {}
    for probe in held:
        if probe.level is Level.EFFECT:
            one_deep.setdefault(probe.family, {}).update(dict.fromkeys(opened_by[probe.id]))
            unclear.setdefault(probe.family, {}).update(dict.fromkeys(_unclear(probe, ablations)))
    return Attribution(
        denied_by,
        opened_by,
        {family: tuple(layers) for family, layers in one_deep.items() if layers},
        {family: tuple(layers) for family, layers in unclear.items() if layers},
        tuple(family for family, layers in one_deep.items() if not layers and not unclear[family]),
        (*_problems(ablations), *_contradictions(held, ablations)),
    )


def _unclear(probe: Probe, ablations: Ablations) -> list[str]:
    """Layers without which the attempt was neither denied nor a success."""
    arms = {name: _arm(run, probe) for name, run in ablations.without.items()}
    return [
        name
        for name, arm in arms.items()
        if arm is None or not (arm.says_no or arm.outcome is ArmOutcome.REACHED)
    ]


def _sufficient(probe: Probe, ablations: Ablations) -> tuple[str, ...] | None:
    alone = _arm(ablations.bare, probe)
    if alone is None or alone.is_broken:
        return None
    if alone.says_no:
        return (LAUNCHER,)
    arms = {name: _arm(run, probe) for name, run in ablations.only.items()}
    found = [name for name, arm in arms.items() if arm is not None and arm.says_no]
    if _is_marked(probe, ablations) and "filter" not in found:
        found.insert(0, "filter")
    return tuple(found)


def _is_marked(probe: Probe, ablations: Ablations) -> bool:
    """The filter's own word: the marker, or the signal that only a filter sends."""
    arm = _arm(ablations.marked, probe)
    return arm is not None and (
        arm.errno == str(MARKER) or (arm.outcome is ArmOutcome.KILLED and arm.says_no)
    )


def _contradictions(held: Sequence[Probe], ablations: Ablations) -> list[str]:
    """A marker where the filter alone lets the attempt pass: one of the two arms is not what it says."""
    alone = ablations.only.get("filter")
    return [
        f"{probe.id} carries the marker, and succeeds under the filter alone"
        for probe in held
        if _is_marked(probe, ablations) and (arm := _arm(alone, probe)) and arm.outcome is ArmOutcome.REACHED
    ]


def _problems(ablations: Ablations) -> list[str]:
    arms = {
        "with nothing but the launcher": ablations.bare,
        "with the marked filter": ablations.marked,
        **{f"with the {name} alone": run for name, run in ablations.only.items()},
        **{f"without the {name}": run for name, run in ablations.without.items()},
    }
    return [f"the arm {name} did not come up: {run}" for name, run in arms.items() if isinstance(run, str)]


def _arm(run: ArmRun | str | None, probe: Probe) -> Arm | None:
    return None if run is None or isinstance(run, str) else run.arms.get(probe.id)
