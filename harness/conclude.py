"""From the wanted run to its last file: run, judge, write, tell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from holdfast.harness.campaign import (
    Campaign,
    Reporter,
    Staging,
    Wanted,
    exit_code,
    findings_of,
    judge_campaign,
    over_isolations,
    run_campaign,
)
from holdfast.harness.gate import Judgement, failed, worst
from holdfast.harness.history import forget, remember
from holdfast.harness.leak import search
from holdfast.harness.report import Page, dossier_of, page_of, render_html, render_markdown
from holdfast.harness.results import (
    judge_results,
    metrics_document,
    read_confounders,
    read_mutation,
    render_document,
    sandbox_document,
    write_texts,
)
from holdfast.harness.sarif import render_sarif
from holdfast.sandbox.host import read_host
from holdfast.sandbox.isolation import AnyIsolation

__all__ = ["Concluded", "Silent", "Teller", "conclude"]

REPORT, HTML, SARIF = "SANDBOX-REPORT.md", "SANDBOX-REPORT.html", "SANDBOX.sarif"


class Teller(Reporter, Protocol):
    """A reporter that also tells the end."""

    def conclude(
        self, page: Page, overall: Mapping[str, Judgement], *, written: tuple[str, ...] = ()
    ) -> None:
        """All is judged and written."""


@final
class Silent:
    """A teller for campaigns whose story the test runner tells."""

    def stage_started(self, isolation: AnyIsolation) -> None:
        """Nothing."""

    def stage_finished(self, staging: Staging) -> None:
        """Nothing."""

    def conclude(
        self, page: Page, overall: Mapping[str, Judgement], *, written: tuple[str, ...] = ()
    ) -> None:
        """Nothing."""


@final
@dataclass(frozen=True, slots=True)
class Concluded:
    """What a run came to."""

    code: int
    overall: Mapping[str, Judgement]
    page: Page
    campaign: Campaign


def conclude(wanted: Wanted, teller: Teller, *, results: Path, name: str, command: str) -> Concluded:
    """Run a campaign and write its files under `results`; raises `OSError` where they cannot be written.

    A document that would carry a canary is not written: the gate `results` fails and says where it stood.
    """
    campaign = run_campaign(wanted, read_host(), teller)
    verdicts = judge_campaign(campaign)
    confounders = read_confounders(campaign.host)
    documents = {
        f"SANDBOX_{staging.isolation.value}.json": sandbox_document(
            campaign,
            findings_of(campaign, staging),
            verdicts[staging.isolation]["denials"],
            confounders=confounders,
        )
        for staging in campaign.stagings
    }
    leaking = _leaking(campaign, documents)
    clean = {file: document for file, document in documents.items() if file not in leaking}
    write_texts({results / file: render_document(document) for file, document in clean.items()})
    overall = dict(over_isolations(verdicts))
    overall["results"] = worst([*leaking.values(), judge_results(results, list(documents), wanted.run)])
    code = exit_code(list(overall.values()))
    live = any(suite.live for suite in wanted.suites)
    lanes = {staging.isolation.value: staging.lanes for staging in campaign.stagings}
    metrics = metrics_document(wanted.run, name=name, code=code, live=live, lanes=lanes, gates=overall)
    page = page_of(
        campaign,
        verdicts,
        overall=overall,
        confounders=confounders,
        command=command,
        live=live,
        mutation=read_mutation(results, wanted.profile),
    )
    told = {isolation.value: gates for isolation, gates in verdicts.items()}
    texts = {
        f"METRICS_{name}.json": render_document(metrics),
        REPORT: render_markdown(page),
        HTML: render_html(dossier_of(campaign, page, verdicts, overall)),
        SARIF: render_sarif(wanted.run, told | {"the run": {"results": overall["results"]}}),
        **remember(results, name, metrics, documents),
    }
    if found := search(_canaries(campaign), [(name, text.encode()) for name, text in texts.items()]):
        overall["results"] = worst([overall["results"], failed(*(str(f) for f in found[:3]))])
        code = exit_code(list(overall.values()))
        texts = {file: _redacted(text, campaign) for file, text in texts.items()}
        texts[f"METRICS_{name}.json"] = _redacted(
            render_document(
                metrics_document(wanted.run, name=name, code=code, live=live, lanes=lanes, gates=overall)
            ),
            campaign,
        )
        _refuse_canaries(campaign, texts)
    write_texts({results / file: text for file, text in texts.items()})
    forget(results)
    teller.conclude(page, overall, written=(str(results / REPORT),))
    return Concluded(code, overall, page, campaign)


def _leaking(campaign: Campaign, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Judgement]:
    """The documents in which a canary stands, with a failed judgement each."""
    return {
        file: failed(*(str(found) for found in seen[:3]))
        for file, document in documents.items()
        if (seen := search(_canaries(campaign), [(file, json.dumps(document).encode())]))
    }


def _redacted(text: str, campaign: Campaign) -> str:
    """Without the canaries themselves; that one stood here is a failed gate already."""
    for value in _canaries(campaign).values():
        text = text.replace(value, "[a canary]")
    return text


def _refuse_canaries(campaign: Campaign, texts: Mapping[str, str]) -> None:
    """One that still shows after it was taken out wears a coat: our own fault, and nothing is written."""
    if found := search(_canaries(campaign), [(name, text.encode()) for name, text in texts.items()]):
        raise OSError(f"{found[0]} would have been written; nothing was")


def _canaries(campaign: Campaign) -> dict[str, str]:
    """Every secret of every isolation, under a name that may be printed."""
    stagings = (campaign.control, *campaign.stagings)
    return {f"{name} ({s.isolation.value})": value for s in stagings for name, value in s.secrets.items()}
