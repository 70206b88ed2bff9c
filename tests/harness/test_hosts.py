"""Other hosts than this one: an ordinary user, no pty, no seccomp, a filter around the harness itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.sandbox import read_host

ROOT = Path(__file__).parents[2]
HOLDFAST = str(Path(sys.executable).with_name("holdfast"))
NOBODY = 65534


def gate(folder: Path, isolation: str) -> dict[str, object]:
    document = json.loads((folder / "results" / f"SANDBOX_{isolation}.json").read_text())
    found: dict[str, object] = document["gate"]
    return found


def reason(folder: Path, isolation: str) -> str:
    reasons = gate(folder, isolation)["reasons"]
    assert isinstance(reasons, list)
    return str(reasons[0])


@pytest.fixture(scope="module")
def readable_copy() -> Iterator[Path]:
    """The project and what it imports, where any user can read them, for an interpreter outside root's home."""
    folder = Path("/var/tmp") / f"holdfast-copy-{os.getpid()}"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if not name.startswith(".") and (ROOT / name).is_file():
            target = folder / "holdfast" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    site = Path(json.__file__).parents[1] / "site-packages"
    site = next((p for p in map(Path, sys.path) if p.name == "site-packages"), site)
    shutil.copytree(
        site, folder / "site", ignore=shutil.ignore_patterns("__editable__*", "z3", "mypy*", "ruff*")
    )
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def as_nobody(copy: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as uid 65534 with a home of its own and an interpreter that it may read."""
    home = folder / "home"
    home.mkdir()
    for owned in (folder, home):
        os.chown(owned, NOBODY, NOBODY)
    interpreter = next(
        p
        for p in (f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}", sys.executable)
        if Path(p).exists()
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": f"{copy}:{copy}/site"}
    call = "from holdfast.harness.cli import main; main()"
    return subprocess.run(
        [
            "setpriv",
            "--reuid",
            str(NOBODY),
            "--regid",
            str(NOBODY),
            "--clear-groups",
            "--",
            interpreter,
            "-B",
            "-c",
            call,
            *words,
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the other user can reach; pytest's own lies behind one that only its owner may enter."""
    folder = Path(
        subprocess.run(
            ["mktemp", "-d", "/var/tmp/holdfast-XXXXXX"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="becoming another user takes root; this user is one already"
)


@needs_root
def test_an_ordinary_user_gets_the_same_verdicts(readable_copy: Path, open_folder: Path) -> None:
    done = as_nobody(readable_copy, open_folder, "deny")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((open_folder / "results" / "SANDBOX_bwrap.json").read_text())
    assert document["host"]["uid"] == NOBODY
    assert set(document["families"].values()) == {"held"}
    before = document["credentials"]["before_sandbox"]
    assert int(before["CapEff"], 16) != 0, "both arms start as root of a user namespace"
    assert int(document["credentials"]["inside"]["CapEff"], 16) == 0


@needs_root
@pytest.mark.planted
def test_a_filter_that_allows_mount_is_a_breach_for_an_ordinary_user_too(
    readable_copy: Path, open_folder: Path
) -> None:
    """Without the stage's user namespace the control would be EPERM, and the hole would look like a denial."""
    profile = json.loads((ROOT / "profiles" / "standard.json").read_text())
    profile["syscalls"].append({"names": ["mount"], "action": "SCMP_ACT_ALLOW"})
    (open_folder / "holey.json").write_text(json.dumps(profile))
    done = as_nobody(readable_copy, open_folder, "deny", "--isolation", "seccomp", "--profile", "holey.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mount is breached by mount.classic" in reason(open_folder, "seccomp")


def test_without_a_pty_nothing_is_held_and_the_reason_says_so(tmp_path: Path) -> None:
    words = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", "/dev/ptmx", "--", HOLDFAST, "deny"]
    done = subprocess.run(
        [*words, "--isolation", "seccomp"], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no pty can be opened" in reason(tmp_path, "seccomp")


AROUND = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["prctl"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 22,
            "args": [{"index": 0, "value": 22, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ],
}


def under_a_filter(folder: Path, *words: str) -> int:
    """The harness itself under a filter that keeps further filters out, as a kernel without them would."""
    (folder / "around.json").write_text(json.dumps(AROUND))
    outer = [HOLDFAST, "run", "--isolation", "seccomp", "--profile", "around.json", "--", HOLDFAST, "deny"]
    return subprocess.run(
        [*outer, *words], cwd=folder, capture_output=True, timeout=60, check=False
    ).returncode


def test_a_kernel_that_takes_no_filter_is_told_with_a_hint(tmp_path: Path) -> None:
    assert under_a_filter(tmp_path, "--isolation", "seccomp") == 2
    assert "the step `filter` failed: Invalid argument; this kernel may lack seccomp" in reason(
        tmp_path, "seccomp"
    )


def test_a_filter_around_the_harness_is_recorded_and_makes_enosys_no_absence(tmp_path: Path) -> None:
    assert under_a_filter(tmp_path, "--isolation", "none") == 2
    document = json.loads((tmp_path / "results" / "SANDBOX_none.json").read_text())
    assert document["host"]["seccomp_around_harness"] == 2
    keyctl = [p["verdict"] for p in document["probes"] if p["act"] == "keyring.keyctl"]
    assert "absent" not in keyctl
    assert "vacuous" in keyctl
    report = (tmp_path / "results" / "SANDBOX-REPORT.md").read_text()
    assert "The harness itself runs under a seccomp filter" in report


def test_the_host_is_read_without_believing_sysctls() -> None:
    found = read_host().bubblewrap
    assert found is not None
    assert found.problem is None
    assert found.version >= (0, 4)
