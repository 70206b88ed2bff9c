"""Every command of the docs runs as it stands there, and every program; every file that they name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ("CONTRIBUTING.md", "docs/HARNESS.md", "docs/PROD-TESTS.md", "docs/SAFETY.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(doc, *found) for doc in DOCS for found in BLOCK.findall((ROOT / doc).read_text())]
COMMANDS = [(doc, line) for doc, kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PROGRAMS = [text for _, kind, text in BLOCKS if kind == "python" and "assert gate" in text]
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def test_there_are_commands_to_run() -> None:
    assert {doc for doc, _ in COMMANDS} == {"docs/HARNESS.md", "docs/PROD-TESTS.md"}
    assert len(COMMANDS) >= 9
    assert len(PROGRAMS) == 1


@pytest.mark.parametrize(("doc", "command"), COMMANDS, ids=[command[:60] for _, command in COMMANDS])
def test_a_command_of_the_docs_ends_well(doc: str, command: str) -> None:
    """In the checkout, one after the other even with several workers: they share its results folder."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env={"PATH": PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{doc}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_docs_runs(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_gate_that_safety_names_is_judged() -> None:
    from holdfast.suites.ccp import GATES

    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "SAFETY.md").read_text()))
    assert named == {gate.name for gate in GATES} - {"a_200_on_each_lane"} | {
        "identity",
        "as_planned",
        "denials",
        "results",
    }


@pytest.mark.parametrize("doc", DOCS)
def test_every_file_that_the_docs_name_is_there(doc: str) -> None:
    text = (ROOT / doc).read_text()
    named = set(re.findall(r"`((?:docs|suites|sandbox|harness|profiles|tests)/[\w./-]+\.\w+)`", text))
    linked = {str(Path(doc).parent / link) for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    assert [path for path in sorted(named | linked) if not (ROOT / path).exists()] == []
