"""Every command of the README runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 7
    assert COMMANDS[0] == "make sandbox-deny-tests"
    assert [text.strip() for kind, text in BLOCKS if kind == "console"] == ["make test"], (
        "this very run is that one"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_ends_well(command: str, tmp_path: Path) -> None:
    """In the checkout, as the README means it; results go where they always go."""
    folder = ROOT if command.startswith("make") or "tests/" in command or "profiles/" in command else tmp_path
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={"PATH": PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_readme_runs(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:docs|profiles|requirements|tests)/[\w./-]+)`|\]\(([\w./-]+)\)", README))
    paths = {a or b for a, b in named}
    assert paths
    assert [p for p in sorted(paths) if not (ROOT / p).exists()] == []
