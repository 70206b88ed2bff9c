"""What our profiles and launchers leave open on purpose, and why; the gate over the rest of the catalogue.

    judge_catalogue(findings) -> {} | {"catalogue": Judgement}      pure; only where further families were probed

An act that is open and not listed here fails the gate. A listed one is said with its reason, never praised.
"""

from collections.abc import Mapping

from holdfast.harness.battery import Findings
from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.probes.further import FAMILIES
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict

__all__ = ["LEFT_OPEN", "judge_catalogue"]

GATE = "catalogue"

_TERMINAL = (
    "shells need it for job control and programs for a pty of their own; it gives a session leader without a "
    "terminal one, which by itself is no way out, and typing into it (tty.sti) is held"
)
_DEVICE = "no filter can read the path /dev/userfaultfd; bwrap's /dev does not have it"

LEFT_OPEN: Mapping[Isolation, Mapping[str, str]] = {
    Isolation.NONE: {},
    Isolation.SECCOMP: {"tty.sctty": _TERMINAL, "uffd.device": _DEVICE},
    Isolation.BWRAP: {"tty.sctty": _TERMINAL},
}
"""By isolation and act, the reason; our three profiles and nothing else are meant."""


def judge_catalogue(findings: Findings) -> Mapping[str, Judgement]:
    """Each further act is held, or listed as open, or not on this kernel at all."""
    further = [f for f in findings.probes if f.probe.family in FAMILIES]
    if not further:
        return {}
    if findings.treatment.problem:
        return {GATE: cannot_tell(findings.treatment.problem)}
    if findings.isolation is Isolation.NONE:
        count = sum(f.verdict is ProbeVerdict.OPEN for f in further)
        return {GATE: passed(f"{count} of {len(further)} further probes reach without a sandbox")}
    listed = LEFT_OPEN[findings.isolation]
    acts = {act: findings.acts[act] for act in dict.fromkeys(f.probe.act for f in further)}
    seen = {act: {f.verdict for f in further if f.probe.act == act} for act in acts}
    breached = [a for a, verdict in acts.items() if verdict is ActVerdict.BREACHED and a not in listed]
    absent = [a for a in acts if seen[a] == {ProbeVerdict.ABSENT}]
    unclear = [
        a
        for a, verdict in acts.items()
        if verdict is ActVerdict.CANNOT_TELL and a not in absent and a not in listed
    ]
    if breached:
        return {GATE: failed(*(f"{act} is open, and nothing says that it may be" for act in breached))}
    if unclear:
        return {GATE: cannot_tell(*(f"{act}: {_first_doubt(findings, act)}" for act in unclear))}
    opened = [f"{a} is left open: {listed[a]}" for a, v in acts.items() if v is ActVerdict.BREACHED]
    held = sum(verdict is ActVerdict.HELD for verdict in acts.values())
    missing = [f"not on this kernel: {', '.join(absent)}"] if absent else []
    return {GATE: passed(f"{held} of {len(acts)} further acts are held", *opened, *missing)}


def _first_doubt(findings: Findings, act: str) -> str:
    for finding in findings.probes:
        if finding.probe.act == act and finding.verdict is not ProbeVerdict.HELD:
            return f"{finding.probe.id} is {finding.verdict.value}"
    return "no probe of it was run"
