"""What most tests of the sandbox need: the host's facts and one spawner."""

import signal
from collections.abc import Iterator

import pytest

from holdfast.sandbox import Host, Spawner, read_host


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A run in the background is started with SIGINT ignored, and every command under test would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def host() -> Host:
    return read_host()


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner() as running:
        yield running
