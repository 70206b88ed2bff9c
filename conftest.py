"""Wires suites to pytest and nothing more: cases, properties, and what is written when a session ends."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from holdfast.harness.acceptance import Case, cases, known_suites
from holdfast.harness.run_id import Run, begin_run
from holdfast.harness.session import Told, write_acceptance, write_planted_table

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent
RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the table of planted faults goes, when it is to be rendered from this very run."""
    parser.addoption("--planted-table", type=Path, help="render the planted faults of this run to a file")
    parser.addoption("--acceptance-results", type=Path, default=ROOT / "results" / "acceptance")


def pytest_configure(config: pytest.Config) -> None:
    """One run a session; workers take the controller's."""
    told = getattr(config, "workerinput", {}).get("holdfast_run")
    config.stash[RUN] = Run(**json.loads(told)) if told else begin_run()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the run to a worker of pytest-xdist."""
    run = node.config.stash[RUN]  # type: ignore[attr-defined]  # xdist has no types
    node.workerinput["holdfast_run"] = json.dumps(asdict(run))  # type: ignore[attr-defined]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a gate, a suite and an isolation."""
    if "acceptance_case" in metafunc.fixturenames:
        found: list[Case] = list(cases(known_suites()))
        metafunc.parametrize("acceptance_case", found, ids=[case.id for case in found])


@pytest.fixture
def run_of_session(pytestconfig: pytest.Config) -> Run:
    """The run that every result of this session carries."""
    return pytestconfig.stash[RUN]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The controller has every worker's reports, with their properties: write what they come to."""
    told = [
        Told(report.nodeid, outcome, dict(report.user_properties), planted="planted" in report.keywords)
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if isinstance(report, pytest.TestReport) and (report.when == "call" or outcome == "error")
    ]
    run = config.stash[RUN]
    for line in write_acceptance(told, run, config.getoption("acceptance_results") / run.id):
        terminalreporter.write_line(line)
    if table := config.getoption("planted_table"):
        terminalreporter.write_line(write_planted_table(told, run, table))
