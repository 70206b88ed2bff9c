"""The command line: bad input is one clear line and exit 64, never a traceback, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.parts import Parts
from holdfast.systems.agentos.schemas import SchemaViolationError, require_valid

TURN = '{"model": "glm-4.6", "tokens_in": 3, "tokens_out": 4, "measurement": {"feature_delta": 1}}\n'
LICENCE = ("--licence", "licence.json", "--keyring", "keyring.json")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and none of the user's settings."""
    for name in [name for name in os.environ if name.startswith("AGENTOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTOS_TRIES", "1")
    monkeypatch.chdir(tmp_path)


def make_licence(*entitlements: str, days: str = "30") -> None:
    if not Path("keyring.json").exists():
        assert (
            main(
                ["license", "new-key", "--private", "key.pem", "--keyring", "keyring.json", "--key-id", "k1"]
            )
            == 0
        )
    more = [word for one in entitlements for word in ("--entitlement", one)]
    argv = [
        "license",
        "issue",
        "--private",
        "key.pem",
        "--key-id",
        "k1",
        "--output",
        "licence.json",
        "--days",
        days,
    ]
    assert main([*argv, *more]) == 0


def write(name: str, text: str, mode: int = 0o600) -> str:
    Path(name).write_text(text)
    Path(name).chmod(mode)
    return name


BAD: dict[str, tuple[list[str], str]] = {
    "an unknown tier": (
        ["ccc", "session", "start", "--tier", "secret"],
        "no privacy tier `secret`; there are: local_only",
    ),
    "no licence given": (["ccc", "session", "start", "--tier", "full"], "needs --keyring"),
    "a licence that is not there": (
        ["ccc", "session", "start", "--tier", "full", "--licence", "nowhere", "--keyring", "keyring.json"],
        "cannot read the licence `nowhere`: there is no such file",
    ),
    "a licence that is a folder": (["license", "show", "--licence", "."], "that is a folder"),
    "a licence that is no JSON": (["license", "show", "--licence", "text"], "the licence is not JSON"),
    "metadata that is no object": (
        ["ccc", "session", "start", "--metadata", "[1]"],
        "--metadata is not a JSON object",
    ),
    "metadata with a key twice": (
        ["ccc", "session", "start", "--metadata", '{"a":1,"a":2}'],
        "`a` stands there twice",
    ),
    "a session that is not open": (
        ["ccc", "session", "log", "nobody", "--from", "turns"],
        "line 1: there is no open session `nobody`",
    ),
    "an end without a start": (["ccc", "session", "end", "nobody"], "there is no open session `nobody`"),
    "a turn with a wrong count": (
        ["ccc", "session", "run", "--from", "bad"],
        "line 2: turn breaks its schema at `$.tokens_in`, rule `minimum`",
    ),
    "a file of turns that is not there": (
        ["ccc", "session", "run", "--from", "nowhere"],
        "there is no such file",
    ),
    "an upload of a local tier": (["ccc", "upload"], "nothing is ever uploaded"),
    "a data folder that is a file": (["ccc", "session", "start", "--data", "text"], "make the folder `text`"),
    "a data folder under a file": (
        ["ccc", "session", "start", "--data", "text/more"],
        "a file stands where a folder is needed",
    ),
    "nothing to ingest": (["ccc", "ingest", "nowhere"], "there is no file `nowhere` to ingest"),
    "a snapshot that is none": (["ccc", "ingest", "turns", "--usage", "text"], "the snapshot is not JSON"),
    "no proxy": (["backfill", "--ccp-root", "nowhere"], "there is no folder `nowhere`"),
    "an unknown command": (["ccc", "fly"], "No such command 'fly'"),
    "an unknown option": (["ccc", "status", "--fly"], "No such option"),
    "a server on another address": (
        ["ccc", "serve", "--key-file", "k", "--store", "s", "--listen", "0.0.0.0:1"],
        "use 127.0.0.1:PORT",
    ),
    "an unknown fault": (
        ["ccc", "serve", "--key-file", "k", "--store", "s", "--faults", "bang"],
        "there is no fault `bang`",
    ),
    "a key id twice": (
        ["license", "new-key", "--private", "other.pem", "--keyring", "keyring.json", "--key-id", "k1"],
        "a key named `k1` already",
    ),
    "a private key that is there": (
        ["license", "new-key", "--private", "key.pem", "--keyring", "keyring.json", "--key-id", "k2"],
        "`key.pem` is there already",
    ),
    "a private key that is none": (
        ["license", "issue", "--private", "text", "--key-id", "k1", "--output", "o.json"],
        "no Ed25519 private key",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_64(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, told = BAD[case]
    make_licence("telemetry_full")
    write("text", "hello")
    write("turns", TURN)
    write("k", "key\n")
    write("bad", TURN + TURN.replace("3", "-3"))
    capsys.readouterr()
    status = main(argv)
    output = capsys.readouterr()
    assert (status, output.err.count("\n")) == (64, 1), output.err
    assert told in output.err
    assert output.err.startswith("agentos: ")


def report(*argv: str) -> list[str]:
    return [*argv, "--tier", "full", "--url", "http://127.0.0.1:9", *LICENCE]


KEY_FILES = {
    "open to others": (("key\n", 0o644), "is open to others (mode 644); run: chmod 600"),
    "empty": (("", 0o600), "does not hold one line with a key"),
    "two lines": (("one\ntwo\n", 0o600), "does not hold one line with a key"),
    "not ASCII": (("schlüssel\n", 0o600), "does not hold one line with a key"),
}


@pytest.mark.parametrize("case", KEY_FILES)
def test_a_key_file_that_is_not_safe_is_refused_and_not_shown(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (text, mode), told = KEY_FILES[case]
    make_licence("telemetry_full")
    write("key", text, mode)
    assert main(report("ccc", "upload", "--key-file", "key")) == 64
    output = capsys.readouterr()
    assert told in output.err
    assert "schl" not in output.err
    assert "one\ntwo" not in output.err


def test_a_bad_turn_keeps_those_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    write("bad", TURN + TURN + "not json\n" + TURN)
    assert main(["ccc", "session", "run", "--from", "bad", "--data", "d"]) == 64
    assert "line 3: the turn is not JSON" in (told := capsys.readouterr().err)
    assert "(2 turns before it were recorded)" in told
    assert Path("d/windows.jsonl").read_text().count('"turn"') == 2


def test_our_own_fault_is_70_and_shows_no_traceback_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    class BrokenParts(Parts):
        def recorder(self, *_: Any) -> Any:
            raise RuntimeError("the-secret-detail")

    assert main(["ccc", "session", "start"], BrokenParts()) == 70
    told = capsys.readouterr().err
    assert "our own fault: RuntimeError" in told
    assert "the-secret-detail" not in told


@pytest.mark.skipif(
    os.getuid() == 0 and not Path("/usr/bin/bwrap").exists(), reason="root may write anywhere"
)
@pytest.mark.parametrize(
    ("mount", "told"),
    [
        (("--ro-bind", "DATA", "DATA"), "read-only"),
        (("--size", "8192", "--tmpfs", "DATA"), "the disk is full"),
    ],
)
def test_a_read_only_and_a_full_data_folder_are_told_apart(
    tmp_path: Path, mount: tuple[str, ...], told: str
) -> None:
    """Real mounts: a read-only bind, and a file system of 8 KiB."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "turns").write_text(TURN * 200)
    words = [word.replace("DATA", str(data)) for word in mount]
    argv = [sys.executable, "-m", "holdfast.systems.agentos", "ccc", "session", "run"]
    confined = ["bwrap", "--bind", "/", "/", "--dev", "/dev", *words, "--", *argv]
    done = subprocess.run(
        [*confined, "--data", str(data), "--from", str(tmp_path / "turns")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64, done
    assert told in done.stderr.splitlines()[-1]
    assert all(line.startswith("agentos: ") for line in done.stderr.splitlines())


def test_status_says_what_is_wrong_and_check_makes_it_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    make_licence("telemetry_full")
    write("key", "k\n")
    write("turns", TURN * 3)
    assert main(report("ccc", "session", "run", "--from", "turns", "--key-file", "key", "--data", "d")) == 1
    log = Path("d/windows.jsonl")
    log.write_text(log.read_text() + "junk\n")
    make_licence("telemetry_full", days="-1")
    capsys.readouterr()
    status = ["ccc", "status", "--tier", "full", *LICENCE, "--data", "d"]
    assert main([*status, "--check", "--max-age", "0", "--json", "--prometheus", "agentos.prom"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["queue"]["pending"], said["log"]["turns"], said["log"]["unreadable_lines"]) == (6, 3, 1)
    assert "expired on" in said["licence"]["refused"]
    assert len(said["problems"]) == 4
    prometheus = Path("agentos.prom").read_text()
    for line in ("agentos_queue_pending 6", "agentos_licence_valid 0", 'agentos_tier{tier="full"} 1'):
        assert line + "\n" in prometheus
    assert main(status) == 0


def test_status_of_a_local_tier_makes_no_file_and_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ccc", "status", "--check", "--data", "nowhere"]) == 0
    assert "health    good" in capsys.readouterr().out
    assert not Path("nowhere").exists()


def test_ingest_twice_counts_once_and_makes_every_session_local(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever tier a foreign log claims: a file is no licence."""
    write("turns", TURN * 3)
    assert main(["ccc", "session", "run", "--from", "turns", "--data", "theirs"]) == 0
    log = Path("theirs/windows.jsonl")
    log.write_text(log.read_text().replace("local_only", "full") + "junk\n" + TURN)
    usage = {
        "schema": "ccc.usage/1",
        "taken_at": "2026-01-01T00:00:00Z",
        "models": {"m": {"samples": 4, "warnings": 1, "gaps": 0}},
    }
    write("usage.json", json.dumps(usage))
    capsys.readouterr()
    for expected in ("5 recorded, 0 already there, 2 refused", "0 recorded, 5 already there, 2 refused"):
        assert main(["ccc", "ingest", str(log), "--usage", "usage.json", "--data", "ours"]) == 0
        assert expected in capsys.readouterr().out
    events = [json.loads(line) for line in Path("ours/windows.jsonl").read_text().splitlines()]
    assert [event["privacy_tier"] for event in events if event["type"] == "session"] == ["local_only"]
    summary = json.loads(Path("ours/metrics_summary.json").read_text())
    assert summary["turns"] == 3
    assert summary["model_health"] == {"m": {"warn_pct": 25.0, "gaps": 0, "samples": 4}}


def test_attribution_splits_the_value_and_adds_it_up(capsys: pytest.CaptureFixture[str]) -> None:
    shared = '{"model": "a", "tokens_in": 1, "tokens_out": 1, "measurement": {"feature_delta": 3}, "attribution": {"a": 0.25, "b": 0.75}}\n'
    write("turns", TURN + shared)
    assert main(["ccc", "session", "run", "--id", "s1", "--from", "turns"]) == 0
    capsys.readouterr()
    assert main(["ccc", "attribution", "--session", "s1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["value"] == 4.0
    assert said["model_value"] == {"a": 0.75, "b": 2.25, "glm-4.6": 1.0}
    assert main(["ccc", "attribution", "--session", "s2"]) == 64


def test_rebuild_finds_a_summary_that_was_tampered_with_and_makes_it_good(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("turns", TURN)
    main(["ccc", "session", "run", "--from", "turns", "--data", "d"])
    assert main(["ccc", "rebuild", "--check", "--data", "d"]) == 0
    summary = Path("d/metrics_summary.json")
    summary.write_text(summary.read_text().replace('"turns": 1', '"turns": 9'))
    assert main(["ccc", "rebuild", "--check", "--data", "d"]) == 1
    assert main(["ccc", "rebuild", "--data", "d"]) == 0
    assert main(["ccc", "rebuild", "--check", "--data", "d"]) == 0
    assert main(["ccc", "summary", "--data", "d"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["turns"] == 1


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "ccc.metrics-summary/1", "checkpoint": {"bytes": -5}}', "{" * 5000]
)
def test_a_broken_summary_is_made_anew_from_the_log(text: str) -> None:
    write("turns", TURN)
    main(["ccc", "session", "run", "--from", "turns", "--data", "d"])
    before = json.loads(Path("d/metrics_summary.json").read_text())
    Path("d/metrics_summary.json").write_text(text)
    assert main(["ccc", "session", "start", "--data", "d"]) == 0
    after = json.loads(Path("d/metrics_summary.json").read_text())
    assert (after["turns"], after["tokens"]) == (before["turns"], before["tokens"])


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p/logs/archive").mkdir(parents=True)
    Path("p/logs/archive/usage-1.jsonl").write_text('{"model": "m", "input_tokens": 1}\n')
    before = sorted(Path().rglob("*"))
    assert main(["backfill", "--ccp-root", "p", "--dry-run", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 1
    assert sorted(Path().rglob("*")) == before
    assert main(["backfill", "--ccp-root", "p"]) == 0
    assert json.loads(Path("data/integration/ccp_metrics_summary.json").read_text())["tokens"]["in"] == 1
    assert "100 %" in capsys.readouterr().err


def test_a_bound_licence_is_valid_here_and_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    make_licence("telemetry_full")
    issue = ["license", "issue", "--private", "key.pem", "--key-id", "k1", "--output", "licence.json"]
    has_id = main(["license", "device"]) == 0
    if has_id:
        assert main([*issue, "--bind"]) == 0
        assert main(["license", "verify", *LICENCE]) == 0
    assert main([*issue, "--device", "0" * 64]) == 0
    assert main(["license", "verify", *LICENCE]) == 64
    assert ("is for another device" if has_id else "no /etc/machine-id") in capsys.readouterr().err
    assert main(["license", "show", *LICENCE]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "0" * 64


def test_everything_that_is_written_or_said_as_json_keeps_to_its_published_schema(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("turns", TURN)
    make_licence("telemetry_full")
    write("key", "k\n")
    Path("p/logs/archive").mkdir(parents=True)
    Path("p/logs/archive/usage-1.jsonl").write_text('{"model": "m", "input_tokens": 1}\n##\n')
    assert main(["ccc", "session", "run", "--from", "turns", "--data", "d"]) == 0
    assert main(["backfill", "--ccp-root", "p", "--output", "ccp.json"]) == 0
    capsys.readouterr()
    assert main(["ccc", "status", "--data", "d", "--json"]) == 0
    assert main(["ccc", "attribution", "--data", "d", "--json"]) == 0
    assert main(report("ccc", "upload", "--key-file", "key", "--data", "d", "--json")) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(Path(name).read_text()) for name in ("d/metrics_summary.json", "ccp.json")]
    names = ["status", "attribution", "upload", "metrics-summary", "ccp-summary"]
    for name, value in zip(names, [*said, *written], strict=True):
        require_valid(name, value)
        with pytest.raises(SchemaViolationError):
            require_valid(name, {**value, "schema": "another/1"})
