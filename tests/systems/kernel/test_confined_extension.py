"""An extension under the `strict` profile: it answers, and what it tries besides fails where it succeeds unconfined."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.sandbox import Isolation, Spawner
from holdfast.systems.kernel.confined_extension import spawn_confined
from holdfast.systems.kernel.decision import Outcome
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.extension import Extension, Spawn, spawn_plain
from holdfast.systems.kernel.policy import compile_policy
from holdfast.systems.kernel.request import Request

REQUEST = Request("tool.execute", "me")
TRIES = """
import json, os, socket, sys
def attempt(act):
    try:
        act()
    except Exception as error:
        return type(error).__name__
    return "done"
acts = {
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "secret": lambda: open(sys.argv[1]).read(),
    "write": lambda: open(sys.argv[1], "a").close(),
}
print('{"ready": true}', flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    said = json.dumps({name: attempt(act) for name, act in acts.items()}, sort_keys=True)
    print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "allow", "reason": said}]}), flush=True)
"""


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    with Spawner() as running:
        yield running


def tried(tmp_path: Path, spawn: Spawn) -> str:
    secret = tmp_path / "secret"
    secret.write_text("x")
    extension = Extension([sys.executable, "-I", "-S", "-c", TRIES, str(secret)], spawn=spawn, seconds=5.0)
    try:
        assert extension.warm_up(), "the extension did not start"
        decision = decide(REQUEST, compile_policy([]), 1, extensions=(extension,))
        assert decision.outcome is Outcome.ALLOW, decision
        return decision.reasons[0]
    finally:
        extension.close()


def test_unconfined_it_can_do_all_of_it(tmp_path: Path) -> None:
    """The control: the same extension, the same acts, no sandbox."""
    assert tried(tmp_path, spawn_plain) == '{"network": "done", "secret": "done", "write": "done"}'


def test_under_strict_it_still_answers_and_can_do_none_of_it(tmp_path: Path, spawner: Spawner) -> None:
    found = tried(tmp_path, spawn_confined(spawner, readable=(sys.base_prefix,)))
    assert "done" not in found
    assert '"network": "PermissionError"' in found


def test_a_sandbox_that_cannot_start_the_command_denies(spawner: Spawner) -> None:
    for isolation in (Isolation.SECCOMP, Isolation.BWRAP):
        extension = Extension(["/nonexistent/extension"], spawn=spawn_confined(spawner, isolation=isolation))
        try:
            assert decide(REQUEST, compile_policy([]), 1, extensions=(extension,)).outcome is Outcome.DENY
        finally:
            extension.close()
