"""Runs for tests: one call from changes to what was concluded, with a teller that keeps what it is told."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.harness.campaign import Staging, Wanted
from holdfast.harness.conclude import Concluded, conclude
from holdfast.harness.gate import Judgement
from holdfast.harness.report import Page, render_markdown
from holdfast.harness.run_id import begin_run
from holdfast.harness.suite import Suite
from holdfast.sandbox import Plan, Profile, load_profile, parse_profile
from holdfast.sandbox.instance import AGENT
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.probes import Probe, all_probes

PROXY = Path(__file__).parent / "subjects" / "proxy.py"


@dataclass
class Listener:
    """A teller that keeps what it hears."""

    stagings: list[Staging] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    def stage_started(self, isolation: AnyIsolation) -> None:
        del isolation

    def stage_finished(self, staging: Staging) -> None:
        self.stagings.append(staging)

    def conclude(
        self, page: Page, overall: Mapping[str, Judgement], *, written: tuple[str, ...] = ()
    ) -> None:
        del overall, written
        self.pages.append(page)


def run(
    results: Path,
    *isolations: AnyIsolation,
    profile: Profile | None = None,
    suites: tuple[Suite[Any], ...] = (),
    proxy: tuple[str, ...] | None = None,
    probes: tuple[Probe, ...] | None = None,
    agent: Path = AGENT,
    alter: Mapping[AnyIsolation, Callable[[Plan], Plan]] | None = None,
) -> Concluded:
    """A whole campaign, its files under `results`."""
    wanted = Wanted(
        run=begin_run(),
        isolations=isolations,
        profile=profile or load_profile("standard-net" if suites else "standard"),
        probes=all_probes() if probes is None else probes,
        suites=suites,
        proxy_command=proxy,
        agent=agent,
        alterations=alter or {},
    )
    return conclude(wanted, Listener(), results=results, name="test", command="holdfast ...")


def proxy_with(fault: str) -> tuple[str, ...]:
    """The small proxy with one fault, as `--proxy-cmd` would name it."""
    return (
        sys.executable,
        "-I",
        "-S",
        str(PROXY),
        fault,
        "{port}",
        "{anthropic}",
        "{zai}",
        "{zai_key}",
        "{log_dir}",
    )


def edited_profile(name: str, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Profile:
    """A shipped profile with its rules changed."""
    path = Path(__file__).parents[1] / "profiles" / f"{name}.json"
    document = json.loads(path.read_text())
    document["syscalls"] = edit(document["syscalls"])
    return parse_profile(json.dumps(document).encode(), path=f"{name}-edited.json")


def record(
    record_property: Callable[[str, object], None], *, subject: str, fault: str, gate: str, says: str
) -> None:
    """A row of docs/PLANTED-FAULTS.md; whether it was killed is the test's own outcome."""
    for name, value in (("subject", subject), ("planted", fault), ("gate", gate), ("says", says)):
        record_property(name, value)


def report_of(concluded: Concluded) -> str:
    """The page as a reader gets it, without the backslashes that keep Markdown quiet."""
    return render_markdown(concluded.page).replace("\\", "")
