"""Verdicts: what a pair of arms shows about a probe, an act, a family. Pure; the tables of the design.

    classify(probe, answer, secret)        -> Arm(outcome, errno, signal)
    judge_probe(control, treatment, ...)   -> ProbeVerdict     first match wins
    judge_act(verdicts)                    -> ActVerdict
    judge_family(acts)                     -> ActVerdict

A denial is evidence only when the same attempt, on the same host and with the same credentials, was shown
to succeed without the sandbox. Where that is missing the answer is a word of its own and never `held`.
"""

import errno
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

from holdfast.sandbox.probes.probe import Level, Probe

__all__ = [
    "ActVerdict",
    "Arm",
    "ArmOutcome",
    "Context",
    "ProbeVerdict",
    "Proof",
    "classify",
    "judge_act",
    "judge_family",
    "judge_probe",
]


@final
class ArmOutcome(Enum):
    """What became of one attempt in one arm."""

    REACHED = "reached"
    DENIED = "denied"
    KILLED = "killed"
    MISSING = "missing"
    TIMEOUT = "timeout"
    SETUP_FAILED = "setup_failed"
    NOT_RUN = "not_run"


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """An outcome, with the kernel's word for it."""

    outcome: ArmOutcome
    errno: str | None = None
    signal: int | None = None
    evidence: str = ""
    elapsed_us: int = 0

    @property
    def says_no(self) -> bool:
        """A denial that can be attributed: an errno of denial, or the filter's own signal."""
        return self.outcome is ArmOutcome.DENIED or (
            self.outcome is ArmOutcome.KILLED and self.signal == signal.SIGSYS
        )

    @property
    def is_broken(self) -> bool:
        """Timed out, died, lacks a file, or could not be set up: shows nothing either way."""
        broken = (ArmOutcome.TIMEOUT, ArmOutcome.MISSING, ArmOutcome.SETUP_FAILED)
        return self.outcome in broken or (self.outcome is ArmOutcome.KILLED and not self.says_no)

    @property
    def has_no_such_thing(self) -> bool:
        """The kernel itself lacks it, as far as an errno can say so."""
        return self.outcome is ArmOutcome.DENIED and self.errno in {"ENOSYS", "ENODEV"}


NOT_RUN = Arm(ArmOutcome.NOT_RUN)


@final
class ProbeVerdict(Enum):
    """What the two arms of a probe show together."""

    HELD = "held"
    OPEN = "open"
    BREACHED = "breached"
    VACUOUS = "vacuous"
    ABSENT = "absent"
    INVALID = "invalid"
    NOT_RUN = "not_run"


@final
class ActVerdict(Enum):
    """What the probes of an act, or the acts of a family, show together."""

    HELD = "held"
    OPEN = "open"
    BREACHED = "breached"
    CANNOT_TELL = "cannot_tell"


@final
class Proof(Enum):
    """What a prover found about the filter's own BPF."""

    PROVEN = "proven"
    COUNTEREXAMPLE = "counterexample"
    CANNOT_TELL = "cannot_tell"
    NOT_RUN = "not_run"


@final
@dataclass(frozen=True, slots=True)
class Context:
    """What has to be known beside the two arms."""

    is_control: bool
    """Isolation `none`: the treatment is the control arm itself."""
    same_credentials: bool
    """Both arms had the same credentials before the sandbox was applied."""
    alive: bool
    """The family's liveness sibling worked in both arms."""
    harness_filtered: bool
    """The harness itself runs under a seccomp filter, so an ENOSYS may be that filter's."""


def classify(probe: Probe, answer: Mapping[str, Any], secret: str | None) -> Arm:
    """Turn the agent's answer into an outcome; `secret` is what the evidence must equal, if anything."""
    elapsed, evidence = int(answer.get("elapsed_us", 0)), str(answer.get("evidence", ""))
    match answer.get("ended"):
        case "reached" if probe.planted is not None and evidence != secret:
            # It "succeeded" without what only success can bring: neither reached nor denied.
            return Arm(
                ArmOutcome.SETUP_FAILED, evidence="the evidence is not what was planted", elapsed_us=elapsed
            )
        case "reached":
            return Arm(ArmOutcome.REACHED, evidence="" if probe.planted else evidence, elapsed_us=elapsed)
        case "errno":
            return _classify_errno(probe, int(answer["errno"] or 0), evidence, elapsed)
        case "signal":
            return Arm(ArmOutcome.KILLED, signal=int(answer["signal"]), elapsed_us=elapsed)
        case "timeout":
            return Arm(ArmOutcome.TIMEOUT, elapsed_us=elapsed)
        case "not_run" | None:
            return Arm(ArmOutcome.NOT_RUN, evidence=evidence)
        case _:
            return Arm(
                ArmOutcome.SETUP_FAILED, evidence=evidence or "the attempt said nothing", elapsed_us=elapsed
            )


def _classify_errno(probe: Probe, code: int, evidence: str, elapsed: int) -> Arm:
    name = errno.errorcode.get(code, str(code))
    if probe.level is Level.REACH and code in probe.reached_by:
        return Arm(
            ArmOutcome.REACHED, name, evidence="the kernel looked at the arguments", elapsed_us=elapsed
        )
    if code in probe.denied_by:
        return Arm(ArmOutcome.DENIED, name, elapsed_us=elapsed)
    if code == errno.ENOENT:
        return Arm(ArmOutcome.MISSING, name, evidence=evidence, elapsed_us=elapsed)
    return Arm(ArmOutcome.SETUP_FAILED, name, evidence=f"unexpected: {evidence}", elapsed_us=elapsed)


def judge_probe(control: Arm, treatment: Arm, context: Context) -> ProbeVerdict:
    """The table of the design; the first row that matches wins."""
    rows = (
        (treatment.outcome is ArmOutcome.REACHED and context.is_control, ProbeVerdict.OPEN),
        (treatment.outcome is ArmOutcome.REACHED, ProbeVerdict.BREACHED),
        (control.is_broken or treatment.is_broken, ProbeVerdict.INVALID),
        (not context.same_credentials or not context.alive, ProbeVerdict.INVALID),
        (control.outcome is ArmOutcome.REACHED and treatment.says_no, ProbeVerdict.HELD),
        (control.has_no_such_thing and not context.harness_filtered, ProbeVerdict.ABSENT),
        (control.says_no, ProbeVerdict.VACUOUS),
    )
    return next((verdict for matches, verdict in rows if matches), ProbeVerdict.NOT_RUN)


def judge_act(
    verdicts: Collection[tuple[Level, ProbeVerdict]],
    *,
    proof: Proof = Proof.NOT_RUN,
    is_control: bool = False,
) -> ActVerdict:
    """An act is held when a probe of it is, and no other leaves a doubt.

    A vacuous or absent probe is covered by a held reach probe of the same act, or by a proof. Under `none`
    an act is open when one of its controls reached.
    """
    seen = {verdict for _, verdict in verdicts}
    if is_control:
        return ActVerdict.OPEN if ProbeVerdict.OPEN in seen else ActVerdict.CANNOT_TELL
    if ProbeVerdict.BREACHED in seen:
        return ActVerdict.BREACHED
    uncertain = seen & {ProbeVerdict.INVALID, ProbeVerdict.NOT_RUN, ProbeVerdict.OPEN}
    uncovered = seen & {ProbeVerdict.VACUOUS, ProbeVerdict.ABSENT}
    covered = (Level.REACH, ProbeVerdict.HELD) in set(verdicts) or proof is Proof.PROVEN
    contradicted = proof is Proof.COUNTEREXAMPLE  # some other input does what these attempts could not
    if ProbeVerdict.HELD in seen and not uncertain and not contradicted and (covered or not uncovered):
        return ActVerdict.HELD
    return ActVerdict.CANNOT_TELL


def judge_family(
    acts: Collection[ActVerdict], *, breached: bool = False, is_control: bool = False
) -> ActVerdict:
    """Held when each act in it is; breached when any probe is; nothing at all cannot tell."""
    wanted = ActVerdict.OPEN if is_control else ActVerdict.HELD
    if not is_control and (breached or ActVerdict.BREACHED in acts):
        return ActVerdict.BREACHED
    return wanted if acts and all(act is wanted for act in acts) else ActVerdict.CANNOT_TELL
