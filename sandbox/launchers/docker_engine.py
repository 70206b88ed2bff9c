"""A private docker engine for one run: no bridge, no firewall rules, a store of its own; root only."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from holdfast import clock
from holdfast.sandbox.launchers.docker import PRIVATE_SOCKET, answering_engine
from holdfast.sandbox.launchers.runtime import found_tool
from holdfast.sandbox.spawn import Confined, Launch, Spawner

__all__ = ["some_engine"]

START_SECONDS, STOP_SECONDS = 30.0, 20.0


@contextlib.contextmanager
def some_engine() -> Iterator[bool]:
    """True while an engine answers: the user's own if one does, else a private one, where that can be started."""
    client, engine = found_tool("docker"), found_tool("dockerd")
    if client is not None and answering_engine(client.path):
        yield True
    elif client is None or engine is None or os.getuid() != 0:
        yield False
    else:
        with _private_engine(engine.path, client.path) as up:
            yield up


@contextlib.contextmanager
def _private_engine(engine: str, client: str) -> Iterator[bool]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-engine-"))
    Path(PRIVATE_SOCKET).parent.mkdir(mode=0o700, exist_ok=True)
    with Spawner() as spawner, (folder / "log").open("wb") as log, Path(os.devnull).open("rb") as nothing:
        # Below a supervisor, so that the engine ends with this process, however it ends.
        steps = (("session",), ("execute", [engine, *_options(folder)], dict(os.environ)))
        handed = {0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()}
        clean_up = (("rm", "-rf", "--", str(folder), str(Path(PRIVATE_SOCKET).parent)),)
        with spawner.launch(Launch(steps, handed, clean_up=clean_up)) as running:
            try:
                yield _comes_up(running, client)
            finally:
                running.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    running.wait(STOP_SECONDS)


def _options(folder: Path) -> Iterator[str]:
    yield from ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
    yield from ("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"))
    yield from ("--pidfile", str(folder / "pid"), "--host", f"unix://{PRIVATE_SOCKET}")


def _comes_up(running: Confined, client: str) -> bool:
    def settled() -> bool:
        return running.has_ended() or answering_engine(client) is not None

    try:
        clock.wait_until(settled, what="the docker engine", seconds=START_SECONDS, every=0.1)
    except clock.DeadlineExceededError:
        return False
    return not running.has_ended()
