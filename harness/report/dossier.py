"""The evidence behind each cell of the matrix and each gate: what the HTML page shows a click away. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from holdfast.harness.battery import Finding, Findings
from holdfast.harness.campaign import Campaign, findings_of
from holdfast.harness.gate import Judgement
from holdfast.harness.report.page import FAMILY_WORDS, Page
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.verdict import Arm

__all__ = ["CellEvidence", "Dossier", "GateEvidence", "ProbeRow", "dossier_of"]

TONES: Mapping[str, str] = {
    "held": "good",
    "pass": "good",
    "open": "quiet",
    "absent": "quiet",
    "breached": "bad",
    "fail": "bad",
}
"""Any other word is a doubt, and looks like one."""


def tone_of(word: str) -> str:
    """How a verdict looks; never good by default."""
    return TONES.get(word, "doubt")


@final
@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One attempt, both arms."""

    id: str
    level: str
    verdict: str
    control: str
    treatment: str
    said: str

    @property
    def tone(self) -> str:
        """How it looks."""
        return tone_of(self.verdict)


@final
@dataclass(frozen=True, slots=True)
class CellEvidence:
    """One family under one isolation."""

    family: str
    words: str
    isolation: str
    verdict: str
    wanted: int
    """Probes that came to what the cell says."""
    probes: tuple[ProbeRow, ...]
    claimed: bool

    @property
    def anchor(self) -> str:
        """Where it stands on the page."""
        return f"cell-{self.family}-{self.isolation}"

    @property
    def tone(self) -> str:
        """A breach that no gate claims otherwise is told as open, and looks like a doubt."""
        return "doubt" if self.verdict == "breached" and not self.claimed else tone_of(self.verdict)


@final
@dataclass(frozen=True, slots=True)
class GateEvidence:
    """One gate, with its reasons in each isolation."""

    name: str
    outcome: str
    reasons: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(where, outcome, reasons)"""

    @property
    def tone(self) -> str:
        """How it looks."""
        return tone_of(self.outcome)


@final
@dataclass(frozen=True, slots=True)
class Dossier:
    """The page, and what lies behind it."""

    page: Page
    cells: tuple[tuple[CellEvidence, ...], ...]
    """A row a family, in the order of the page's isolations."""
    gates: tuple[GateEvidence, ...]

    @property
    def tone(self) -> str:
        """How the headline looks."""
        return {0: "good", 1: "bad"}.get(self.page.code, "doubt")


def dossier_of(
    campaign: Campaign,
    page: Page,
    verdicts: Mapping[AnyIsolation, Mapping[str, Judgement]],
    overall: Mapping[str, Judgement],
) -> Dossier:
    """Gather the evidence of a campaign."""
    found = [findings_of(campaign, staging) for staging in campaign.stagings]
    cells = tuple(tuple(_cell(findings, row.family) for findings in found) for row in page.matrix)
    gates = tuple(_gate(name, judgement, verdicts) for name, judgement in overall.items())
    return Dossier(page, cells, gates)


def _cell(findings: Findings, family: str) -> CellEvidence:
    rows = tuple(_row(finding) for finding in findings.probes if finding.probe.family == family)
    control = findings.isolation is Isolation.NONE
    good = "open" if control else "held"
    return CellEvidence(
        family,
        FAMILY_WORDS.get(family, family),
        findings.isolation.value,
        findings.families[family].value.replace("_", " ") if family in findings.families else "not run",
        sum(row.verdict == good for row in rows),
        rows,
        control or family in findings.claimed,
    )


def _row(finding: Finding) -> ProbeRow:
    said = dict.fromkeys(filter(None, (finding.control.evidence, finding.treatment.evidence)))
    return ProbeRow(
        finding.probe.id,
        finding.probe.level.value,
        finding.verdict.value.replace("_", " "),
        _arm(finding.control),
        _arm(finding.treatment),
        "; ".join(said),
    )


def _arm(arm: Arm) -> str:
    word = arm.errno or (f"signal {arm.signal}" if arm.signal else "")
    return " ".join(filter(None, (arm.outcome.value.replace("_", " "), word)))


def _gate(
    name: str, overall: Judgement, verdicts: Mapping[AnyIsolation, Mapping[str, Judgement]]
) -> GateEvidence:
    told = tuple(
        (isolation.value, own[name].outcome.value.replace("_", " "), own[name].reasons)
        for isolation, own in verdicts.items()
        if name in own
    )
    outcome = overall.outcome.value.replace("_", " ")
    return GateEvidence(name, outcome, told or (("the whole run", outcome, overall.reasons),))
