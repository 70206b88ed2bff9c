"""From the wanted run to its last file: run, judge, write, tell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from holdfast.harness.campaign import (
    Campaign,
    Reporter,
    Wanted,
    exit_code,
    findings_of,
    judge_campaign,
    over_isolations,
    run_campaign,
)
from holdfast.harness.gate import Judgement, failed, worst
from holdfast.harness.leak import search
from holdfast.harness.report import Page, page_of, render_markdown
from holdfast.harness.results import (
    judge_results,
    metrics_document,
    read_confounders,
    sandbox_document,
    write_document,
    write_text,
)
from holdfast.sandbox.host import read_host

__all__ = ["Concluded", "Teller", "conclude"]

REPORT = "SANDBOX-REPORT.md"


class Teller(Reporter, Protocol):
    """A reporter that also tells the end."""

    def conclude(
        self, page: Page, overall: Mapping[str, Judgement], *, written: tuple[str, ...] = ()
    ) -> None:
        """All is judged and written."""


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
    for file, document in documents.items():
        if file not in leaking:
            write_document(results / file, document)
    overall = dict(over_isolations(verdicts))
    overall["results"] = worst([*leaking.values(), judge_results(results, list(documents), wanted.run)])
    code = exit_code(list(overall.values()))
    live = any(suite.live for suite in wanted.suites)
    lanes = {staging.isolation.value: staging.lanes for staging in campaign.stagings}
    metrics = metrics_document(wanted.run, name=name, code=code, live=live, lanes=lanes, gates=overall)
    page = page_of(campaign, verdicts, overall=overall, confounders=confounders, command=command, live=live)
    text = render_markdown(page)
    _refuse_canaries(campaign, {f"METRICS_{name}.json": json.dumps(metrics), REPORT: text})
    write_document(results / f"METRICS_{name}.json", metrics)
    write_text(results / REPORT, text)
    teller.conclude(page, overall, written=(str(results / REPORT),))
    return Concluded(code, overall, page, campaign)


def _leaking(campaign: Campaign, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Judgement]:
    """The documents in which a canary stands, with a failed judgement each."""
    return {
        file: failed(*(str(found) for found in seen[:3]))
        for file, document in documents.items()
        if (seen := search(_canaries(campaign), [(file, json.dumps(document).encode())]))
    }


def _refuse_canaries(campaign: Campaign, texts: Mapping[str, str]) -> None:
    """The last two files say what was judged, so a canary in them has no gate left to fail: our own fault."""
    if found := search(_canaries(campaign), [(name, text.encode()) for name, text in texts.items()]):
        raise OSError(f"{found[0]} would have been written; nothing was")


def _canaries(campaign: Campaign) -> dict[str, str]:
    """Every secret of every isolation, under a name that may be printed."""
    stagings = (campaign.control, *campaign.stagings)
    return {f"{name} ({s.isolation.value})": value for s in stagings for name, value in s.secrets.items()}
