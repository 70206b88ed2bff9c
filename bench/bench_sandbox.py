"""What confinement costs: starts beside bare launchers, the filter's load, the battery, the main job, memory."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from holdfast.bench.row import Row, median_seconds
from holdfast.harness.campaign import Staging, Wanted, judge_campaign, run_campaign
from holdfast.harness.run_id import begin_run
from holdfast.sandbox import Command, Isolation, Spawner, confine, load_profile, read_host
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.confine import plan_command
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.launchers.bwrap import FILTER_TARGET, STATUS_TARGET, render_argv
from holdfast.sandbox.probes import all_probes

ROUNDS = 300
BLOCKS = 5
TRUE = Command(("/bin/true",), inherited={"PATH": "/usr/bin:/bin"})
PROFILE = load_profile("standard")
HOLDFAST = str(Path(sys.executable).with_name("holdfast"))


def measure() -> Iterator[Row]:
    """Ratios are taken block by block, alternating, so that a busy machine slows both sides."""
    with Spawner() as spawner:
        yield from start_rows(spawner)
    yield filter_row()
    yield battery_row()
    yield from run_rows()


def start_rows(spawner: Spawner) -> Iterator[Row]:
    """A confined start of `/bin/true` by the library, beside the same work by bare means."""
    pairs: tuple[tuple[str, Isolation, Callable[[], object], float, str], ...] = (
        (
            "start under seccomp / subprocess of env true",
            Isolation.SECCOMP,
            plain,
            1.25,
            "env /bin/true: two execs",
        ),
        (
            "start under bwrap / bare bwrap",
            Isolation.BWRAP,
            bare_bwrap(),
            1.15,
            "same arguments, same filter",
        ),
    )
    for name, isolation, bare, limit, note in pairs:

        def ours(chosen: Isolation = isolation) -> None:
            with confine(spawner, chosen, TRUE, profile=PROFILE) as confined:
                assert confined.wait(10) == 0

        blocks = [
            (median_seconds(ours, rounds=ROUNDS // BLOCKS), median_seconds(bare, rounds=ROUNDS // BLOCKS))
            for _ in range(BLOCKS)
        ]
        ratios = sorted(mine / theirs for mine, theirs in blocks)
        best = sorted(mine for mine, _ in blocks)[BLOCKS // 2]
        yield Row(name, ratios[BLOCKS // 2], "x", limit, note=f"{note}; ours {best * 1e3:.2f} ms")


def plain() -> None:
    """The same two execs without any confinement."""
    subprocess.run(["/usr/bin/env", "/bin/true"], check=True)


def bare_bwrap() -> Callable[[], None]:
    """bwrap by subprocess, with the arguments and the filter that the library gives it."""
    host = read_host()
    assert host.bubblewrap is not None
    plan = plan_command(Isolation.BWRAP, TRUE, PROFILE, host)
    words = [host.bubblewrap.path, *render_argv(plan, disable_userns=host.bubblewrap.disables_userns)]
    code = assemble(PROFILE).code

    def start() -> None:
        descriptor, sink = os.memfd_create("filter", 0), os.open(os.devnull, os.O_WRONLY)
        os.write(descriptor, code)
        os.lseek(descriptor, 0, os.SEEK_SET)
        named = [
            w.replace(str(FILTER_TARGET), str(descriptor)) if w == str(FILTER_TARGET) else w for w in words
        ]
        named = [str(sink) if w == str(STATUS_TARGET) else w for w in named]
        subprocess.run(named, pass_fds=(descriptor, sink), check=True)
        os.close(descriptor)
        os.close(sink)

    return start


LOAD = """
import sys, time, os
sys.path.insert(0, sys.argv[1])
import kernel_calls as kernel
code = open(sys.argv[2], "rb").read()
times = []
for _ in range(60):
    reader, writer = os.pipe()
    if os.fork() == 0:
        kernel.set_no_new_privs()
        start = time.perf_counter()
        kernel.load_filter(code)
        os.write(writer, str(time.perf_counter() - start).encode())
        os._exit(0)
    times.append(float(os.read(reader, 64)))
    os.wait(); os.close(reader); os.close(writer)
print(sorted(times)[len(times) // 2])
"""


def filter_row() -> Row:
    """The load alone, in fresh processes."""
    assembled = assemble(PROFILE)
    with tempfile.NamedTemporaryFile() as file:
        file.write(assembled.code)
        file.flush()
        folder = Path(__file__).parents[1] / "sandbox"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LOAD, str(folder), file.name], capture_output=True, check=True
        )
    return Row(
        "loading the filter of `standard`",
        float(done.stdout) * 1e6,
        "us",
        note=f"{assembled.instructions} instructions",
    )


class _Nobody:
    """A reporter that hears nothing."""

    def stage_started(self, isolation: AnyIsolation) -> None:
        """Nothing."""

    def stage_finished(self, staging: Staging) -> None:
        """Nothing."""


def battery_row() -> Row:
    """Three isolations brought up, attacked and judged; without the command's own start and its files."""
    probes = all_probes()
    wanted = Wanted(begin_run(), tuple(Isolation), PROFILE, probes)

    def battery() -> None:
        judge_campaign(run_campaign(wanted, read_host(), _Nobody()))

    seconds = median_seconds(battery, rounds=5)
    return Row(
        "the battery, three isolations with controls", seconds, "s", 1.0, note=f"{len(probes)} probes an arm"
    )


def run_rows() -> Iterator[Row]:
    """Whole commands, as a user starts them."""
    runs: dict[str, tuple[list[str], float | None]] = {
        "`holdfast deny`, from its start to its last file": (["deny", "--quiet"], None),
        "the main job, once set up": (["gates", "--suite", "ccp", "--name", "sandbox", "--quiet"], 5.0),
    }
    for name, (words, limit) in runs.items():
        seconds, peak = [], 0.0
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                start = perf_counter()
                process = subprocess.Popen([HOLDFAST, *words], cwd=folder, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                seconds.append(perf_counter() - start)
                peak = max(peak, usage.ru_maxrss / 1024)
                assert process.returncode == 0, f"{words} ended with {process.returncode}"
        yield Row(
            name, sorted(seconds)[1], "s", limit, note="the whole command, interpreter's start included"
        )
        yield Row(f"peak memory of the harness in {name.split(',')[0]}", peak, "MiB", 150.0)
