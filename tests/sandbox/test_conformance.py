"""The conformance suite: ours conform, foreign ones conform but for what is listed, and it finds what is wrong."""

import sys
from functools import partial
from pathlib import Path

import pytest

from holdfast.sandbox import Isolation, load_profile
from holdfast.sandbox.foreign import KNOWN, parse_launcher
from holdfast.sandbox.testing import CHECKS, DEVIATIONS, Conformance, Result, check_launcher, starter_for
from tests.launchers_here import present

STANDARD = load_profile("standard")


@pytest.mark.parametrize("isolation", list(Isolation), ids=lambda i: i.value)
def test_our_own_launchers_conform_without_a_deviation(isolation: Isolation) -> None:
    found = check_launcher(partial(starter_for, isolation=isolation, profile=STANDARD), deviations={})
    assert found.problems == ()
    assert [result.check for result in found.results] == list(CHECKS)


@pytest.mark.parametrize(
    "name", [n if n == "runc" else pytest.param(n, marks=pytest.mark.nightly) for n in KNOWN]
)
def test_a_foreign_launcher_conforms_but_for_what_is_listed(name: str) -> None:
    with present(name) as foreign:
        found = check_launcher(
            partial(starter_for, isolation=foreign, profile=None), deviations=DEVIATIONS.get(name, {})
        )
    assert found.problems == ()
    assert len(found.results) == len(CHECKS)


def test_a_listed_deviation_that_no_longer_shows_is_a_problem() -> None:
    found = Conformance((Result("streams", "", "it merges them"), Result("closing", "", "")))
    assert found.problems == (
        "streams: listed as a deviation (it merges them) and it no longer shows; take it off the list",
    )


def test_a_deviation_that_is_listed_is_none_and_one_that_is_not_is() -> None:
    listed, unlisted = Result("streams", "merged", "it merges them"), Result("closing", "left a child", "")
    assert Conformance((listed, unlisted)).problems == ("closing: left a child",)


def test_a_list_that_names_an_unknown_check_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown checks: strems"):
        check_launcher(
            partial(starter_for, isolation=Isolation.NONE, profile=None), deviations={"strems": "x"}
        )


def test_every_listed_deviation_is_from_a_check_that_there_is_and_gives_a_reason() -> None:
    for name, deviations in DEVIATIONS.items():
        assert name in KNOWN
        assert set(deviations) <= set(CHECKS)
        assert all(len(reason) > 20 for reason in deviations.values())


BROKEN = """
import os, subprocess, sys
fault, argv = sys.argv[1], sys.argv[2:]
if fault == "swallows-status":
    subprocess.run(argv); raise SystemExit(0)
if fault == "merges-streams":
    os.dup2(1, 2)
if fault == "leaks":
    os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
if fault == "splits-arguments":
    argv = " ".join(argv).split()
if fault == "drops-environment":
    os.environ.clear()
if fault == "moves":
    os.chdir("/")
os.execvp(argv[0], argv)
"""


@pytest.mark.planted
@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("swallows-status", "exit-status"),
        ("merges-streams", "streams"),
        ("leaks", "descriptors"),
        ("splits-arguments", "arguments"),
        ("drops-environment", "environment"),
        ("moves", "folder"),
    ],
)
def test_a_launcher_with_a_fault_fails_the_check_for_it(fault: str, check: str, tmp_path: Path) -> None:
    script = tmp_path / "launcher.py"
    script.write_text(BROKEN)
    foreign = parse_launcher(f"{sys.executable} -I -S {script} {fault}")
    make = partial(starter_for, isolation=foreign, profile=None)
    (problem,) = check_launcher(make, deviations={}, only=[check]).problems
    assert problem.startswith(f"{check}: ")
