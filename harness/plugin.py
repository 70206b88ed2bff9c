"""The pytest plugin: confine what your tests start, and show that the confinement holds.

    pytest --isolation bwrap

    def test_it(confined, service, witness, denials):
        assert confined(["/bin/true"]).status == 0              one command inside, to its end
        upstream = witness()                                     a recording HTTP server outside
        running = service(["my-server", "--port", "{port}"])     a server inside, with the probes beside it
        assert denials["mount"] == "held"                        the five families, shown on this machine

Installed by the package's entry point. Nothing of the harness is imported before a fixture asks for it, and
no name of this plugin but these fixtures and one option reaches a test.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from holdfast.harness.fixtures import Confiner, Denials, Services, Witnesses
    from holdfast.sandbox import Isolation

__all__: Sequence[str] = ()


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, in a group of its own."""
    group = parser.getgroup("holdfast", "confinement by holdfast")
    group.addoption(
        "--isolation",
        default="bwrap",
        choices=("none", "seccomp", "bwrap"),
        help="what the fixtures `confined` and `service` confine with, and `denials` attacks (default: bwrap)",
    )


@pytest.fixture(scope="session")
def holdfast_isolation(pytestconfig: pytest.Config) -> "Isolation":
    """The isolation that was asked for."""
    from holdfast.sandbox import parse_isolation

    return parse_isolation(str(pytestconfig.getoption("isolation")))


@pytest.fixture(scope="session")
def _holdfast_confiner(holdfast_isolation: "Isolation") -> Iterator["Confiner"]:
    from holdfast.harness.fixtures import Confiner

    with Confiner(holdfast_isolation) as confiner:
        yield confiner


@pytest.fixture
def confined(_holdfast_confiner: "Confiner", tmp_path: Path) -> Callable[..., Any]:
    """`confined(argv, stdin=b"", env=None, profile="standard", seconds=30) -> Completed(status, stdout, stderr)`.

    The command runs in this test's `tmp_path`, which stays writable inside.
    """

    def run(argv: Sequence[str], **wishes: Any) -> Any:
        return _holdfast_confiner.run(argv, folder=tmp_path, **wishes)

    return run


@pytest.fixture
def service(holdfast_isolation: "Isolation", tmp_path: Path) -> Iterator["Services"]:
    """`service(argv, ready=None, env=None, profile="standard-net") -> Service(url, port, denials(), output())`.

    `{port}` in a word is the port it is to listen on; ready when that accepts, or when the path `ready`
    answers 200. Stopped with the test.
    """
    from holdfast.harness.fixtures import Services

    with Services(holdfast_isolation, tmp_path) as services:
        yield services


@pytest.fixture
def witness() -> Iterator["Witnesses"]:
    """`witness(status=200, headers={...}, body=b"...") -> Witness(url, captures)`: a server outside that records
    exact bytes. `body` may be a tuple of pieces, each sent as one chunk. Closed with the test."""
    from holdfast.harness.fixtures import Witnesses

    with Witnesses() as witnesses:
        yield witnesses


@pytest.fixture(scope="session")
def denials(holdfast_isolation: "Isolation") -> "Denials":
    """`denials["mount"] == "held"`: the five families, attacked under the isolation with their control, once a
    session. `denials.require()` fails the test with the reason unless all are held."""
    from holdfast.harness.fixtures import attack

    return attack(holdfast_isolation)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say the isolation where it was asked for by hand."""
    asked: Mapping[str, Any] = vars(config.option)
    words = config.invocation_params.args
    if any(str(word).startswith("--isolation") for word in words):
        return [f"holdfast: confining by {asked['isolation']}"]
    return []
