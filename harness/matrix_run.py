"""Measure the matrix: each sandbox in turn, the battery through it, its live filters read and proven, its layers
switched off one after the other.

    measure(wanted, host, tell) -> (columns, control arm)
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from holdfast.harness.battery import ArmRun, canary_environment, lost_arm, plant_home, run_arm, stage_for
from holdfast.harness.leak_on_purpose import leak_on_purpose
from holdfast.harness.matrix import Column, Status, ineffective, missing
from holdfast.harness.results import launcher_facts
from holdfast.harness.run_id import Canaries
from holdfast.harness.sweep import owned_prefix
from holdfast.sandbox.bpf.acts import ACTS, OUT_OF_SIGHT
from holdfast.sandbox.bpf.live import CannotReadError, Stack, read_live
from holdfast.sandbox.bpf.proof import Verdict
from holdfast.sandbox.bpf.prove import prove_acts
from holdfast.sandbox.confine import policy_for
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.host import Host
from holdfast.sandbox.instance import AgentLostError, Instance, bring_up, scratch_command
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.launchers import foreign_launcher
from holdfast.sandbox.plan import (
    DropBoundingSet,
    DropCapabilities,
    Filter,
    LandlockDomain,
    NewSession,
    Op,
    Plan,
    Through,
)
from holdfast.sandbox.probes.probe import Probe
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.refusal import BadInputError, CannotConfineError
from holdfast.sandbox.spawn import Spawner
from holdfast.sandbox.spawn import Stage as Planting
from holdfast.sandbox.verdict import Proof

__all__ = ["Survey", "measure"]

OWN_SWITCHES: Mapping[Isolation, Mapping[str, type[Op]]] = {
    Isolation.NONE: {},
    Isolation.SECCOMP: {"filter": Filter, "capabilities": DropBoundingSet, "landlock": LandlockDomain},
    Isolation.BWRAP: {"filter": Filter, "capabilities": DropCapabilities, "session": NewSession},
}
"""Layers of ours that can be left out of a plan while the rest still stands."""


@final
@dataclass(frozen=True, slots=True)
class Survey:
    """What is to be measured."""

    isolations: tuple[AnyIsolation, ...]
    profile: Profile
    probes: tuple[Probe, ...]
    attributes: bool
    """Whether layers are switched off, to find what holds an act."""


@final
@dataclass(frozen=True, slots=True)
class _Site:
    """What every bring-up shares."""

    survey: Survey
    spawner: Spawner
    host: Host
    canaries: Canaries
    planting: Planting
    home_file: Path | None


def measure(survey: Survey, host: Host, tell: Callable[[Column], None]) -> tuple[tuple[Column, ...], ArmRun]:
    """All columns in their order, and the control arm, which is always run, and run first."""
    canaries = Canaries.fresh()
    with Spawner() as spawner, plant_home(host, canaries) as home_file:
        site = _Site(survey, spawner, host, canaries, stage_for(host, canaries), home_file)
        control = _measure_column(site, Isolation.NONE)
        columns = []
        for isolation in survey.isolations:
            column = control if isolation is Isolation.NONE else _measure_column(site, isolation)
            tell(column)
            columns.append(column)
    return tuple(columns), control.arm


def _measure_column(site: _Site, isolation: AnyIsolation) -> Column:
    if isinstance(isolation, Foreign) and (absent := _absence(isolation)):
        return missing(isolation, absent)
    stacks: tuple[Stack, ...] | str = "the agent was lost before its filters were read"

    def read(instance: Instance) -> None:
        nonlocal stacks
        try:
            stacks = read_live(instance.agent_pid)
        except (CannotReadError, BadInputError) as error:
            stacks = str(error)

    arm = _attack(site, isolation, (), read)
    facts = _facts(site, isolation, arm.plan)
    if arm.problem:
        return Column(isolation, Status.FAILED, arm, arm.problem, facts)
    switches = _switches(isolation, arm.plan)
    flips = dict(_flips(site, isolation, switches, arm)) if site.survey.attributes else {}
    column = Column(isolation, Status.MEASURED, arm, "", facts, switches, flips)
    if isolation is Isolation.NONE:
        return column
    acts = tuple(dict.fromkeys(probe.act for probe in site.survey.probes))
    if isinstance(stacks, str):
        return replace(column, proofs=dict.fromkeys(acts, (Proof.CANNOT_TELL, stacks)))
    instructions = tuple(len(raw) // 8 for raw in max(stacks, key=len, default=()))
    return replace(column, proofs=_prove(stacks, acts), filters=instructions)


def _absence(foreign: Foreign) -> str:
    """Why a tool is not there at all; empty when it is."""
    found = foreign_launcher(foreign).find(Through(foreign.value, foreign.prefix))
    if found is None:
        return "not installed"
    return f"installed, and {found.problem}" if found.problem else ""


def _prove(stacks: Sequence[Stack], acts: Sequence[str]) -> dict[str, tuple[Proof, str]]:
    """Over all distinct stacks of the process's threads: an act is proven when each of them proves it."""
    known = [act for act in acts if act in ACTS or act in OUT_OF_SIGHT]
    by_stack = [prove_acts(stack, known) for stack in stacks]
    found = dict.fromkeys(acts, (Proof.CANNOT_TELL, "it is no call, so no filter can see it"))
    for act in known:
        answers = [proofs[act] for proofs in by_stack]
        worst = next((v for v in Verdict if any(a.verdict is v for a in answers)), Verdict.NOT_RUN)
        deciding = next((a for a in answers if a.verdict is worst), None)
        shown = [str(c) for c in deciding.counterexamples[:1]] if deciding else []
        found[act] = (Proof(worst.value), "; ".join(shown) or (deciding.reason if deciding else ""))
    return found


def _switches(isolation: AnyIsolation, plan: Plan | None) -> tuple[str, ...]:
    if isinstance(isolation, Foreign):
        return foreign_launcher(isolation).SWITCHES
    return tuple(name for name, kind in OWN_SWITCHES[isolation].items() if plan and plan.has(kind))


def _flips(
    site: _Site, isolation: AnyIsolation, switches: tuple[str, ...], arm: ArmRun
) -> Iterator[tuple[frozenset[str], ArmRun]]:
    """All off, then all but one; what was measured already is not run again."""
    everything = frozenset(switches)
    wanted = dict.fromkeys([everything, *(everything - {switch} for switch in switches)]) if switches else {}
    for off in wanted:
        run = arm if not off else _attack(site, isolation, tuple(sorted(off)), None)
        problem = run.problem or ineffective(off, run, arm)
        yield off, replace(run, problem=problem, arms={} if problem else run.arms)


def _loosen(isolation: AnyIsolation, off: tuple[str, ...]) -> Callable[[Plan], Plan]:
    """The same plan with these switches off."""
    if isinstance(isolation, Isolation):
        kinds = [OWN_SWITCHES[isolation][name] for name in off]
        return lambda plan: plan.without(*kinds)

    def loosened(plan: Plan) -> Plan:
        ops = tuple(replace(op, loosened=off) if isinstance(op, Through) else op for op in plan.ops)
        return Plan(plan.isolation, ops)

    return loosened


def _attack(
    site: _Site, isolation: AnyIsolation, off: tuple[str, ...], look: Callable[[Instance], None] | None
) -> ArmRun:
    """One instance, the battery through it; what does not come up is a lost arm with its reason."""
    folder = Path(tempfile.mkdtemp(prefix=owned_prefix()))
    private = folder / "private"
    private.mkdir()
    profile = site.survey.profile if isinstance(isolation, Isolation) else None
    try:
        environment = canary_environment(os.environ, site.canaries)
        command = scratch_command(site.host, folder, environment=environment)
        with (
            leak_on_purpose(isolation, site.survey.probes) as leaked,
            bring_up(
                site.spawner,
                isolation,
                policy_for(isolation, profile),
                command,
                site.host,
                stage=site.planting,
                alter=_loosen(isolation, off),
                also=leaked,
            ) as instance,
        ):
            arm = run_arm(
                instance,
                site.survey.probes,
                site.canaries,
                stage=site.planting,
                home_file=site.home_file,
                folder=private,
            )
            if look is not None and not arm.problem:
                look(instance)
            return arm
    except (CannotConfineError, AgentLostError) as error:
        return lost_arm(isolation, None, str(error))
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def _facts(site: _Site, isolation: AnyIsolation, plan: Plan | None) -> dict[str, object]:
    """Who confines; without its command line, which names this machine's paths."""
    known = launcher_facts(isolation, site.host, plan)
    if known is None:
        return {}
    policy = known.get("policy", f"profile {Path(site.survey.profile.path).stem}")
    return {"policy": policy, **{name: known[name] for name in ("name", "version", "sha256")}}
