"""Under no inet sockets and in an empty network namespace the local tier does what it does unconfined."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.suites.agentos import LOCAL_FILES, Visit, judge_full, judge_minimized, private_turns, visit
from holdfast.suites.agentos_scene import Runs, open_scene, stage_for

ISOLATIONS = ("seccomp", "bwrap")


@pytest.fixture(params=ISOLATIONS)
def confined(request: pytest.FixtureRequest) -> Iterator[Runs]:
    with tempfile.TemporaryDirectory(prefix="hf-") as folder, stage_for(request.param, Path(folder)) as stage:
        yield stage


@pytest.fixture(scope="module")
def loose() -> Iterator[Visit]:
    """The same session with no confinement at all."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder, stage_for("none", Path(folder)) as stage:
        yield visit(stage, "loose", "local_only")


def without_times(visited: Visit) -> list[dict[str, object]]:
    events = [json.loads(line) for line in visited.log.splitlines()]
    return [{k: v for k, v in event.items() if k not in {"created_at", "ended_at"}} for event in events]


def test_local_only_gives_the_same_results_confined(confined: Runs, loose: Visit) -> None:
    inside = visit(confined, "inside", "local_only")
    assert (inside.status, set(inside.files)) == (0, LOCAL_FILES)
    assert without_times(inside) == without_times(loose)
    assert len(without_times(inside)) == 8
    assert (inside.connections, inside.wire) == (0, b"")


def test_an_inet_socket_is_denied_there(confined: Runs) -> None:
    """The control: the confinement is real, so the sameness above says something."""
    done = confined.run(["python3", "-c", "import socket; socket.socket(socket.AF_INET)"])
    assert done.status == 1
    assert b"PermissionError" in done.stderr


def test_the_summary_is_the_same_confined(confined: Runs) -> None:
    summaries = []
    with stage_for("none", confined.folder) as free:
        for name, stage in (("in", confined), ("out", free)):
            with open_scene(stage, name) as scene:
                scene.session("local_only", private_turns(3), "--id", "s")
                summary = scene.summary()
                del summary["checkpoint"]
                summaries.append(summary)
    assert summaries[0] == summaries[1]
    assert summaries[0]["turns"] == 3


def test_the_tiers_that_report_keep_to_their_words_confined(confined: Runs) -> None:
    """Through one Unix socket, the only way out."""
    for tier, judge in (("minimized", judge_minimized), ("full", judge_full)):
        judgement = judge(visit(confined, tier, tier))
        assert judgement.outcome.value == "pass", judgement.reasons
