"""Extensions: another process, a deadline, and every way to fail ends in a denial."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.clock import wait_until
from holdfast.systems.kernel.decision import Outcome, Phase
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.extension import MAX_LINE, Extension, Health
from holdfast.systems.kernel.policy import compile_policy
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule

READY = "import sys, json\nsys.stdout.write('{\"ready\": true}\\n'); sys.stdout.flush()\n"
EACH = READY + "for line in sys.stdin:\n    asked = json.loads(line)\n    {body}\n    sys.stdout.flush()\n"
ALLOW = (
    'print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "allow", "reason": "fine"}]}))'
)
REQUEST = Request("fs.read", "me", ResolvedPath.judged("/w/a", "/w"), "core_plugin", "run")
OPEN = compile_policy([Rule("open", Match(), Action.ALLOW)])


@contextmanager
def running(
    code: str, *, warm: bool = True, seconds: float = 0.5, start: float = 10.0
) -> Iterator[Extension]:
    extension = Extension(
        [sys.executable, "-I", "-S", "-c", code], name="ext", seconds=seconds, start_seconds=start
    )
    try:
        if warm:
            assert extension.warm_up()
        yield extension
    finally:
        extension.close()


def answering(body: str) -> str:
    return EACH.replace("{body}", body)


def test_it_is_asked_with_the_request_and_the_snapshot_and_its_votes_count() -> None:
    echo = 'print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "allow", "reason": json.dumps([asked["now"], asked["request"]])}]}))'
    with running(answering(echo)) as extension:
        decision = decide(REQUEST, compile_policy([]), 42, extensions=(extension,))
    assert (decision.outcome, decision.phase, decision.rules) == (Outcome.ALLOW, Phase.EXTENSION, ("ext/r",))
    assert decision.reasons == (
        '[42, {"syscall": "fs.read", "caller": "me", "caller_tag": "core_plugin", "path": "/w/a", "state": "run"}]',
    )


FAILURES = {
    "crashes": ("raise SystemExit(1)", "crashed"),
    "does not answer": ("pass", "did not answer in time"),
    "answers half a line": ('sys.stdout.write("{")', "did not answer in time"),
    "sends no JSON": ('print("{not json")', "not JSON"),
    "sends deep JSON": ('print("[" * 60000)', "not JSON"),
    "sends another shape": ('print("[]")', "something else than was asked"),
    "answers another question": ('print(json.dumps({"id": asked["id"] + 1, "votes": []}))', "something else"),
    "sends no votes": ('print(json.dumps({"id": asked["id"]}))', "votes"),
    "sends too many votes": ('print(json.dumps({"id": asked["id"], "votes": [1] * 65}))', "votes"),
    "votes what is no vote": ('print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "permit", "reason": ""}]}))', "`permit`"),
    "votes without a reason": ('print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "allow"}]}))', "without rule"),
    "floods": ('print("x" * 1000000)', f"more than {MAX_LINE} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_an_extension_that_fails_denies_and_is_started_again(name: str) -> None:
    body, said = FAILURES[name]
    with running(answering(body)) as extension:
        decision = decide(REQUEST, OPEN, 1, extensions=(extension,))
        assert decision.outcome is Outcome.DENY
        assert (decision.phase, decision.rules) == (Phase.EXTENSION, ("ext",))
        assert said in decision.reasons[0]
        assert (extension.restarts, extension.health) == (1, Health.STARTING)


def test_the_second_failure_within_30_seconds_keeps_it_down_and_denying() -> None:
    with running(answering("raise SystemExit(1)")) as extension:
        decide(REQUEST, OPEN, 1, extensions=(extension,))
        assert extension.warm_up()
        decide(REQUEST, OPEN, 1, extensions=(extension,))
        assert (extension.health, extension.restarts) == (Health.DOWN, 1)
        for _ in range(3):
            decision = decide(REQUEST, OPEN, 1, extensions=(extension,))
            assert decision.outcome is Outcome.DENY
            assert "is down after two failures" in decision.reasons[0]
        assert not extension.warm_up()


def test_after_a_restart_it_answers_again(tmp_path: Path) -> None:
    """It crashes on its first question only: a file tells it that it was there before."""
    flag = tmp_path / "been"
    body = f"import os\n    if not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w').close(); raise SystemExit(1)\n    {ALLOW}"
    with running(answering(body)) as extension:
        assert decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.DENY
        assert extension.warm_up()
        assert decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.ALLOW


def test_while_it_starts_it_denies_and_that_does_not_count_against_it() -> None:
    """Warm-up is real: an extension that needs 0.4 s to start is not asked before it said that it is ready."""
    slow = "import time; time.sleep(0.4)\n" + answering(ALLOW)
    with running(slow, warm=False, seconds=0.02) as extension:
        for _ in range(3):
            decision = decide(REQUEST, OPEN, 1, extensions=(extension,))
            assert decision.outcome is Outcome.DENY
            assert "is still starting" in decision.reasons[0]
        assert (extension.restarts, extension.health) == (0, Health.STARTING)
        assert extension.warm_up()
        wait_until(
            lambda: decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.ALLOW,
            what="an answer after the warm-up",
            seconds=5,
        )


def test_one_that_never_gets_ready_is_given_up() -> None:
    with running("import time; time.sleep(60)", warm=False, start=0.05) as extension:
        assert not extension.warm_up()
        assert extension.restarts == 1
        assert not extension.warm_up()
        assert extension.health is Health.DOWN


def test_a_late_answer_never_serves_the_next_question() -> None:
    """The process that was late is killed, and with it whatever it still had to say."""
    late = 'import time\n    time.sleep(0.3 if asked["id"] == 1 else 0)\n    ' + ALLOW
    with running(answering(late), seconds=0.1) as extension:
        assert decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.DENY
        assert extension.warm_up()
        other = decide(REQUEST, compile_policy([]), 1, extensions=(extension,))
        assert (other.outcome, extension.calls) == (Outcome.ALLOW, 2)


def test_speaking_without_being_asked_denies() -> None:
    eager = (
        READY
        + 'print(\'{"id": 1, "votes": []}\')\nsys.stdout.flush()\n'
        + answering(ALLOW).removeprefix(READY)
    )
    with running(eager) as extension:
        wait_until(
            lambda: extension._readable() or bool(extension._buffer), what="the unasked line", seconds=5
        )
        decision = decide(REQUEST, OPEN, 1, extensions=(extension,))
        assert decision.outcome is Outcome.DENY
        assert "without being asked" in decision.reasons[0]


def test_a_command_that_is_not_there_is_down_and_denies() -> None:
    extension = Extension(["/nonexistent/extension"], name="ext")
    assert decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.DENY
    extension.close()


def test_the_deadline_is_100_ms_and_is_kept() -> None:
    from holdfast.systems.kernel.extension import EVALUATION_SECONDS

    assert EVALUATION_SECONDS == 0.1
    with running(answering("import time; time.sleep(3600)"), seconds=EVALUATION_SECONDS) as extension:
        assert decide(REQUEST, OPEN, 1, extensions=(extension,)).outcome is Outcome.DENY


def test_the_extension_gets_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZAI_API_KEY", "secret-of-ours")
    tell = 'import os\n    print(json.dumps({"id": asked["id"], "votes": [{"rule": "r", "action": "allow", "reason": str(sorted(os.environ))}]}))'
    with running(answering(tell)) as extension:
        (reason,) = decide(REQUEST, compile_policy([]), 1, extensions=(extension,)).reasons
    assert "ZAI_API_KEY" not in reason
