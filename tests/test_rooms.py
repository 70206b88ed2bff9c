"""The file list is the architecture: what the distribution ships is what the tree has, and nothing collides."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SHIPPED = {"tests", "bench", "features", "results", "build", "tools"}


def test_every_package_of_the_tree_is_listed_and_every_listed_one_is_there() -> None:
    tree = {
        ".".join(("holdfast", *folder.relative_to(ROOT).parts))
        for folder in (p.parent for p in ROOT.rglob("__init__.py"))
        if not any(part.startswith(".") for part in folder.relative_to(ROOT).parts)
        and not set(folder.relative_to(ROOT).parts[:1]) & NOT_SHIPPED
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == tree | {"holdfast.docs.schemas"}


def test_the_wheel_works_in_a_project_with_a_sandbox_and_a_harness_of_its_own(tmp_path: Path) -> None:
    wheels, site, project = tmp_path / "wheels", tmp_path / "site", tmp_path / "project"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    copy = tmp_path / "source"
    names = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, names.stdout.decode().split("\0")):
        source = ROOT / name
        if source.is_file() and not source.is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(copy)], check=True
    )
    (wheel,) = wheels.iterdir()
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    for name in ("sandbox", "harness"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("mine = True\n")
    code = (
        "import sys, sandbox, harness, holdfast, holdfast.harness.cli, holdfast.sandbox as theirs\n"
        "assert sandbox.mine and harness.mine\n"
        f"assert holdfast.__file__.startswith({str(site)!r}), holdfast.__file__\n"
        "sys.argv = ['holdfast', 'deny', '--isolation', 'bwrap', '--quiet']\n"
        "holdfast.harness.cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f".{os.pathsep}{site}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "results" / "SANDBOX_bwrap.json").exists()


def test_no_path_of_a_machine_and_no_address_of_an_index_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    forbidden = [
        b"/" + b"work/",
        b"/root/." + b"pyenv",
        b"pypi" + b".org",
        b"--index" + b"-url",
        b"files.python" + b"hosted",
    ]
    seen = [
        (name, word)
        for name in filter(None, tracked.decode().split("\0"))
        for word in forbidden
        if (ROOT / name).is_file() and word in (ROOT / name).read_bytes()
    ]
    assert seen == []
