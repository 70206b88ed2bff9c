"""The tier is a type: from LocalOnly there is no path to a transport, a licence or a socket."""

import copy
import gc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import grimp
import pytest

from holdfast.systems.agentos.errors import BadInputError, RefusedError
from holdfast.systems.agentos.integrations.local import LocalClient
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.licensing import Grant
from holdfast.systems.agentos.privacy import Full, LocalOnly, Minimized, TierName
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.endpoint import Endpoint

ROOM = "holdfast.systems.agentos"
NETWORK = {
    "socket",
    "_socket",
    "ssl",
    "http",
    "httpx",
    "httpcore",
    "urllib",
    "asyncio",
    "socketserver",
    "requests",
}
LOCAL = (
    "integrations.local",
    "integrations.recorder",
    "privacy.tier",
    "journal",
    "metrics.summary",
    "parts",
    "ingest",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports, those under TYPE_CHECKING too."""
    return grimp.build_graph("holdfast", include_external_packages=True, cache_dir=None)


@pytest.fixture
def local(graph: grimp.ImportGraph) -> grimp.ImportGraph:
    """Without the one lazy door, which opens for a tier that reports."""
    copied = copy.deepcopy(graph)
    copied.remove_import(importer=f"{ROOM}.parts", imported=f"{ROOM}.reporting")
    return copied


@pytest.mark.parametrize("module", LOCAL)
def test_what_runs_under_local_only_imports_no_network(module: str, local: grimp.ImportGraph) -> None:
    """Not by any chain."""
    for name in NETWORK & set(local.modules):
        assert not local.chain_exists(f"{ROOM}.{module}", name), local.find_shortest_chain(
            f"{ROOM}.{module}", name
        )
    assert not local.chain_exists(f"{ROOM}.{module}", f"{ROOM}.upload.channel")


@pytest.mark.planted
@pytest.mark.parametrize("name", ["socket", "httpx"])
def test_the_contract_sees_a_forbidden_import(name: str, local: grimp.ImportGraph) -> None:
    """The control: one import deep below, and the chain is there; a tier that reports has one anyway."""
    assert not local.chain_exists(f"{ROOM}.integrations.local", name)
    local.add_import(importer=f"{ROOM}.strict_json", imported=name)
    assert local.chain_exists(f"{ROOM}.integrations.local", name)
    assert local.chain_exists(f"{ROOM}.reporting", "httpx")


def test_only_the_channel_imports_the_http_client(graph: grimp.ImportGraph) -> None:
    users = {name for name in graph.find_modules_that_directly_import("httpx") if name.startswith(ROOM)}
    assert users == {f"{ROOM}.upload.channel"}


def test_only_the_licence_client_seals_a_grant() -> None:
    folder = Path(__file__).parents[3] / "systems" / "agentos"
    users = {path.name for path in folder.rglob("*.py") if "seal_grant(" in path.read_text()}
    assert users == {"grant.py", "client.py"}


def test_nothing_that_a_local_client_refers_to_is_of_a_transport(tmp_path: Path) -> None:
    """Every object that can be reached from it, through attributes, containers and closures; modules and
    classes are where the import contract takes over."""
    with Recorder(tmp_path) as recorder:
        reached = reachable(LocalClient(LocalOnly(), recorder))
    homes = {type(one).__module__.split(".")[0] for one in reached}
    assert not homes & NETWORK, homes & NETWORK
    assert any(isinstance(one, Recorder) for one in reached)
    assert not any(type(one).__module__.startswith(f"{ROOM}.upload") for one in reached)


def test_the_search_would_reach_a_transport() -> None:
    """The control: from a channel it does find the HTTP client."""
    channel = Channel.__new__(Channel)
    import httpx

    with httpx.Client() as client:
        channel._client = client
        assert "httpx" in {type(one).__module__.split(".")[0] for one in reachable(channel)}


def reachable(start: object) -> list[object]:
    seen: dict[int, object] = {}
    todo = [start]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, ModuleType | type) or callable(one):
            continue
        seen[id(one)] = one
        todo += gc.get_referents(one)
    return list(seen.values())


def test_local_only_has_no_field_at_all() -> None:
    assert LocalOnly.__slots__ == ()
    assert not hasattr(LocalOnly(), "__dict__")


def test_a_channel_cannot_be_made_from_local_only() -> None:
    with pytest.raises(RefusedError, match="keeps everything on the machine"):
        Channel(LocalOnly(), Endpoint.from_user("https://ccc.example"), "key")  # type: ignore[arg-type]  # the point


def test_the_type_checker_refuses_a_channel_from_local_only() -> None:
    """The suppression above says `arg-type`, and unused suppressions are errors: `make types` holds this."""
    assert "type: ignore[arg-type]  # the point" in Path(__file__).read_text()


@pytest.mark.parametrize("tier", [Minimized, Full])
def test_a_grant_made_by_hand_makes_no_tier(tier: type[Minimized] | type[Full]) -> None:
    with pytest.raises(TypeError, match="not made by hand"):
        tier(Grant("l", "p", frozenset({"telemetry_full", "telemetry_minimized"}), None, "k"))  # type: ignore[arg-type]  # not reached


def test_a_local_session_on_the_command_line_loads_no_http_client(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from holdfast.systems.agentos.cli import main\n"
        "status = main(['ccc', 'session', 'run', '--data', sys.argv[1], '--from', sys.argv[2]])\n"
        "print(status, sorted({n.split('.')[0] for n in sys.modules} & {'httpx', 'httpcore', 'ssl', '_ssl', 'asyncio'}))\n"
    )
    turns = tmp_path / "turns"
    turns.write_text('{"model": "m", "tokens_in": 1, "tokens_out": 1}\n')
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "d"), str(turns)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done


NAMES = {
    "local_only": TierName.LOCAL_ONLY,
    "LocalOnly": TierName.LOCAL_ONLY,
    "local": TierName.LOCAL_ONLY,
    "local-only": TierName.LOCAL_ONLY,
    "Minimized": TierName.MINIMIZED,
    "FULL": TierName.FULL,
}


@pytest.mark.parametrize("text", NAMES)
def test_a_tiers_name_is_read_as_people_write_it(text: str) -> None:
    assert TierName.from_user(text) is NAMES[text]


@pytest.mark.parametrize("text", ["", "none", "fulll", "minimised!", "only", "local_only\n"])
def test_another_name_is_refused_with_the_names_there_are(text: str) -> None:
    with pytest.raises(BadInputError, match="there are: local_only, minimized, full"):
        TierName.from_user(text)
