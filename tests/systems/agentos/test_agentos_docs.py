"""The commands of `docs/CCC-BRIDGE.md` are run, in their order, in one shell, as a reader would."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.clock import wait_until
from holdfast.suites.agentos_wire import METRICS
from holdfast.systems.agentos.status import render_prometheus

PAGE = (Path(__file__).parents[3] / "docs" / "CCC-BRIDGE.md").read_text()
BLOCKS = re.findall(r"(<!-- second terminal -->\n)?```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hf-") as made:
        yield Path(made)


def test_every_command_of_the_page_works_in_order(folder: Path) -> None:
    first = [text for marked, text in BLOCKS if not marked]
    (second,) = [text for marked, text in BLOCKS if marked]
    assert len(first) == 4
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTOS_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with subprocess.Popen(
        ["sh", "-eu", "-c", second], cwd=folder, stdin=subprocess.PIPE, env=environment
    ) as server:
        wait_until((folder / "ccc.sock").exists, what="the server's socket", seconds=30)
        done = subprocess.run(
            ["sh", "-eux"],
            input="\n".join(first),
            text=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert server.stdin is not None
        server.stdin.close()
    assert done.returncode == 0, done.stderr
    assert "uploaded 4 rows" in done.stdout
    assert (folder / "data" / "integration" / "ccp_metrics_summary.json").exists()
    assert "agentos_queue_pending 0" in (folder / "agentos.prom").read_text()


def test_the_page_names_every_number_that_minimized_sends() -> None:
    listed = PAGE[PAGE.index("The numbers of `minimized`") :].partition(". The list")[0]
    assert set(re.findall(r"`([a-z_]+)`", listed)) - {"minimized"} == METRICS
    assert f"with {len(METRICS)} numbers" in PAGE


def test_the_alerts_of_the_page_are_figures_that_exist() -> None:
    source = Path(str(sys.modules[render_prometheus.__module__].__file__)).read_text()
    for name in re.findall(r"`agentos_([a-z_]+)`", PAGE):
        assert f'"{name}"' in source
