"""The stage that most tests of the proxy stand on: the real command between two recording upstreams."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.systems.ccp.rig import Canaries, Proxy, Witness, stage


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    """This module's secrets."""
    return Canaries()


@pytest.fixture
def anthropic() -> Iterator[Witness]:
    """The upstream of lane anthropic; give it a script."""
    with closing(Witness()) as witness:
        yield witness


@pytest.fixture
def zai() -> Iterator[Witness]:
    """The upstream of lane zai; give it a script."""
    with closing(Witness()) as witness:
        yield witness


@pytest.fixture
def proxy(tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries) -> Iterator[Proxy]:
    """`ccp serve` between the two."""
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries) as started:
        yield started
        assert "internal error" not in started.errors
