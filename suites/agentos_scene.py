"""The stage of the CCC adapter: a real server behind a tap, licences, and the adapter's command line.

Used alike by the suite, by the tests and by the behave steps, so that all three say the same things of the
same objects. The adapter runs where the stage says; server and tap stay outside and are reached through a
Unix socket, the only way out of an empty network namespace.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, final

from holdfast.clock import utc_now, wait_until
from holdfast.harness.suite import Completed
from holdfast.sandbox import Command, Spawner, confine, load_profile, parse_isolation
from holdfast.systems.agentos.files import write_json
from holdfast.systems.agentos.licensing.issue import (
    issue_pack,
    keyring_entry,
    load_private_key,
    make_private_key,
)
from holdfast.systems.agentos.server import Server, Store, Tap, Totals, parse_faults

__all__ = ["ADAPTER", "CommandStage", "Runs", "Scene", "Trace", "open_scene", "stage_for", "turns_as_input"]

ADAPTER = (sys.executable, "-m", "holdfast.systems.agentos")
KEY = "bearer-3f1c9a7e"
ENTITLEMENTS = ("telemetry_minimized", "telemetry_full")
# The only way to end a process inside a sandbox at a moment that is seen outside: its child waits for a file.
KILL_WHEN = (
    'flag=$1; shift; (while [ ! -e "$flag" ] && kill -0 $$; do sleep 0.01; done; kill -9 $$)'
    ' </dev/null >/dev/null 2>&1 & exec "$@"'
)


class Runs(Protocol):
    """The part of a `Stage` that the adapter needs: it serves nothing."""

    @property
    def isolation(self) -> str:
        """`none`, `seccomp` or `bwrap`."""

    @property
    def folder(self) -> Path:
        """Scratch, writable inside at the same path."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        """Run one command inside to its end."""


@final
@dataclass(frozen=True, slots=True)
class CommandStage:
    """A stage that confines nothing, and needs nothing to be set up."""

    isolation: str
    folder: Path

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        """Run one command to its end."""
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                capture_output=True,
                env={**os.environ, **(env or {})},
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{argv[0]} did not end within {seconds:g} s") from None
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Completed(status, done.stdout, done.stderr)


@final
@dataclass(frozen=True, slots=True)
class ConfinedStage:
    """A stage that confines each command as `holdfast run --profile standard` does: no inet socket, and under
    `bwrap` an empty network namespace. Only `folder` is writable there."""

    isolation: str
    folder: Path
    spawner: Spawner

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        """Run one command confined to its end."""
        place = str(self.folder)
        command = Command(
            tuple(argv), cwd=place, environment=dict(env or {}), inherited=dict(os.environ), writable=(place,)
        )
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            handed = {number: file.fileno() for number, file in enumerate(files)}
            isolation = parse_isolation(self.isolation)
            confined = stack.enter_context(
                confine(
                    self.spawner, isolation, command, profile=load_profile("standard"), descriptors=handed
                )
            )
            status = confined.wait(seconds)
            files[1].seek(0)
            files[2].seek(0)
            return Completed(status, files[1].read(), files[2].read())


@contextmanager
def stage_for(isolation: str, folder: Path) -> Iterator[Runs]:
    """A stage of this isolation: `none`, `seccomp` or `bwrap`."""
    with Spawner() as spawner:
        yield (
            CommandStage(isolation, folder)
            if isolation == "none"
            else ConfinedStage(isolation, folder, spawner)
        )


@final
@dataclass(frozen=True, slots=True)
class Trace:
    """The network system calls that strace saw."""

    calls: tuple[str, ...]


@final
@dataclass(slots=True)
class Scene:
    """One server, one tap, one data folder."""

    stage: Runs
    root: Path
    server: Server
    tap: Tap
    store: Store
    command: tuple[str, ...] = ADAPTER
    last: Completed = field(default_factory=lambda: Completed(0, b"", b""))
    """What the newest command ended with."""

    @property
    def data(self) -> Path:
        """The adapter's data folder."""
        return self.root / "data"

    @property
    def totals(self) -> Totals:
        """What the server has counted."""
        return self.store.totals()

    def environment(self, tier: str) -> dict[str, str]:
        """What the adapter is told."""
        return {
            "AGENTOS_DATA": str(self.data),
            "AGENTOS_TIER": tier,
            "AGENTOS_CCC_URL": self.tap.address,
            "AGENTOS_CCC_KEY_FILE": str(self.root / "key"),
            "AGENTOS_LICENCE": str(self.root / "licence.json"),
            "AGENTOS_KEYRING": str(self.root / "keyring.json"),
        }

    def run(self, tier: str, *argv: str, stdin: bytes = b"") -> Completed:
        """Run one command of the adapter under `tier`, on the stage."""
        self.last = self.stage.run(
            [*self.command, *argv], stdin=stdin, env=self.environment(tier), seconds=60.0
        )
        return self.last

    def session(self, tier: str, turns: Sequence[Mapping[str, Any]], *more: str) -> Completed:
        """Run a whole session of these turns."""
        return self.run(tier, "ccc", "session", "run", *more, stdin=turns_as_input(turns))

    def run_until_request(self, tier: str, *argv: str, stdin: bytes = b"") -> Completed:
        """Run one command against a server that does not answer, and kill -9 it once its request is there."""
        flag = self.root / "kill-now"
        flag.unlink(missing_ok=True)
        before = self.server.requests
        self.server.fail(parse_faults("stall"))
        with _watching(lambda: self.server.requests > before, flag):
            killer = ["sh", "-c", KILL_WHEN, "sh", str(flag), *self.command, *argv]
            self.last = self.stage.run(killer, stdin=stdin, env=self.environment(tier), seconds=60.0)
        return self.last

    def trace(self, tier: str, *argv: str, stdin: bytes = b"") -> Trace | None:
        """Run one command unconfined under strace; None where strace cannot be used, or the command failed and
        so did not do what was to be watched."""
        output = self.root / "trace"
        tracer = ["strace", "-f", "-qq", "-e", "trace=%network", "-o", str(output), *self.command, *argv]
        loose = CommandStage("none", self.root)
        try:
            self.last = loose.run(tracer, stdin=stdin, env=self.environment(tier), seconds=60.0)
            lines = output.read_text(errors="replace").splitlines()
        except OSError:
            return None
        if self.last.status != 0:
            return None
        return Trace(tuple(line.split(maxsplit=1)[-1] for line in lines if "(" in line and "+++" not in line))

    def license(self, *entitlements: str, days: float = 30.0, ended_days_ago: float = 0.0) -> None:
        """Put a licence in place that grants these; negative days: one that has expired."""
        now = utc_now().replace(microsecond=0) - timedelta(days=ended_days_ago)
        begin, until = sorted((now, now + timedelta(days=days)))
        key = load_private_key(self.root / "issuer.pem")
        pack = issue_pack(
            key,
            key_id="scene",
            issuer="scene",
            license_id="lic-scene",
            plan="test",
            entitlements=entitlements,
            not_before=begin - timedelta(minutes=1),
            expires=until,
        )
        write_json(self.root / "licence.json", pack)

    def log(self) -> list[dict[str, Any]]:
        """The events of the local log."""
        path = self.data / "windows.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def logged_turns(self) -> int:
        """How many turns the local log holds."""
        return sum(event["type"] == "turn" for event in self.log())

    def write_usage(self, text: str) -> None:
        """Add to the proxy's archived usage log."""
        archive = self.root / "proxy" / "logs" / "archive"
        archive.mkdir(parents=True, exist_ok=True)
        with (archive / "usage-1.jsonl").open("a") as file:
            file.write(text)

    def backfill(self, *more: str) -> Completed:
        """Backfill from the proxy's folder."""
        paths = ["--ccp-root", str(self.root / "proxy"), "--output", str(self.root / "ccp" / "summary.json")]
        return self.run("local_only", "backfill", *paths, *more)

    def backfilled(self) -> dict[str, Any]:
        """What `backfill` wrote."""
        found: dict[str, Any] = json.loads((self.root / "ccp" / "summary.json").read_bytes())
        return found

    def summary(self) -> dict[str, Any]:
        """The local summary."""
        found: dict[str, Any] = json.loads((self.data / "metrics_summary.json").read_bytes())
        return found

    def status(self, tier: str) -> dict[str, Any]:
        """What `ccc status --json` says."""
        found: dict[str, Any] = json.loads(self.run(tier, "ccc", "status", "--json").stdout)
        return found

    def files(self) -> tuple[str, ...]:
        """The names in the data folder."""
        return tuple(sorted(path.name for path in self.data.iterdir())) if self.data.exists() else ()


@contextmanager
def open_scene(
    stage: Runs,
    name: str,
    *,
    command: tuple[str, ...] = ADAPTER,
    entitlements: tuple[str, ...] = ENTITLEMENTS,
) -> Iterator[Scene]:
    """Set up a scene in a folder of its own; server and tap run until it is left."""
    root = stage.folder / name
    root.mkdir(mode=0o700)
    key = make_private_key(root / "issuer.pem")
    write_json(root / "keyring.json", {"schema": "ccc.keyring/1", "keys": [keyring_entry("scene", key)]})
    (root / "key").write_text(KEY + "\n")
    (root / "key").chmod(0o600)
    store = Store(root / "server.sqlite")
    with ExitStack() as stack:
        stack.callback(store.close)
        server = stack.enter_context(Server(store, KEY, unix=root / "server.sock"))
        tap = stack.enter_context(Tap(root / "ccc.sock", root / "server.sock"))
        scene = Scene(stage, root, server, tap, store, command)
        scene.license(*entitlements)
        yield scene


def turns_as_input(turns: Sequence[Mapping[str, Any]]) -> bytes:
    """Turns as the command reads them."""
    return b"".join(json.dumps(turn).encode() + b"\n" for turn in turns)


@contextmanager
def _watching(condition: Callable[[], bool], flag: Path) -> Iterator[None]:
    """Make `flag` once `condition` holds, or on the way out, so that nobody waits for it forever."""
    stop = threading.Event()

    def watch() -> None:
        wait_until(lambda: stop.is_set() or condition(), what="the request", seconds=50.0)
        flag.touch()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
