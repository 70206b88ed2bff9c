"""What most tests of the sandbox need: the host's facts and one spawner."""

from collections.abc import Iterator

import pytest

from holdfast.sandbox import Host, Spawner, read_host


@pytest.fixture(scope="session")
def host() -> Host:
    return read_host()


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner() as running:
        yield running
