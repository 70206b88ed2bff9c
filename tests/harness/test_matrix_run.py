"""The matrix from real runs, and launchers that are not ours from the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.harness.cli import _main
from holdfast.sandbox.foreign import KNOWN
from tests.launchers_here import present

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))


def holdfast(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [HOLDFAST, *words], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results" / name).read_text())
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """One small matrix: ours, a prefix that confines nothing, one that is not there, one that ends at once."""
    folder = tmp_path_factory.mktemp("matrix")
    words = ["--launcher", "env", "--launcher", "no-such-sandbox --", "--launcher", "false"]
    return *holdfast(folder, "matrix", "--only", "none,seccomp", *words), folder


def cells(folder: Path, column: str) -> dict[str, dict[str, Any]]:
    return {c["act"]: c for c in read(folder, "MATRIX.json")["cells"] if c["column"] == column}


@pytest.mark.planted
def test_a_sandbox_that_confines_nothing_is_breached_in_every_act(measured: tuple[int, str, Path]) -> None:
    assert {c["state"] for c in cells(measured[2], "env").values()} == {"breached"}
    assert {c["proof"] for c in cells(measured[2], "env").values()} <= {"counterexample", "cannot_tell"}


@pytest.mark.planted
def test_a_launcher_that_never_runs_the_agent_holds_nothing(measured: tuple[int, str, Path]) -> None:
    code, said, folder = measured
    assert code == 2
    assert {c["state"] for c in cells(folder, "false").values()} == {"cannot_tell"}
    assert "false: failed, the agent is lost" in said


def test_a_launcher_that_is_not_there_is_listed(measured: tuple[int, str, Path]) -> None:
    _, said, folder = measured
    statuses = {c["name"]: (c["status"], c["reason"]) for c in read(folder, "MATRIX.json")["columns"]}
    assert statuses["no-such-sandbox"] == ("missing", "not installed")
    assert "no-such-sandbox: missing, not installed" in said
    assert "no-such-sandbox" in (folder / "results" / "MATRIX.md").read_text()


def test_our_own_column_is_held_proven_and_attributed(measured: tuple[int, str, Path]) -> None:
    own = cells(measured[2], "seccomp")
    mount, ptrace = own["mount.classic"], own["ptrace"]
    assert (mount["state"], mount["proof"], mount["held_by"]) == (
        "held",
        "proven",
        ["filter", "capabilities"],
    )
    assert (ptrace["state"], ptrace["held_by"], ptrace["one_defence_deep"]) == ("held", ["filter"], True)
    assert own["reach.home"]["state"] == "breached"


def test_the_pages_can_be_rendered_again_from_the_file(
    measured: tuple[int, str, Path], tmp_path: Path
) -> None:
    first = measured[2] / "results"
    code, _ = holdfast(tmp_path, "matrix", "--from", str(first / "MATRIX.json"))
    assert code == 0
    for name in ("MATRIX.md", "MATRIX.html"):
        assert (tmp_path / "results" / name).read_text() == (first / name).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["matrix", "--only", "none,gvisor"], "unknown isolation `gvisor`"),
        (["matrix", "--launcher", ""], "an empty launcher"),
        (["matrix", "--launcher", "env A=1", "--launcher", "env B=1"], "both called `env`"),
        (["matrix", "--profile", "no-such"], "no-such"),
        (["matrix", "--from", "nowhere.json"], "`nowhere.json` cannot be read"),
        (["matrix", "--from", "broken.json"], "`broken.json` is not JSON"),
        (["matrix", "--from", "other.json"], "`other.json` is not a matrix"),
        (["matrix", "--from", "torn.json"], "breaks the schema"),
        (["deny", "--launcher", "'"], "cannot be split"),
        (["conform", "--launcher", ""], "an empty launcher"),
    ],
)
def test_bad_input_is_64_one_line_and_nothing_written(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{" * 100_000)
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "torn.json").write_text('{"schema": "holdfast.matrix/1"}')
    code = _main(words)
    text = "".join(capsys.readouterr())
    assert code == 64, text
    assert said in text
    assert "Traceback" not in text
    assert not (tmp_path / "results").exists()


@pytest.mark.planted
def test_deny_through_a_prefix_that_confines_nothing_fails_the_gate(tmp_path: Path) -> None:
    code, text = holdfast(tmp_path, "deny", "--launcher", "env", "--quiet")
    assert code == 1, text
    document = read(tmp_path, "SANDBOX_env.json")
    assert document["isolation"] == "env"
    assert document["launcher"]["argv"] == ["env"]
    assert set(document["families"].values()) == {"breached"}
    assert not (tmp_path / "results" / "SANDBOX_bwrap.json").exists()


@pytest.mark.planted
def test_deny_through_a_launcher_that_is_missing_cannot_tell(tmp_path: Path) -> None:
    code, text = holdfast(tmp_path, "deny", "--launcher", "no-such-sandbox --", "--quiet")
    assert code == 2, text
    assert read(tmp_path, "SANDBOX_no-such-sandbox.json")["gate"]["outcome"] == "cannot_tell"


def test_deny_through_a_prefix_that_confines_finds_what_it_holds(tmp_path: Path) -> None:
    prefix = "bwrap --dev-bind / / --unshare-pid --proc /proc --clearenv --tmpfs /run"
    code, text = holdfast(tmp_path, "deny", "--launcher", prefix, "--quiet")
    assert code == 1, text
    acts = read(tmp_path, "SANDBOX_bwrap-prefix.json")["acts"]
    assert acts["procmem.read"] == acts["reach.environment"] == acts["reach.unix"] == "held"
    assert acts["ptrace"] == "breached"


SHARE = {"firejail", "runc"}
"""What a plain test run takes of them; the nightly run takes all."""


@pytest.mark.parametrize(
    "name", [n if n in SHARE else pytest.param(n, marks=pytest.mark.nightly) for n in KNOWN]
)
def test_a_known_launcher_takes_the_whole_battery(name: str, tmp_path: Path) -> None:
    """What it holds is its own affair; that it was asked, in a sandbox that came up, is ours."""
    with present(name):
        code, text = holdfast(tmp_path, "deny", "--launcher", name, "--quiet")
        document = read(tmp_path, f"SANDBOX_{name}.json")
    assert code in {0, 1}, text
    assert document["counts"]["held"] > 0
    assert document["counts"]["not_run"] == 0
    assert document["credentials"]["inside"] != document["credentials"]["before_sandbox"]
    assert document["acts"]["procmem.read"] == "held", "a pid namespace is the least that each of them brings"


@pytest.mark.nightly
def test_the_whole_matrix_with_every_launcher(tmp_path: Path) -> None:
    code, text = holdfast(tmp_path, "matrix")
    assert code == 0, text
    document = read(tmp_path, "MATRIX.json")
    assert {c["status"] for c in document["columns"]} == {"measured"}
    assert [a["problem"] for c in document["columns"] for a in c["ablations"] if a["problem"]] == []
