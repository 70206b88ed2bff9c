"""What the page says: verdict first, then the matrix, what is open or vacuous and why, the host, what to change."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from holdfast.harness.battery import Finding, Findings
from holdfast.harness.campaign import Campaign, exit_code, findings_of
from holdfast.harness.gate import Judgement, Outcome
from holdfast.harness.run_id import Run
from holdfast.harness.toggles import Toggle, suggest_toggles
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.probes import FIVE
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict

__all__ = ["FAMILY_WORDS", "GateRow", "MatrixRow", "Page", "page_of"]

FAMILY_WORDS: Mapping[str, str] = {
    "mount": "change what a path means (mount, the new mount API)",
    "unshare": "make or enter a namespace (unshare, clone, clone3, setns)",
    "perf_bpf": "read kernel events, load kernel programs (perf, bpf)",
    "ptrace_keyctl": "reach into other processes and keyrings (ptrace, keyctl)",
    "tiocsti": "type into the terminal it was started from (TIOCSTI, TIOCLINUX)",
    "procmem": "read a neighbour's memory (/proc/PID/mem)",
    "reachable": "find the host's sockets, home and environment",
    "root": "take another root (pivot_root, chroot)",
    "process": "take or compare other processes' descriptors (pidfd_getfd, kcmp)",
    "tty": "take a controlling terminal (TIOCSCTTY)",
    "uring": "work around the rules by io_uring",
    "uffd": "stall the kernel on page faults (userfaultfd)",
    "handle": "name and open files by handle",
    "personality": "switch off address randomisation, make data executable (personality)",
    "sock": "open rare socket families, reconnect a socket that came in",
    "kernel": "change the kernel (modules, kexec, ports, swap, acct, syslog, reboot)",
    "abi": "call by another ABI (i386, x32)",
    "state": "what the process still holds (privileges, descriptors, other roots, signals)",
}

EXIT_WORDS: Mapping[int, str] = {
    0: "every gate passes",
    1: "a gate fails",
    2: "cannot tell",
    64: "bad usage or bad input",
    70: "our own fault",
}

_HEADLINES: Mapping[Outcome, str] = {
    Outcome.PASS: "Every gate passes",
    Outcome.FAIL: "A gate fails",
    Outcome.CANNOT_TELL: "Cannot tell",
}


@final
@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One family across the isolations."""

    family: str
    words: str
    cells: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate across the isolations."""

    gate: str
    cells: tuple[str, ...]
    """Its outcome in each isolation; empty where it does not speak of one."""
    reason: str
    """Of the worst outcome."""


@final
@dataclass(frozen=True, slots=True)
class Page:
    """All that a rendering needs, already in words."""

    headline: str
    code: int
    code_words: str
    because: tuple[str, ...]
    open_first: tuple[str, ...]
    """What is open where nothing gates it: said before anything else is praised."""
    warnings: tuple[str, ...]
    live: bool
    isolations: tuple[str, ...]
    matrix: tuple[MatrixRow, ...]
    gates: tuple[GateRow, ...]
    defence: tuple[str, ...]
    """Which layers each family hangs on, where that was measured."""
    doubts: tuple[str, ...]
    toggles: tuple[tuple[str, Toggle], ...]
    host: tuple[tuple[str, str], ...]
    profile: str
    run: Run
    command: str


def page_of(
    campaign: Campaign,
    verdicts: Mapping[AnyIsolation, Mapping[str, Judgement]],
    *,
    overall: Mapping[str, Judgement],
    confounders: Mapping[str, Any],
    command: str,
    live: bool = False,
    mutation: str = "",
) -> Page:
    """Put a campaign into words; pure."""
    found = {staging.isolation: findings_of(campaign, staging) for staging in campaign.stagings}
    code = exit_code(list(overall.values()))
    outcome = {0: Outcome.PASS, 1: Outcome.FAIL}.get(code, Outcome.CANNOT_TELL)
    profile = campaign.wanted.profile
    return Page(
        headline=_HEADLINES[outcome],
        code=code,
        code_words=EXIT_WORDS[code],
        because=_because(overall, outcome),
        open_first=tuple(line for findings in found.values() for line in _open_lines(findings)),
        warnings=_warnings(campaign),
        live=live,
        isolations=tuple(isolation.value for isolation in found),
        matrix=_matrix(found),
        gates=tuple(_gate_row(name, judgement, verdicts) for name, judgement in overall.items()),
        defence=tuple(line for isolation in found for line in _defence_lines(campaign, isolation)),
        doubts=tuple(line for findings in found.values() for line in _doubt_lines(findings)),
        toggles=tuple((f.isolation.value, toggle) for f in found.values() for toggle in suggest_toggles(f)),
        host=_host_rows(campaign, confounders),
        profile=f"{profile.path} (sha256 {profile.sha256[:16]}…){mutation}" if profile else "none",
        run=campaign.wanted.run,
        command=command,
    )


def _gate_row(
    name: str, overall: Judgement, verdicts: Mapping[AnyIsolation, Mapping[str, Judgement]]
) -> GateRow:
    told = [
        gates[name].outcome.value.replace("_", " ") if name in gates else "" for gates in verdicts.values()
    ]
    if not any(told):  # a gate over the whole run, such as `results`
        told = [overall.outcome.value.replace("_", " ")] * len(told)
    return GateRow(name, tuple(told), "; ".join(overall.reasons[:3]))


def _because(overall: Mapping[str, Judgement], outcome: Outcome) -> tuple[str, ...]:
    """The gates that decide, with their reasons."""
    deciding = {name: j for name, j in overall.items() if j.outcome is outcome}
    if outcome is Outcome.PASS:
        return (f"{len(deciding)} gates, each judged in every isolation that it speaks of",)
    return tuple(
        f"{name}: {reason}" for name, judgement in deciding.items() for reason in judgement.reasons[:8]
    )


def _open_lines(findings: Findings) -> list[str]:
    """Families outside the gates that are not held here."""
    if findings.isolation is Isolation.NONE:
        return []
    return [
        f"Under {findings.isolation.value}, {', '.join(acts)} stand open ({FAMILY_WORDS.get(family, family)}); "
        "no gate claims otherwise."
        for family in findings.families
        if family not in findings.claimed
        and (acts := [a for a in _acts_of(findings, family) if _stands_open(findings, a)])
    ]


def _stands_open(findings: Findings, act: str) -> bool:
    """Neither held nor without anything of the kind in this kernel."""
    own = {f.verdict for f in findings.probes if f.probe.act == act}
    return findings.acts[act] is not ActVerdict.HELD and own != {ProbeVerdict.ABSENT}


def _defence_lines(campaign: Campaign, isolation: AnyIsolation) -> list[str]:
    """Families that one layer alone keeps closed, and those that several keep."""
    attribution = campaign.attributions.get(isolation)
    if attribution is None:
        return []
    lines = [
        f"Under {isolation.value}, {family} is one defence deep: without the {' or the '.join(layers)} alone, an effect of it succeeds."
        for family, layers in attribution.one_deep.items()
    ]
    lines += [
        f"Under {isolation.value}, whether {family} hangs on the {', the '.join(layers)} alone could not be measured."
        for family, layers in attribution.unclear.items()
    ]
    if attribution.deeper:
        lines.append(
            f"Under {isolation.value}, no effect of {', '.join(attribution.deeper)} hangs on one layer alone."
        )
    return lines + [f"Under {isolation.value}: {note}." for note in attribution.notes]


def _acts_of(findings: Findings, family: str) -> list[str]:
    return list(dict.fromkeys(f.probe.act for f in findings.probes if f.probe.family == family))


def _warnings(campaign: Campaign) -> tuple[str, ...]:
    lines = []
    if campaign.harness_seccomp:
        lines.append(
            "The harness itself runs under a seccomp filter: what the control is denied may be that filter's doing."
        )
    if campaign.host.landlock == 0:
        lines.append("This kernel has no Landlock, so under seccomp a neighbour's memory stays readable.")
    for staging in campaign.stagings:
        lines += [f"Under {staging.isolation.value}: {note}." for note in staging.arm.notes]
    return tuple(lines)


def _matrix(found: Mapping[AnyIsolation, Findings]) -> tuple[MatrixRow, ...]:
    families = dict.fromkeys(family for findings in found.values() for family in findings.families)
    return tuple(
        MatrixRow(family, FAMILY_WORDS.get(family, family), tuple(_cell(f, family) for f in found.values()))
        for family in families
    )


def _cell(findings: Findings, family: str) -> str:
    """The verdict, and on how many probes it rests."""
    own = [f for f in findings.probes if f.probe.family == family]
    verdict = findings.families[family]
    wanted = ProbeVerdict.OPEN if findings.isolation is Isolation.NONE else ProbeVerdict.HELD
    count = f"{sum(f.verdict is wanted for f in own)}/{len(own)}"
    ungated = (
        ""
        if family in (*findings.claimed, *FIVE) or findings.isolation is Isolation.NONE
        else ", not claimed"
    )
    return f"{verdict.value.replace('_', ' ')} {count}{ungated}"


def _doubt_lines(findings: Findings) -> list[str]:
    """Each probe that is neither held nor open, with both arms."""
    quiet = {ProbeVerdict.HELD, ProbeVerdict.OPEN, ProbeVerdict.ABSENT}
    lines = [_doubt_line(findings.isolation, f) for f in findings.probes if f.verdict not in quiet]
    absent = [f.probe for f in findings.probes if f.verdict is ProbeVerdict.ABSENT]
    if absent:
        calls = ", ".join(dict.fromkeys("x32" if p.variant == "x32" else p.act for p in absent))
        lines.append(
            f"{findings.isolation.value}: {len(absent)} probes found nothing of the kind in this kernel ({calls})"
        )
    return lines


def _doubt_line(isolation: AnyIsolation, finding: Finding) -> str:
    arms = " / ".join(
        " ".join(filter(None, (arm.outcome.value, arm.errno, f"signal {arm.signal}" if arm.signal else None)))
        for arm in (finding.control, finding.treatment)
    )
    why = finding.treatment.evidence or finding.control.evidence
    return f"{isolation.value}: {finding.probe.id} is {finding.verdict.value} ({arms}){f': {why}' if why else ''}"


def _host_rows(campaign: Campaign, confounders: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    host = campaign.host
    found = host.bubblewrap
    around = {0: "none", 1: "strict mode", 2: "a filter"}.get(campaign.harness_seccomp, "unknown")
    return (
        ("seccomp around the harness", around),
        ("kernel", f"{platform.release()} {platform.machine()}"),
        ("user", "root" if host.uid == 0 else f"uid {host.uid}"),
        ("bubblewrap", ".".join(map(str, found.version)) if found else "missing"),
        ("landlock", f"abi {host.landlock}" if host.landlock else "none"),
        *((name, _value(value)) for name, value in confounders.items() if name != "landlock_abi"),
    )


def _value(value: Any) -> str:
    return "not on this kernel" if value is None else str(value)


def problems(arms: Sequence[Any]) -> tuple[str, ...]:
    """Why instances were lost."""
    return tuple(f"{arm.isolation.value}: {arm.problem}" for arm in arms if arm.problem)
