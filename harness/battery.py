"""The battery: every probe through one instance, then two such runs judged against each other.

run_arm(instance, probes, canaries)     -> ArmRun      touches the sandbox
judge(control, treatment, ...)          -> Findings    pure
"""

import os
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from holdfast.clock import DeadlineExceededError
from holdfast.harness.bait import missing_baits
from holdfast.harness.run_id import Canaries
from holdfast.harness.sweep import owned_prefix
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.host import Host
from holdfast.sandbox.instance import AgentLostError, Instance
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.kernel_calls import read_status
from holdfast.sandbox.plan import Plan
from holdfast.sandbox.probes.probe import FIVE, Level, Probe
from holdfast.sandbox.probes.reachable import ENVIRONMENT_NAME
from holdfast.sandbox.probes.tiocsti import TYPED
from holdfast.sandbox.spawn import Planted, Stage
from holdfast.sandbox.verdict import (
    NOT_RUN,
    ActVerdict,
    Arm,
    ArmOutcome,
    Context,
    ProbeVerdict,
    Proof,
    classify,
    judge_act,
    judge_family,
    judge_probe,
)

__all__ = ["ArmRun", "Finding", "Findings", "claimed_families", "judge", "plant_home", "run_arm", "stage_for"]

PROBE_SECONDS = 2.0


@final
@dataclass(frozen=True, slots=True)
class ArmRun:
    """What one instance answered."""

    isolation: AnyIsolation
    plan: Plan | None
    arms: Mapping[str, Arm]
    """By probe id; a probe without an entry was not run."""
    alive: Mapping[str, str | None]
    """By family: None when its liveness sibling worked, else what it said."""
    credentials: Mapping[str, str]
    """Right before the sandbox was applied."""
    inside: Mapping[str, Any]
    """The agent's own status and namespaces."""
    notes: tuple[str, ...]
    """Steps that were skipped, things that could not be planted."""
    problem: str | None
    """Why the instance did not come up, or was lost on the way."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One probe, both arms, and what they show."""

    probe: Probe
    control: Arm
    treatment: Arm
    verdict: ProbeVerdict


@final
@dataclass(frozen=True, slots=True)
class Findings:
    """All that one isolation showed."""

    isolation: AnyIsolation
    probes: tuple[Finding, ...]
    acts: Mapping[str, ActVerdict]
    families: Mapping[str, ActVerdict]
    treatment: ArmRun
    control: ArmRun
    claimed: tuple[str, ...]
    """The families that gate here."""


def stage_for(host: Host, canaries: Canaries) -> Stage:
    """The same stage for both arms: root gets private namespaces, anyone else a user namespace."""
    return Stage(
        namespaces="private" if host.uid == 0 else "user",
        key_description=f"holdfast:{secrets.token_hex(4)}",
        key_secret=canaries.key,
        neighbour_name=f"holdfast-{secrets.token_hex(6)}",
        neighbour_secret=canaries.neighbour,
    )


@contextmanager
def plant_home(host: Host, canaries: Canaries) -> Iterator[Path | None]:
    """A 0600 file in the home while the battery runs; None where there is no home to write to."""
    path = Path(host.home) / f".{owned_prefix('canary-')}{secrets.token_hex(6)}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError:
        yield None
        return
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(canaries.home)
        yield path
    finally:
        path.unlink(missing_ok=True)


def run_arm(
    instance: Instance,
    probes: Sequence[Probe],
    canaries: Canaries,
    *,
    stage: Stage,
    home_file: Path | None,
    folder: Path,
) -> ArmRun:
    """Run each probe once, and each family's liveness sibling; a lost agent ends the run and says so."""
    arms: dict[str, Arm] = {}
    alive: dict[str, str | None] = {}
    problem = None
    field = _field(instance.planted, stage, home_file, folder)
    try:
        for family in dict.fromkeys(probe.family for probe in probes):
            told = instance.alive(family, PROBE_SECONDS)
            alive[family] = None if told.get("ended") == "reached" else str(told)
        for probe in probes:
            arms[probe.id] = _attempt(instance, probe, canaries, field)
    except (AgentLostError, DeadlineExceededError) as error:
        problem = str(error)
    planted = instance.planted
    gone = missing_baits(planted, canaries, home_file)
    for probe in probes:
        if (why := gone.get(probe.act)) and probe.id in arms:
            arms[probe.id] = Arm(ArmOutcome.NOT_RUN, evidence=f"{why}, so nothing could be found")
    return ArmRun(
        isolation=instance.isolation,
        plan=instance.plan,
        arms=arms,
        alive=alive,
        credentials=planted.credentials,
        inside=instance.inside,
        notes=(*instance.skipped, *(f"{name}: {why}" for name, why in planted.problems.items())),
        problem=problem,
    )


def lost_arm(isolation: AnyIsolation, plan: Plan | None, problem: str) -> ArmRun:
    """The record of an instance that never came up."""
    return ArmRun(isolation, plan, {}, {}, {}, {}, (), problem)


def _field(planted: Planted, stage: Stage, home_file: Path | None, folder: Path) -> dict[str, Any]:
    """What attempts are told: where things are, never what they hold."""
    neighbour = planted.neighbour
    return {
        "folder": str(folder),
        "key": planted.key,
        "key_description": stage.key_description,
        "home_file": str(home_file) if home_file else None,
        "neighbour": {
            "pid": neighbour.pid,
            "address": neighbour.address,
            "length": neighbour.length,
            "path": neighbour.path,
            "abstract": neighbour.abstract,
            "port": neighbour.port,
        }
        if neighbour
        else None,
    }


_NEEDS: Mapping[str, str] = {
    "reach.home": "home_file",
    "reach.unix": "neighbour",
    "reach.abstract": "neighbour",
    "procmem.read": "neighbour",
    "sock.inherited": "neighbour",
    "state.signal": "neighbour",
    "state.root_outside": "home_file",
}


def _attempt(instance: Instance, probe: Probe, canaries: Canaries, field: Mapping[str, Any]) -> Arm:
    """One probe; what was to be found but could not be planted is not run, and says so."""
    if (needed := _NEEDS.get(probe.act)) and field[needed] is None:
        return Arm(ArmOutcome.NOT_RUN, evidence=f"no {needed.replace('_', ' ')} could be planted")
    if probe.planted == TYPED:
        return _attempt_typing(instance, probe, field)
    secret = None if probe.planted is None else getattr(canaries, probe.planted)
    return classify(probe, _of_this(probe, instance.probe(probe.id, field, PROBE_SECONDS)), secret)


def _of_this(probe: Probe, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer, if it says that it is one to this very probe."""
    return (
        answer
        if answer.get("id") == probe.id
        else {"ended": "broken", "evidence": "an answer to something else"}
    )


def _attempt_typing(instance: Instance, probe: Probe, field: Mapping[str, Any]) -> Arm:
    """The judge is the terminal outside, whatever the attempt says of itself."""
    letter = secrets.choice(string.ascii_letters)
    answer = dict(_of_this(probe, instance.probe(probe.id, {**field, TYPED: letter}, PROBE_SECONDS)))
    if instance.terminal.typed(letter.encode()):
        answer |= {"ended": "reached", "evidence": TYPED}
    elif answer.get("ended") == "reached":
        answer["evidence"] = "nothing came out of the terminal"
    return classify(probe, answer, TYPED)


def claimed_families(isolation: AnyIsolation, host: Host) -> tuple[str, ...]:
    """The families that gate: the five wherever something confines, the others where this host can close them.

    By the host and never by the plan that was carried out: a defence that got lost must not take its claim along.
    """
    match isolation:
        case Isolation.NONE:
            return ()
        case Isolation.SECCOMP:
            return (*FIVE, "procmem") if host.landlock else FIVE
        case Isolation.BWRAP:
            return (*FIVE, "procmem", "reachable")
        case Foreign():
            return FIVE


def judge(
    control: ArmRun,
    treatment: ArmRun,
    probes: Sequence[Probe],
    *,
    harness_seccomp: int,
    claimed: Sequence[str],
    proofs: Mapping[str, Proof] | None = None,
) -> Findings:
    """Hold the two arms of each probe against each other; pure."""
    is_control = treatment.isolation is Isolation.NONE
    same = bool(control.credentials) and control.credentials == treatment.credentials
    findings = []
    for probe in probes:
        context = Context(
            is_control=is_control,
            same_credentials=same,
            alive=_is_alive(control, probe.family) and _is_alive(treatment, probe.family),
            harness_filtered=harness_seccomp != 0,
        )
        first, second = _arm(control, probe), _arm(treatment, probe)
        findings.append(Finding(probe, first, second, judge_probe(first, second, context)))
    acts = {
        act: judge_act(
            [(f.probe.level, f.verdict) for f in findings if f.probe.act == act],
            proof=(proofs or {}).get(act, Proof.NOT_RUN),
            is_control=is_control,
        )
        for act in dict.fromkeys(probe.act for probe in probes)
    }
    families = {
        family: _family(family, findings, acts, is_control=is_control)
        for family in dict.fromkeys(probe.family for probe in probes)
    }
    return Findings(treatment.isolation, tuple(findings), acts, families, treatment, control, tuple(claimed))


def _family(
    family: str, findings: Sequence[Finding], acts: Mapping[str, ActVerdict], *, is_control: bool
) -> ActVerdict:
    own = [f for f in findings if f.probe.family == family]
    breached = any(f.verdict is ProbeVerdict.BREACHED for f in own)
    names = dict.fromkeys(f.probe.act for f in own)
    return judge_family([acts[name] for name in names], breached=breached, is_control=is_control)


def _is_alive(run: ArmRun, family: str) -> bool:
    return family in run.alive and run.alive[family] is None


def _arm(run: ArmRun, probe: Probe) -> Arm:
    """A probe that a lost instance never answered is a failed set-up, with the instance's reason."""
    if probe.id in run.arms:
        return run.arms[probe.id]
    return Arm(ArmOutcome.SETUP_FAILED, evidence=run.problem) if run.problem else NOT_RUN


def harness_seccomp() -> int:
    """The filter mode around the harness itself: 0 none, 2 a filter."""
    return int(read_status().get("Seccomp", "0"))


def canary_environment(environment: Mapping[str, str], canaries: Canaries) -> dict[str, str]:
    """The environment that the agent inherits, with the canary in it."""
    return {**environment, ENVIRONMENT_NAME: canaries.environment}


def reach_levels(findings: Findings) -> Mapping[str, int]:
    """How many probes of each level were judged; a count of zero is for the gates to see."""
    return {level.value: sum(f.probe.level is level for f in findings.probes) for level in Level}
