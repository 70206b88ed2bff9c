"""What the documents tell people to type works as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMANDS = re.compile(r"^\$ ccp (.*)$", re.MULTILINE)
FILES = re.compile(r"^```json (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXPECTED = {"POLICY-PACK.md": 7, "CCP.md": 3}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_command_of_a_document_runs(tmp_path: Path, name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    for file, body in FILES.findall(text):
        (tmp_path / file).write_text(body)
    commands = COMMANDS.findall(text)
    assert len(commands) == EXPECTED[name]
    for command in commands:
        argv = [sys.executable, "-m", "holdfast.systems.ccp.cli", *shlex.split(command)]
        ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"


def test_every_variable_and_option_that_the_code_reads_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "systems" / "ccp").glob("*.py"))
    text = "".join((ROOT / "docs" / name).read_text() for name in EXPECTED)
    names = set(re.findall(r'"(CCP_[A-Z_]+[A-Z]|--[a-z-]+)"', source)) - {
        "CCP_PIN",
        "--ro-bind",
        "--unshare-all",
    }
    assert len(names) > 10
    assert {name for name in names if name not in text} == set()
