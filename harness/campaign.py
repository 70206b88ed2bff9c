"""A campaign: each isolation in turn, suites and battery in the same instance, judged at the end.

    run_campaign(wanted, reporter) -> Campaign(stagings)       touches the world
    judge_campaign(campaign)       -> Verdicts                 pure

The control arm is the run under `none`; it comes first, and it is always made, asked for or not.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, final

from holdfast.harness.attribute import Attribution, attribute, run_ablations
from holdfast.harness.battery import (
    ArmRun,
    Findings,
    canary_environment,
    claimed_families,
    harness_seccomp,
    judge,
    lost_arm,
    plant_home,
    stage_for,
)
from holdfast.harness.gate import Judgement, Outcome, cannot_tell, failed, judge_all, passed, worst
from holdfast.harness.identity import Sight, judge_identity
from holdfast.harness.leak_on_purpose import leak_on_purpose
from holdfast.harness.openings import judge_catalogue
from holdfast.harness.run_id import Canaries, Run
from holdfast.harness.service import ServiceSpec
from holdfast.harness.stage import Ground, InstanceStage
from holdfast.harness.suite import LaneMetrics, Suite
from holdfast.harness.sweep import owned_prefix
from holdfast.sandbox.confine import policy_for
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.host import Host
from holdfast.sandbox.instance import AGENT, AgentLostError, bring_up, scratch_command
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.plan import Filter, Plan
from holdfast.sandbox.probes import FIVE
from holdfast.sandbox.probes.probe import Probe
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.refusal import CannotConfineError
from holdfast.sandbox.spawn import Spawner
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict, Proof

__all__ = ["Campaign", "Reporter", "Staging", "Wanted", "judge_campaign", "judge_denials", "run_campaign"]


class Reporter(Protocol):
    """Who is told as it happens; the terminal, a test's list."""

    def stage_started(self, isolation: AnyIsolation) -> None:
        """An isolation is being brought up."""

    def stage_finished(self, staging: "Staging") -> None:
        """It has been judged or lost."""


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is to do. The fields below `probes` exist for ablations and planted faults."""

    run: Run
    isolations: tuple[AnyIsolation, ...]
    profile: Profile | None
    probes: tuple[Probe, ...]
    suites: tuple[Suite[Any], ...] = ()
    service: ServiceSpec | None = None
    """A stranger's service to run beside the probes when there is no suite."""
    proxy_command: tuple[str, ...] | None = None
    readable: tuple[str, ...] = ()
    """Host folders that the service needs inside."""
    agent: Path = AGENT
    alterations: Mapping[AnyIsolation, Callable[[Plan], Plan]] = field(default_factory=dict)
    """Changes to the compiled plan of an isolation."""
    proves: bool = False
    """Also prove each act over the filter that was loaded."""
    attributes: bool = False
    """Also find, by ablation, which layers deny each probe."""


@final
@dataclass(frozen=True, slots=True)
class Staging:
    """What one isolation gave: the battery's arm, the look from outside, each suite's judgements."""

    isolation: AnyIsolation
    arm: ArmRun
    sight: Sight | None
    judgements: Mapping[str, Judgement]
    """By gate."""
    lanes: Mapping[str, LaneMetrics]
    details: Mapping[str, Any]
    logs: Mapping[str, bytes] = field(repr=False)
    """By name, as the suites hand them out; not redacted yet."""
    secrets: Mapping[str, str] = field(repr=False)
    """Canaries that must not stand in any result."""


@final
@dataclass(frozen=True, slots=True)
class Campaign:
    """All isolations of one run."""

    wanted: Wanted
    host: Host
    harness_seccomp: int
    stagings: tuple[Staging, ...]
    control: Staging
    """The staging under `none`, also when only others were asked for."""
    attributions: Mapping[AnyIsolation, Attribution] = field(default_factory=dict)
    proofs: Mapping[AnyIsolation, Mapping[str, Proof]] = field(default_factory=dict)
    """By act; empty where none was asked for, or there is no filter."""


def run_campaign(wanted: Wanted, host: Host, reporter: Reporter) -> Campaign:
    """Bring each isolation up, attack it, drive the suites, take it down."""
    canaries = Canaries.fresh()
    planting = stage_for(host, canaries)
    order = dict.fromkeys((Isolation.NONE, *wanted.isolations))
    with Spawner() as spawner, plant_home(host, canaries) as home_file:
        ground = Ground(
            spawner,
            host,
            wanted.profile,
            wanted.probes,
            canaries,
            planting,
            home_file,
            canary_environment(os.environ, canaries),
            wanted.proxy_command,
        )
        stagings = {}
        for isolation in order:
            reporter.stage_started(isolation)
            stagings[isolation] = _run_staging(wanted, ground, isolation)
            reporter.stage_finished(stagings[isolation])
        kept = tuple(stagings[isolation] for isolation in wanted.isolations)
        proofs = {s.isolation: _prove(s, wanted.probes) for s in kept} if wanted.proves else {}
        campaign = Campaign(wanted, host, harness_seccomp(), kept, stagings[Isolation.NONE], proofs=proofs)
        return replace(campaign, attributions=_attribute(campaign, ground)) if wanted.attributes else campaign


def _prove(staging: Staging, probes: Sequence[Probe]) -> Mapping[str, Proof]:
    """Each act over the very bytes that the plan loaded; an act that no filter can see cannot be told."""
    code = (
        next((op.code for op in staging.arm.plan.ops if isinstance(op, Filter)), None)
        if staging.arm.plan
        else None
    )
    if code is None:
        return {}
    from holdfast.sandbox.bpf.acts import (  # a run without proofs does not pay for the prover
        ACTS,
        OUT_OF_SIGHT,
    )
    from holdfast.sandbox.bpf.prove import prove_acts

    acts = list(dict.fromkeys(probe.act for probe in probes))
    known = [act for act in acts if act in ACTS or act in OUT_OF_SIGHT]
    proven = {act: Proof(proof.verdict.value) for act, proof in prove_acts([code], known).items()}
    return {act: proven.get(act, Proof.CANNOT_TELL) for act in acts}


def _attribute(campaign: Campaign, ground: Ground) -> Mapping[AnyIsolation, Attribution]:
    """Take layers away, one arm each, from every isolation that came up and has any."""
    found: dict[AnyIsolation, Attribution] = {}
    for staging in campaign.stagings:
        # A foreign launcher has only the switches that it offers; `matrix` tries those.
        if (
            staging.arm.plan is None
            or staging.isolation is Isolation.NONE
            or isinstance(staging.isolation, Foreign)
        ):
            continue
        findings = findings_of(campaign, staging)
        held = [f.probe for f in findings.probes if f.verdict is ProbeVerdict.HELD]
        found[staging.isolation] = attribute(
            findings,
            run_ablations(
                ground,
                staging.isolation,
                staging.arm.plan,
                held,
                campaign.wanted.alterations.get(staging.isolation),
                campaign.wanted.readable,
            ),
        )
    return found


def _run_staging(wanted: Wanted, ground: Ground, isolation: AnyIsolation) -> Staging:
    """One isolation; what cannot be brought up is recorded with its reason, and the others still run."""
    judgements: dict[str, Judgement] = {}
    lanes: dict[str, LaneMetrics] = {}
    details: dict[str, Any] = {}
    logs: dict[str, bytes] = {}
    secrets: dict[str, str] = asdict(ground.canaries)
    stage = None
    problem = None
    plan = None
    asked = isolation in wanted.isolations  # else it is here as the control arm of the probes alone
    suites = [suite for suite in wanted.suites if asked and isolation.value in suite.isolations]
    try:
        with _scratch() as folder, contextlib.ExitStack() as stack:
            command = scratch_command(
                ground.host,
                folder,
                agent=wanted.agent,
                environment=ground.environment,
                readable=wanted.readable,
            )
            instance = stack.enter_context(
                bring_up(
                    ground.spawner,
                    isolation,
                    policy_for(isolation, ground.profile),
                    command,
                    ground.host,
                    stage=ground.planting,
                    alter=wanted.alterations.get(isolation),
                    also=stack.enter_context(leak_on_purpose(isolation, wanted.probes)),
                )
            )
            plan = instance.plan
            stage = InstanceStage(ground, instance, folder)
            for suite in suites:
                evidence = suite.gather(stage)
                judgements |= judge_all(suite.gates, evidence)
                lanes |= suite.lanes(evidence)
                details |= {suite.name: suite.details(evidence)} if suite.details(evidence) else {}
                logs |= suite.logs(evidence)
                secrets |= suite.secrets(evidence)
            if not suites and wanted.service is not None:
                with stage.serve(wanted.service):
                    pass
            stage.attack()
    except (CannotConfineError, AgentLostError) as error:
        problem = str(error)
    arm = (
        stage.arm if stage and stage.arm else lost_arm(isolation, plan, problem or "the battery did not run")
    )
    sight = stage.sight if stage else None
    for gate in (gate.name for suite in suites for gate in suite.gates):
        judgements.setdefault(gate, cannot_tell(problem or "the suite was not driven"))
    if any(suite.serves for suite in suites) or wanted.service is not None:
        judgements["identity"] = (
            judge_identity(sight) if sight else cannot_tell(problem or "the service was not looked at")
        )
    return Staging(isolation, arm, sight, judgements, lanes, details, logs, secrets)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that the sandbox may write to; another user of this machine may not look into it."""
    folder = Path(tempfile.mkdtemp(prefix=owned_prefix()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def findings_of(campaign: Campaign, staging: Staging) -> Findings:
    """Hold one isolation's arm against the control."""
    return judge(
        campaign.control.arm,
        staging.arm,
        campaign.wanted.probes,
        harness_seccomp=campaign.harness_seccomp,
        claimed=claimed_families(staging.isolation, staging.arm.plan),
        proofs=campaign.proofs.get(staging.isolation, {}),
    )


def judge_denials(findings: Findings) -> Judgement:
    """The gate over one isolation's families; nothing that was not probed is held."""
    names = {finding.probe.family for finding in findings.probes}
    if findings.treatment.problem:
        return cannot_tell(findings.treatment.problem)
    if missing := [family for family in FIVE if family not in names]:
        return cannot_tell(f"no probe was run for {', '.join(missing)}")
    if findings.isolation is Isolation.NONE:
        return _judge_control(findings)
    return worst(_judge_family(findings, family) for family in findings.claimed)


def _judge_control(findings: Findings) -> Judgement:
    closed = [family for family in FIVE if findings.families.get(family) is not ActVerdict.OPEN]
    if closed:
        return cannot_tell(*(f"{family}: {_doubt(findings, family)}" for family in closed))
    return passed(f"all {len(FIVE)} families are open without a sandbox, so a denial inside means something")


def _judge_family(findings: Findings, family: str) -> Judgement:
    own = [f for f in findings.probes if f.probe.family == family]
    verdict = findings.families.get(family)
    if verdict is ActVerdict.BREACHED:
        through = [f.probe.id for f in own if f.verdict is ProbeVerdict.BREACHED]
        return failed(f"{family} is breached by {', '.join(through[:3])}")
    if verdict is not ActVerdict.HELD:
        return cannot_tell(f"{family}: {_doubt(findings, family)}")
    held = sum(f.verdict is ProbeVerdict.HELD for f in own)
    return passed(f"{family} held by {held} of {len(own)} probes, each shown to work without the sandbox")


def _doubt(findings: Findings, family: str) -> str:
    """The first act that leaves a doubt, and the probe that does."""
    wanted = ActVerdict.OPEN if findings.isolation is Isolation.NONE else ActVerdict.HELD
    for finding in findings.probes:
        act = finding.probe.act
        doubtful = finding.verdict not in {ProbeVerdict.HELD, ProbeVerdict.OPEN}
        if finding.probe.family == family and findings.acts[act] is not wanted and doubtful:
            arms = f"control {_say(finding.control)}, treatment {_say(finding.treatment)}"
            return f"cannot tell {act}: {finding.probe.id} is {finding.verdict.value} ({arms}{_why(findings, family)})"
    return "no probe of it was run"


def _say(arm: Any) -> str:
    word = arm.errno or (f"signal {arm.signal}" if arm.signal else "")
    return " ".join(filter(None, (arm.outcome.value, word, arm.evidence[:80])))


def _why(findings: Findings, family: str) -> str:
    if findings.control.credentials != findings.treatment.credentials:
        return "; the arms had different credentials"
    for run in (findings.control, findings.treatment):
        if run.alive.get(family):
            return f"; its liveness sibling fails under {run.isolation.value}: {run.alive[family]}"
    return ""


def judge_campaign(campaign: Campaign) -> Mapping[AnyIsolation, Mapping[str, Judgement]]:
    """Every gate of every isolation, `denials` first."""
    return {
        staging.isolation: {
            "denials": judge_denials(findings_of(campaign, staging)),
            **judge_catalogue(findings_of(campaign, staging), campaign.wanted.profile),
            **staging.judgements,
        }
        for staging in campaign.stagings
    }


def over_isolations(verdicts: Mapping[AnyIsolation, Mapping[str, Judgement]]) -> Mapping[str, Judgement]:
    """Each gate once, the worst of its isolations, with the isolation named in each reason."""
    names = dict.fromkeys(name for gates in verdicts.values() for name in gates)
    return {
        name: _over({i.value: gates[name] for i, gates in verdicts.items() if name in gates})
        for name in names
    }


def _over(by_isolation: Mapping[str, Judgement]) -> Judgement:
    """The worst; a reason that several isolations share is said once, with all their names."""
    outcome = worst(by_isolation.values()).outcome
    saying: dict[str, list[str]] = {}
    for isolation, judgement in by_isolation.items():
        if judgement.outcome is outcome:
            for reason in judgement.reasons:
                saying.setdefault(reason, []).append(isolation)
    return Judgement(outcome, tuple(f"{', '.join(names)}: {reason}" for reason, names in saying.items()))


def exit_code(judgements: Sequence[Judgement]) -> int:
    """0 all pass, 1 one fails, 2 cannot tell."""
    return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.CANNOT_TELL: 2}[worst(judgements).outcome]
