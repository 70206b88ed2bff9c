"""What every launcher must do, whatever it confines: pass on status, streams, signals and nothing else, and end when told.

    make = partial(starter_for, isolation=Foreign("nsjail", ("nsjail", "-Mo", "--")), profile=None)
    check_launcher(make, deviations={"death-by-signal": "the command is pid 1"}).problems == ()

A deviation is listed with a reason; one that is listed and no longer shows is a problem too, so that the
list cannot grow old. `make` must be picklable (a module's function, or a partial of one): the check of the
parent's death starts a second harness with it, in order to kill that one.
"""

import contextlib
import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from holdfast import clock
from holdfast.sandbox.confine import confine
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.plan import Command
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.refusal import SandboxError
from holdfast.sandbox.spawn import Confined, Spawner

__all__ = ["CHECKS", "Conformance", "Make", "Result", "Start", "check_launcher", "starter_for"]

SECONDS = 30.0
SHORT_SECONDS = 0.3
VALUE = "HOLDFAST_CONFORM"


class Start(Protocol):
    """Start a command with these descriptors (its number -> ours), and nothing else of ours."""

    def __call__(self, command: Command, descriptors: Mapping[int, int]) -> Confined: ...


Make = Callable[[Spawner], Start]


class DeviationError(Exception):
    """The launcher did something else; says what was expected and what was seen."""


@final
@dataclass(frozen=True, slots=True)
class Result:
    """One check."""

    check: str
    reason: str
    """What was seen instead; empty when it passed."""
    listed: str
    """Why this is known to deviate; empty when it is not."""

    @property
    def passed(self) -> bool:
        """Whether the launcher did what it must."""
        return not self.reason


@final
@dataclass(frozen=True, slots=True)
class Conformance:
    """All checks of one launcher."""

    results: tuple[Result, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Deviations that are not listed, and listed ones that do not show; none means it conforms."""
        unlisted = [f"{r.check}: {r.reason}" for r in self.results if not r.passed and not r.listed]
        stale = [
            f"{r.check}: listed as a deviation ({r.listed}) and it no longer shows; take it off the list"
            for r in self.results
            if r.passed and r.listed
        ]
        return (*unlisted, *stale)


def starter_for(spawner: Spawner, isolation: AnyIsolation, profile: Profile | None) -> Start:
    """The factory for isolations and launchers that this package knows, and for command prefixes."""

    def start(command: Command, descriptors: Mapping[int, int]) -> Confined:
        return confine(spawner, isolation, command, profile=profile, descriptors=descriptors)

    return start


def check_launcher(
    make: Make, *, deviations: Mapping[str, str], only: Collection[str] | None = None
) -> Conformance:
    """Run every check, or `only` some by name; raises `ValueError` for a name that is no check's."""
    if unknown := sorted({*deviations, *(only or ())} - set(CHECKS)):
        raise ValueError(f"unknown checks: {', '.join(unknown)}")
    results = []
    with Spawner() as spawner:
        for name, check in CHECKS.items():
            if only is not None and name not in only:
                continue
            with tempfile.TemporaryDirectory(prefix="holdfast-conform-") as folder:
                Path(folder).chmod(0o777)
                results.append(
                    Result(name, _try(check, _Bench(make, make(spawner), folder)), deviations.get(name, ""))
                )
    return Conformance(tuple(results))


@final
@dataclass(frozen=True, slots=True)
class _Bench:
    """What a check works with."""

    make: Make
    start: Start
    folder: str

    def command(self, *argv: str, value: str = "") -> Command:
        """With one writable folder, which is also where it starts."""
        return Command(
            argv,
            cwd=self.folder,
            environment={VALUE: value} if value else {},
            inherited=dict(os.environ),
            writable=(self.folder,),
        )

    def run(self, *argv: str, stdin: bytes = b"", value: str = "") -> tuple[int, bytes, bytes]:
        """To its end: status, stdout, stderr."""
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(stdin)
            streams[0].seek(0)
            handed = {number: stream.fileno() for number, stream in enumerate(streams)}
            confined = stack.enter_context(self.start(self.command(*argv, value=value), handed))
            status = confined.wait(SECONDS)
            for stream in streams:
                stream.seek(0)
            return status, streams[1].read(), streams[2].read()

    def python(self, code: str, *argv: str, value: str = "") -> object:
        """What a snippet prints as JSON."""
        status, out, err = self.run(sys.executable, "-I", "-S", "-c", code, *argv, value=value)
        _expect(status, 0, f"the status of a snippet ({err.decode(errors='replace')[-200:]})")
        return json.loads(out)

    @contextlib.contextmanager
    def running(self, *argv: str) -> Iterator[tuple[Confined, int]]:
        """Started, and its stdout."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            with self.start(self.command(*argv), {0: nothing, 1: writer, 2: nothing}) as confined:
                os.close(writer)
                writer = -1
                yield confined, reader
        finally:
            for descriptor in (reader, nothing, *([writer] if writer >= 0 else [])):
                os.close(descriptor)


def _try(check: Callable[[_Bench], None], bench: _Bench) -> str:
    try:
        check(bench)
    except DeviationError as deviation:
        return str(deviation)
    except (SandboxError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        return f"{type(error).__name__}: {error}"
    return ""


def _expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise DeviationError(f"{what}: expected {wanted!r}, saw {seen!r}")


def _exit_status(bench: _Bench) -> None:
    for status in (0, 1, 3, 77, 255):
        _expect(bench.run("/bin/sh", "-c", f"exit {status}")[0], status, "the exit status")


def _death_by_signal(bench: _Bench) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        _expect(
            bench.run("/bin/sh", "-c", f"kill -{int(number)} $$")[0],
            128 + number,
            f"the status after {number.name}",
        )


def _forwarded_signal(bench: _Bench) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    with bench.running("/bin/sh", "-c", script) as (confined, reader):
        _expect(_line(reader), b"ready", "the first line")
        confined.signal(signal.SIGTERM)
        _expect(confined.wait(SECONDS), 42, "the status that a SIGTERM's handler chose")


def _streams(bench: _Bench) -> None:
    text = bytes(range(256)) * 512
    status, out, err = bench.run("/bin/sh", "-c", "cat; echo told >&2", stdin=text)
    told = b"told" in err.splitlines()  # a launcher may say something of its own there
    _expect((status, out == text, told), (0, True, True), "status, stdout equal to stdin, stderr heard")


def _descriptors(bench: _Bench) -> None:
    code = "import os, json\nprint(json.dumps(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n))))"
    _expect(bench.python(code), [0, 1, 2], "the open descriptors inside")


def _arguments(bench: _Bench) -> None:
    words = ["", " two  spaces ", "$HOME `id` \"q\" 'q'", "line\nline", "*", "--help", "ü"]
    _expect(bench.python("import sys, json\nprint(json.dumps(sys.argv[1:]))", *words), words, "the arguments")


def _environment(bench: _Bench) -> None:
    value = "a b=c\n" + secrets.token_hex(4)
    code = "import os, json\nprint(json.dumps(os.environ.get('HOLDFAST_CONFORM')))"
    _expect(bench.python(code, value=value), value, "a variable that was to be set")


def _folder(bench: _Bench) -> None:
    status, out, err = bench.run("/bin/sh", "-c", "pwd; echo written > mark")
    _expect(
        (status, out), (0, f"{bench.folder}\n".encode()), f"status and working directory ({err[-200:]!r})"
    )
    mark = Path(bench.folder) / "mark"
    _expect(
        mark.exists() and mark.read_text(encoding="ascii"),
        "written\n",
        "a file in the writable folder, seen outside",
    )


def _closing(bench: _Bench) -> None:
    seconds = _unused_seconds()
    with bench.running("/bin/sh", *_held_up(seconds)) as (confined, reader):
        _expect(_line(reader), b"up", "the first line")
        _wait(lambda: bool(_sleepers(seconds)), "a grandchild that called setsid")
        confined.close()
        _wait(lambda: not _sleepers(seconds), "the end of that grandchild after the sandbox was closed")


def _parent_death(bench: _Bench) -> None:
    seconds = _unused_seconds()
    harness = subprocess.Popen(
        [sys.executable, "-m", "holdfast.sandbox.testing.hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        try:
            harness.stdin.write(pickle.dumps((bench.make, bench.command("/bin/sh", *_held_up(seconds)))))
            harness.stdin.close()
            _expect(_line(harness.stdout.fileno()), b"up", "the first line")
            _wait(lambda: bool(_sleepers(seconds)), "a grandchild that called setsid")
        finally:
            harness.kill()
            harness.wait()
        _wait(lambda: not _sleepers(seconds), "the end of that grandchild after the harness was killed")


def _deadline(bench: _Bench) -> None:
    seconds = _unused_seconds()
    with bench.running("/bin/sh", *_held_up(seconds)) as (confined, reader):
        _expect(_line(reader), b"up", "the first line")
        try:
            status = confined.wait(SHORT_SECONDS)
        except TimeoutError:
            status = None
        _expect(status, None, f"the status after {SHORT_SECONDS} s of a command that goes on")
        _wait(lambda: bool(_sleepers(seconds)), "the command going on past the deadline")


CHECKS: Mapping[str, Callable[[_Bench], None]] = {
    "exit-status": _exit_status,
    "death-by-signal": _death_by_signal,
    "forwarded-signal": _forwarded_signal,
    "streams": _streams,
    "descriptors": _descriptors,
    "arguments": _arguments,
    "environment": _environment,
    "folder": _folder,
    "closing": _closing,
    "parent-death": _parent_death,
    "deadline": _deadline,
}


def _held_up(seconds: str) -> tuple[str, str]:
    return "-c", f"setsid sleep {seconds} & echo up; wait"


def _line(descriptor: int) -> bytes:
    """The first line, waited for."""
    deadline, text = clock.monotonic() + SECONDS, b""
    while b"\n" not in text:
        if not (more := clock.read_before(descriptor, 4096, deadline, what="a first line")):
            break
        text += more
    return text.partition(b"\n")[0].strip()


def _wait(condition: Callable[[], bool], what: str) -> None:
    clock.wait_until(condition, what=what, seconds=SECONDS)


def _unused_seconds() -> str:
    """A number of seconds that nobody else sleeps for, by which the process is found in `/proc`."""
    return str(1_000_000 + secrets.randbelow(1_000_000_000))


def _sleepers(seconds: str) -> list[int]:
    """Living processes that sleep for exactly so long, as the host sees them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[:2] == [b"sleep", seconds.encode()]:
                found.append(int(entry.name))
    return found
