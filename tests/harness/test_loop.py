"""The loop: decided purely, and once for real with a kill in between."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from holdfast.harness.bundle import prune, write_bundle
from holdfast.harness.loop import (
    Backoff,
    LoopWish,
    Round,
    World,
    is_done,
    next_pause,
    parse_backoff,
    run_loop,
)
from holdfast.harness.loop_cli import redact
from holdfast.harness.results import validate_document
from holdfast.harness.run_id import Run
from holdfast.sandbox import BadInputError
from tests.running import proxy_with

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))
GOOD = Round(0, "all pass", {"anthropic": 1, "zai": 2}, b'{"lane": "zai"}\n')
BAD = Round(1, "a gate fails", {"anthropic": 1, "zai": 0}, b'{"lane": "none"}\n')


class Night:
    """A clock that moves by the pauses, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.now, self.said, self.pauses = datetime(2026, 1, 1, tzinfo=UTC), list[str](), list[float]()
        self.world = World(
            lambda: self.now, self.pause, self.said.append, folder / "results", folder / "logs"
        )

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += timedelta(seconds=max(seconds, 60))
        return True


def wish(*, until_pass: bool = True, hours: float = 1.0, asked: str = "holdfast loop") -> LoopWish:
    return LoopWish("overnight", until_pass, hours, Backoff(5, 40), asked, live=False)


def in_turn(*rounds: Round) -> Callable[[int], Round]:
    return lambda number: rounds[min(number, len(rounds)) - 1]


def test_it_ends_at_the_first_round_that_passes_with_a_200_on_both_lanes(tmp_path: Path) -> None:
    night = Night(tmp_path)
    assert run_loop(wish(), in_turn(BAD, BAD, GOOD), night.world) == 0
    assert [line.split(":")[0] for line in night.said[:3]] == ["round 1", "round 2", "round 3"]
    assert night.pauses == [5, 10]
    assert "nothing was shown about the providers" in night.said[-1]
    snapshot = (tmp_path / "logs" / "usage_overnight_final.jsonl").read_bytes()
    assert snapshot == BAD.usage * 2 + GOOD.usage


@pytest.mark.parametrize(
    ("told", "done"),
    [
        (GOOD, True),
        (BAD, False),
        (Round(0, "", {"anthropic": 1}, b""), False),
        (Round(0, "", {}, b""), False),
        (Round(0, "", {"anthropic": 1, "zai": 0}, b""), False),
        (Round(2, "", {"anthropic": 1, "zai": 1}, b""), False),
    ],
    ids=["good", "gate-fails", "one-lane", "no-lane", "no-200", "cannot-tell"],
)
def test_done_needs_every_gate_and_a_200_on_each_lane(told: Round, done: bool) -> None:
    assert is_done(told) is done


def test_time_that_runs_out_is_told_honestly(tmp_path: Path) -> None:
    night = Night(tmp_path)
    assert run_loop(wish(hours=0.05), in_turn(BAD), night.world) == 1
    assert "a gate fails" in night.said[-1]


def test_a_loop_without_any_time_cannot_tell(tmp_path: Path) -> None:
    night = Night(tmp_path)
    assert run_loop(wish(hours=0), in_turn(GOOD), night.world) == 2
    assert night.said == ["no round was run: nothing can be told"]


def test_a_full_disk_in_a_round_does_not_end_the_night(tmp_path: Path) -> None:
    def rounds(number: int) -> Round:
        if number == 1:
            raise OSError(28, "No space left on device")
        return GOOD

    night = Night(tmp_path)
    assert run_loop(wish(), rounds, night.world) == 0
    assert "No space left on device" in night.said[0]


def test_without_until_pass_the_worst_round_is_the_answer(tmp_path: Path) -> None:
    night = Night(tmp_path)
    assert run_loop(wish(until_pass=False, hours=0.05), in_turn(GOOD, BAD, GOOD), night.world) == 1


def test_a_killed_loop_goes_on_with_the_same_deadline_and_the_next_round(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dies(number: int) -> Round:
        if number == 3:
            raise Killed
        return BAD

    night = Night(tmp_path)
    with pytest.raises(Killed):
        run_loop(wish(), dies, night.world)
    again = Night(tmp_path)
    again.now = night.now
    assert run_loop(wish(), in_turn(BAD, BAD, GOOD), again.world) == 0
    assert again.said[0].startswith("going on after round 2")
    assert again.said[1].startswith("round 3")
    state = json.loads((tmp_path / "results" / "LOOP_overnight.json").read_text())
    assert state["deadline"] == "2026-01-01T01:00:00+00:00"
    assert (state["rounds"], state["finished"]) == (3, True)


@pytest.mark.parametrize("spoil", ["other-words", "torn", "finished"])
def test_what_cannot_be_gone_on_with_begins_anew(tmp_path: Path, spoil: str) -> None:
    night = Night(tmp_path)
    state = tmp_path / "results" / "LOOP_overnight.json"
    run_loop(wish(), in_turn(GOOD), night.world)
    if spoil == "torn":
        state.write_text(state.read_text()[:40])
    again = Night(tmp_path)
    run_loop(
        wish(asked="holdfast loop --isolation none" if spoil == "other-words" else "holdfast loop"),
        in_turn(GOOD),
        again.world,
    )
    assert again.said[0].startswith("round 1:")


@pytest.mark.parametrize(
    ("failures", "pause"), [(0, 5.0), (1, 10.0), (2, 20.0), (3, 40.0), (4, 40.0), (1000, 40.0)]
)
def test_the_pause_doubles_up_to_its_limit(failures: int, pause: float) -> None:
    assert next_pause(failures, Backoff(5, 40)) == pause


@pytest.mark.parametrize("text", ["", "a", "5,4", "-1", "1,2,3", "5,", "nan", "1,1e9"])
def test_a_backoff_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="cannot read the backoff"):
        parse_backoff(text)


def test_a_line_with_a_secret_is_redacted_and_the_others_stay() -> None:
    log = b'{"a": 1}\n{"k": "c2VjcmV0LWNhbmFyeS0x"}\n{"b": 2}\n'
    assert redact(log, {"the key": "secret-canary-1"}) == b'{"a": 1}\n{"redacted": "the key"}\n{"b": 2}\n'


def test_a_bundle_holds_what_its_manifest_says_and_the_last_few_are_kept(tmp_path: Path) -> None:
    files = {"results/A.json": b"{}", "logs/usage.jsonl": b"x\n"}
    paths = [
        write_bundle(
            tmp_path, "overnight", Run(f"20260101-{n}", "2026-01-01T00:00:00+00:00", "unknown"), files
        )
        for n in range(4)
    ]
    stranger = tmp_path / "holdfast-other-1.tar.gz"
    stranger.write_text("not of this loop")
    with tarfile.open(paths[-1]) as archive:
        inside = {m.name.partition("/")[2]: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    manifest = json.loads(inside.pop("manifest.json"))
    validate_document(manifest)
    assert inside == files
    assert manifest["sha256"] == {name: sha256(data).hexdigest() for name, data in files.items()}
    assert prune(tmp_path, "overnight", keep=2) == tuple(paths[:2])
    assert sorted(tmp_path.iterdir()) == sorted([*paths[2:], stranger])


def loop_words(*words: str) -> list[str]:
    quick = (
        "--until-pass",
        "--max-hours",
        "0.02",
        "--backoff",
        "0.2",
        "--suite",
        "ccp-quick",
        "--isolation",
        "none",
    )
    return [HOLDFAST, "loop", *quick, "--bundle-dir", "bundles", *words]


def test_the_real_loop_passes_bundles_and_ends_with_an_honest_line(tmp_path: Path) -> None:
    done = subprocess.run(
        loop_words(), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("round 1: ")
    assert "1 x 200 on anthropic, 1 x 200 on zai" in lines[0]
    assert "nothing was shown about the providers" in lines[1]
    assert lines[-1] == "holdfast: exit 0 (every gate passes)"
    metrics = json.loads((tmp_path / "results" / "METRICS_overnight.json").read_text())
    assert metrics["live"] is False
    (bundle,) = (tmp_path / "bundles").iterdir()
    with tarfile.open(bundle) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"manifest.json", "results/METRICS_overnight.json", "results/SANDBOX-REPORT.html"} <= names
    assert "logs/usage_overnight_final.jsonl" in names
    usage = (tmp_path / "logs" / "usage_overnight_final.jsonl").read_text().splitlines()
    assert {json.loads(line)["lane"] for line in usage} == {"anthropic", "zai"}


def test_the_real_loop_survives_kill_9_and_goes_on(tmp_path: Path) -> None:
    """A proxy that is broken at first; the loop is killed in its pause, the proxy mended, the same words said again."""
    switch = tmp_path / "fault"
    switch.write_text("sends everything to zai")
    sound = proxy_with("$(cat fault)")
    script = tmp_path / "proxy.sh"
    script.write_text(f'cd {tmp_path}\nexec {" ".join(sound[:4])} "$(cat fault)" "$1" "$2" "$3" "$4" "$5"\n')
    proxy = f"/bin/sh {script} {{port}} {{anthropic}} {{zai}} {{zai_key}} {{log_dir}}"
    words = loop_words("--proxy-cmd", proxy, "--name", "again")
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("round 1: ")
        assert "no_other_model_on_zai" in first
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    state = json.loads((tmp_path / "results" / "LOOP_again.json").read_text())
    assert (state["rounds"], state["finished"]) == (1, False)
    switch.write_text("none")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("going on after round ")


def test_live_with_a_stand_in_for_an_upstream_is_refused(tmp_path: Path) -> None:
    """Else a result would say `live` of something that is not."""
    told = {"ANTHROPIC_API_KEY": "k", "ZAI_API_KEY": "k", "CCP_ZAI_URL": "http://127.0.0.1:1"}
    words = [HOLDFAST, "loop", "--live", "--max-hours", "0.01", "--isolation", "none", "--bundle-dir", "b"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 64
    assert "`--live` with CCP_ZAI_URL=`http://127.0.0.1:1` is not live" in done.stderr


def test_live_needs_the_users_keys_and_says_which(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if "ANTHROPIC" not in k and "CLAUDE" not in k}
    words = [HOLDFAST, "loop", "--live", "--max-hours", "0.01", "--isolation", "none", "--bundle-dir", "b"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 64
    assert "`--live` needs the client's credential; set one of ANTHROPIC_API_KEY" in done.stderr
