"""A private docker engine for one run: no bridge, no firewall rules, a store of its own; root only."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast import clock
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.launchers.docker import answering_engine
from holdfast.sandbox.launchers.runtime import found_tool
from holdfast.sandbox.spawn import Confined, Launch, Spawner

__all__ = ["engine_for", "some_engine"]

START_SECONDS, STOP_SECONDS = 30.0, 20.0


@contextlib.contextmanager
def some_engine() -> Iterator[bool]:
    """True while an engine answers: the user's own if one does, else a private one, where that can be
    started: by root, and where `DOCKER_HOST` does not name one that is silent."""
    client, engine = found_tool("docker"), found_tool("dockerd")
    if client is not None and answering_engine(client.path):
        yield True
    elif client is None or engine is None or os.getuid() != 0 or os.environ.get("DOCKER_HOST"):
        yield False
    else:
        with _private_engine(engine.path, client.path) as up:
            yield up


@contextlib.contextmanager
def engine_for(isolations: Iterable[AnyIsolation]) -> Iterator[None]:
    """An engine while these are measured, where docker is one of them."""
    if Foreign("docker") in isolations:
        with some_engine():
            yield
    else:
        yield


@contextlib.contextmanager
def _private_engine(engine: str, client: str) -> Iterator[bool]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-engine-"))
    address = f"unix://{folder / 'docker.sock'}"
    with Spawner() as spawner, (folder / "log").open("wb") as log, Path(os.devnull).open("rb") as nothing:
        # Below a supervisor, so that the engine ends with this process, however it ends.
        steps = (("session",), ("execute", [engine, *_options(folder, address)], dict(os.environ)))
        handed = {0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()}
        clean_up = (("rm", "-rf", "--", str(folder)),)
        with spawner.launch(Launch(steps, handed, clean_up=clean_up)) as running:
            try:
                with _named(address):
                    yield _comes_up(running, client)
            finally:
                running.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    running.wait(STOP_SECONDS)


@contextlib.contextmanager
def _named(address: str) -> Iterator[None]:
    """For this process and those that it starts meanwhile; nobody had named another, or we would not be here."""
    os.environ["DOCKER_HOST"] = address
    try:
        yield
    finally:
        del os.environ["DOCKER_HOST"]


def _options(folder: Path, address: str) -> Iterator[str]:
    yield from ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
    yield from ("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"))
    yield from ("--pidfile", str(folder / "pid"), "--host", address)


def _comes_up(running: Confined, client: str) -> bool:
    def settled() -> bool:
        return running.has_ended() or answering_engine(client) is not None

    try:
        clock.wait_until(settled, what="the docker engine", seconds=START_SECONDS, every=0.1)
    except clock.DeadlineExceededError:
        return False
    return not running.has_ended()
