"""The command as a user types it: exit codes, last lines, and nothing half-written."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import clock
from holdfast.harness.service import free_port
from holdfast.sandbox import read_host

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))


def holdfast(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HOLDFAST, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).strip().splitlines()[-1]


BAD = {
    "unknown-isolation": (("deny", "--isolation", "bwarp"), "unknown isolation `bwarp`; one of `none`"),
    "profile-not-there": (("deny", "--profile", "no.json"), "cannot read profile `no.json`"),
    "profile-malformed": (("deny", "--profile", "bad.json"), "bad.json:2: not JSON"),
    "unknown-suite": (("gates", "--suite", "cpp"), "unknown suite `cpp`"),
    "unknown-option": (("deny", "--fast"), "No such option"),
    "unknown-command": (("denny",), "No such command"),
    "run-without-command": (("run",), "no command was given"),
    "ready-without-command": (("deny", "--ready", "http://127.0.0.1:1/"), "`--ready` without a command"),
    "command-without-ready": (("deny", "--", "/bin/true"), "needs `--ready URL`"),
    "ready-elsewhere": (("deny", "--ready", "http://example.com:80/", "--", "x"), "is not a loopback URL"),
    "unbalanced-quote": (("gates", "--proxy-cmd", "a 'b"), "cannot be split"),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_line_and_64(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"defaultAction":\n oops}')
    done = holdfast(*words, cwd=tmp_path)
    assert done.returncode == 64, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert last_line(done).startswith("holdfast: exit 64")
    assert not (tmp_path / "results").exists()


def test_deny_writes_its_files_and_says_so(tmp_path: Path) -> None:
    done = holdfast("deny", "--isolation", "bwrap", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert last_line(done) == "holdfast: exit 0 (every gate passes)"
    names = sorted(p.name for p in (tmp_path / "results").iterdir())
    assert names == [
        "METRICS_deny.json",
        "SANDBOX-REPORT.html",
        "SANDBOX-REPORT.md",
        "SANDBOX.sarif",
        "SANDBOX_bwrap.json",
        "history",
    ]
    metrics = json.loads((tmp_path / "results" / "METRICS_deny.json").read_text())
    assert (metrics["exit_code"], metrics["live"]) == (0, False)


def test_a_strangers_service_is_brought_up_beside_the_probes(tmp_path: Path) -> None:
    port = free_port()
    words = ("--isolation", "bwrap", "--ready", f"http://127.0.0.1:{port}/", "--")
    done = holdfast(
        "deny", *words, sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    gates = json.loads((tmp_path / "results" / "METRICS_deny.json").read_text())["gates"]
    assert gates["identity"]["outcome"] == "pass"


def test_a_taken_port_cannot_tell_and_says_what_the_service_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("--isolation", "none", "--ready", f"http://127.0.0.1:{port}/", "--")
        done = holdfast(
            "deny", *words, sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port, cwd=tmp_path
        )
    assert done.returncode == 2
    assert "Address already in use" in done.stdout


def test_a_missing_bwrap_leaves_the_others_run_and_cannot_tell(tmp_path: Path) -> None:
    done = holdfast("deny", cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "bwrap is not on PATH; apt-get install bubblewrap" in done.stdout.replace("\n", " ").replace(
        "  ", " "
    )
    results = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "results").glob("SANDBOX_*.json")}
    assert {r["gate"]["outcome"] for n, r in results.items() if n != "SANDBOX_bwrap"} == {"pass"}
    assert {p["verdict"] for p in results["SANDBOX_bwrap"]["probes"]} == {"invalid"}
    assert "apt-get install bubblewrap" in results["SANDBOX_bwrap"]["gate"]["reasons"][0]


def test_a_bwrap_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n'
        "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    broken.chmod(0o755)
    done = holdfast("deny", "--isolation", "bwrap", cwd=tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 2
    reasons = json.loads((tmp_path / "results" / "SANDBOX_bwrap.json").read_text())["gate"]["reasons"]
    assert "bwrap cannot start here: bwrap: setting up uid map: Permission denied" in reasons[0]
    assert "apparmor_restrict_unprivileged_userns" in reasons[0]


def test_a_file_where_the_results_folder_should_be_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("the last good report")
    done = holdfast("deny", "--isolation", "none", "--quiet", cwd=tmp_path)
    assert done.returncode == 64
    assert last_line(done).startswith("holdfast: exit 64")
    assert (tmp_path / "results").read_text() == "the last good report"


@pytest.mark.parametrize("isolation", ["none", "seccomp", "bwrap"])
@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 9", 9), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)]
)
def test_run_gives_the_commands_own_status(isolation: str, script: str, status: int, tmp_path: Path) -> None:
    assert (
        holdfast("run", "--isolation", isolation, "--", "/bin/sh", "-c", script, cwd=tmp_path).returncode
        == status
    )


@pytest.mark.parametrize("isolation", ["none", "seccomp", "bwrap"])
def test_run_says_64_with_a_line_when_the_command_never_ran(isolation: str, tmp_path: Path) -> None:
    done = holdfast("run", "--isolation", isolation, "--", "/no/such/command", cwd=tmp_path)
    assert done.returncode == 64
    assert any(line.startswith("holdfast:") for line in done.stderr.splitlines())


def test_run_says_70_when_the_launcher_is_missing(tmp_path: Path) -> None:
    done = holdfast("run", "--", "/bin/true", cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 70
    assert "holdfast: bwrap is not on PATH; apt-get install bubblewrap" in done.stderr


@pytest.mark.parametrize("isolation", ["none", "seccomp", "bwrap"])
def test_run_forwards_a_signal_and_gives_its_status(isolation: str, tmp_path: Path) -> None:
    script = "trap 'exit 55' TERM; echo up; while :; do sleep 0.05; done"
    words = [HOLDFAST, "run", "--isolation", isolation, "--", "/bin/bash", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 55


def test_explain_prints_the_plan_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = holdfast("run", "--explain", "--", "/usr/bin/touch", str(mark), cwd=tmp_path, TOKEN="very-secret")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "new pid namespace" in lines
    assert "bind /usr read-only" in lines
    assert any(line.startswith("load the filter of profiles/standard.json (") for line in lines)
    assert lines[-1].startswith(f"execute /usr/bin/touch {mark} with ")
    assert "very-secret" not in done.stdout
    assert not mark.exists()


def test_under_bwrap_the_environment_is_a_named_list(tmp_path: Path) -> None:
    done = holdfast("run", "--", "/usr/bin/env", cwd=tmp_path, TOKEN="very-secret", LANG="C.UTF-8")
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "LANG" in names
    assert names <= {"LANG", "LC_ALL", "TERM", "TZ", "PATH", "HOME", "PWD"}


def test_under_bwrap_shadow_and_home_are_not_to_be_read(tmp_path: Path) -> None:
    home = holdfast("run", "--", "/bin/sh", "-c", "ls -A /home /tmp /run /var", cwd=tmp_path)
    # The project and its interpreter are shown wherever they lie, which may be below one of these.
    shown = {
        Path(path).parts[2]
        for path in (read_host().project, *read_host().interpreter)
        if len(Path(path).parts) > 2
    }
    assert {line for line in home.stdout.split() if not line.endswith(":")} <= shown
    shadow = holdfast("run", "--", "/bin/cat", "/etc/shadow", cwd=tmp_path)
    assert shadow.returncode == 1
    assert shadow.stdout == ""
    assert "denied" in shadow.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_an_interrupted_run_leaves_no_process_behind(number: int, tmp_path: Path) -> None:
    port = free_port()
    words = [HOLDFAST, "deny", "--isolation", "bwrap", "--ready", f"http://127.0.0.1:{port}/never", "--"]
    service = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with subprocess.Popen(
        [*words, *service], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        clock.wait_until(lambda: answers(port), what="the service being up", seconds=20)
        run.send_signal(number)
        run.wait(20)
    clock.wait_until(lambda: not answers(port), what="the service's end", seconds=10)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


WORSE = {
    "port-too-large": ("deny", "--ready", "http://127.0.0.1:99999/", "--", "x"),
    "half-an-address": ("deny", "--ready", "http://[::1", "--", "x"),
    "name-with-a-path": ("deny", "--isolation", "none", "--name", "../x"),
    "results-is-a-file": ("deny", "--isolation", "none", "--results", "bad.json"),
    "readable-not-there": ("deny", "--readable", "/no/such"),
    "profile-is-a-pipe": ("run", "--profile", "pipe", "--", "/bin/true"),
}


@pytest.mark.parametrize("words", WORSE.values(), ids=WORSE)
def test_odd_input_is_64_too_and_nothing_hangs(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    done = holdfast(*words, cwd=tmp_path)
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "bad.json").read_text() == "kept"


@pytest.mark.planted
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("isolation", ["seccomp", "bwrap"])
def test_a_closed_standard_stream_never_becomes_a_way_to_the_spawner(
    isolation: str, closed: str, tmp_path: Path
) -> None:
    """The number that was free would be the harness's own socket, and a command handed it could start anything."""
    tmp_path.chmod(0o777)
    listing = "for n in 0 1 2; do readlink /proc/self/fd/$n; done > seen; exit 3"
    words = f"exec {HOLDFAST} run --isolation {isolation} --writable {tmp_path} -- /bin/sh -c '{listing}' {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", words], cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 3
    assert "socket" not in (tmp_path / "seen").read_text()
