"""A person's own arguments of bwrap: the battery runs with them, says so, and sees what they loosen."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.sandbox import Command, Isolation, load_profile, read_host
from holdfast.sandbox.confine import plan_command
from holdfast.sandbox.launchers.bwrap import render_argv

START = "import sys; from holdfast.harness.cli import main; sys.exit(main())"


def deny(results: Path, *args: str) -> tuple[int, str, dict[str, Any]]:
    """`holdfast deny` under bwrap: its status, what it said on stderr, and its record of the isolation."""
    argv = [sys.executable, "-c", START, "deny", "--isolation", "bwrap", "--results", str(results), *args]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    file = results / "SANDBOX_bwrap.json"
    return ended.returncode, ended.stderr, json.loads(file.read_text()) if file.exists() else {}


def test_they_stand_in_front_of_the_command_and_behind_the_plan() -> None:
    plan = plan_command(Isolation.BWRAP, Command(("/bin/true",)), load_profile("standard"), read_host())
    argv = render_argv(plan.with_further(("--hostname", "quiet")), disable_userns=False)
    assert argv[-4:] == ["--hostname", "quiet", "--", "/bin/true"]
    assert argv[:-4] + argv[-2:] == render_argv(plan, disable_userns=False)


def test_a_loosening_argument_needs_a_word(tmp_path: Path) -> None:
    status, said, record = deny(tmp_path, "--bwrap-args=--share-net")
    assert (status, record) == (64, {})
    assert "`--share-net` loosens the sandbox" in said


def test_the_battery_holds_with_an_argument_that_gives_nothing_away_and_records_it(tmp_path: Path) -> None:
    status, said, record = deny(tmp_path, "--bwrap-args=--hostname quiet")
    assert status == 0, said
    assert "further arguments of bwrap: --hostname quiet" in json.dumps(record)


@pytest.mark.planted
def test_planted_the_battery_sees_what_a_loosening_argument_opens(tmp_path: Path) -> None:
    """With the host's network come its abstract sockets."""
    status, _, record = deny(tmp_path, "--allow-weaker", "--bwrap-args=--share-net")
    assert status == 1
    assert "further arguments of bwrap: --share-net" in json.dumps(record)
