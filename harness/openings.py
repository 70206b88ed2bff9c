"""What our profiles and launchers leave open on purpose, and why; the gate over the rest of the catalogue.

    judge_catalogue(findings, profile) -> {} | {"catalogue": Judgement}      only where further families were probed

An act that is open and not listed here fails the gate. A listed one is said with its reason, never praised.
"""

import hashlib
from collections.abc import Mapping

from holdfast.harness.battery import Findings
from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.probes import REST
from holdfast.sandbox.profile import BUILT_IN, Profile
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict

__all__ = ["LEFT_OPEN", "is_ours", "judge_catalogue"]

GATE = "catalogue"

_TERMINAL = (
    "shells need it for job control and programs for a pty of their own; it gives a session leader without a "
    "terminal one, which by itself is no way out, and typing into it (tty.sti) is held"
)
_DEVICE = "no filter can read the path /dev/userfaultfd; bwrap's /dev does not have it"

LEFT_OPEN: Mapping[AnyIsolation, Mapping[str, str]] = {
    Isolation.NONE: {},
    Isolation.SECCOMP: {"tty.sctty": _TERMINAL, "uffd.device": _DEVICE},
    Isolation.BWRAP: {"tty.sctty": _TERMINAL},
}
"""By isolation and act, the reason; our three profiles and nothing else are meant."""


def judge_catalogue(findings: Findings, profile: Profile | None) -> Mapping[str, Judgement]:
    """Each further act is held, or listed as open under a profile of ours, or not on this kernel at all."""
    further = [f for f in findings.probes if f.probe.family in REST]
    if not further:
        return {}
    if findings.treatment.problem:
        return {GATE: cannot_tell(findings.treatment.problem)}
    listed = LEFT_OPEN.get(findings.isolation, {}) if profile and is_ours(profile) else {}
    wanted = ActVerdict.OPEN if findings.isolation is Isolation.NONE else ActVerdict.HELD
    acts = {act: findings.acts[act] for act in dict.fromkeys(f.probe.act for f in further)}
    absent = [a for a in acts if all(f.verdict is ProbeVerdict.ABSENT for f in further if f.probe.act == a)]
    opened = [a for a, verdict in acts.items() if verdict is ActVerdict.BREACHED]
    unclear = [a for a in acts if acts[a] is not wanted and a not in {*absent, *opened}]
    if wrong := [a for a in opened if a not in listed]:
        return {GATE: failed(*(f"{act} is open, and nothing says that it may be" for act in wrong))}
    if unclear or len(absent) == len(acts):
        doubts = (f"{act}: {_first_doubt(findings, act)}" for act in unclear)
        return {GATE: cannot_tell(*doubts, *(["no further act is on this kernel"] if not unclear else []))}
    count = sum(verdict is wanted for verdict in acts.values())
    return {
        GATE: passed(
            f"{count} of {len(acts)} further acts are {wanted.value}",
            *(f"{act} is left open: {listed[act]}" for act in opened),
            *([f"not on this kernel: {', '.join(absent)}"] if absent else []),
        )
    }


def is_ours(profile: Profile) -> bool:
    """Whether it is one of the shipped profiles, by its bytes."""
    return profile.sha256 in {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in BUILT_IN.glob("*.json")
    }


def _first_doubt(findings: Findings, act: str) -> str:
    settled = {ProbeVerdict.HELD, ProbeVerdict.OPEN}
    for finding in findings.probes:
        if finding.probe.act == act and finding.verdict not in settled:
            return f"{finding.probe.id} is {finding.verdict.value}"
    return "no probe of it was run"
