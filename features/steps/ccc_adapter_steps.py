"""Steps of the CCC adapter: one-line adapters over the scene that the tests and the suite use too."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from behave import given, then, when

from holdfast.suites.agentos import private_turns
from holdfast.suites.agentos_scene import Scene, open_scene, stage_for, turns_as_input
from holdfast.suites.agentos_wire import MARK, find_canaries
from holdfast.systems.agentos.server import parse_faults

LOCAL_FILES = ("glm_counts.jsonl", "metrics_summary.json", "windows.jsonl")
RECORD = '{"model": "glm-4.6", "lane": "zai", "status": 200, "input_tokens": 10, "output_tokens": 2}'


class Story(Protocol):
    """What the steps keep on behave's context."""

    scene: Scene
    tier: str
    session: str

    def add_cleanup(self, call: Any) -> None: ...


@given('the adapter runs under isolation "{isolation}"')
def given_isolation(story: Story, isolation: str) -> None:
    stack = ExitStack()
    story.add_cleanup(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf-")))
    stage = stack.enter_context(stage_for(isolation, folder))
    story.scene = stack.enter_context(open_scene(stage, "story"))


@given('the privacy tier is "{tier}"')
def given_tier(story: Story, tier: str) -> None:
    story.tier = tier


@given('the licence grants "{entitlement}"')
def given_licence(story: Story, entitlement: str) -> None:
    story.scene.license(entitlement)


@given('the licence granted "{entitlement}" until yesterday')
def given_old_licence(story: Story, entitlement: str) -> None:
    story.scene.license(entitlement, days=-1.0, ended_days_ago=1.0)


@given("the CCC refuses its key")
def given_refusal(story: Story) -> None:
    story.scene.server.fail(parse_faults("deny*9"))


@given("the CCC's first {count:d} answers are lost on the way")
def given_lost(story: Story, count: int) -> None:
    story.scene.server.fail(parse_faults(f"lost*{count}"))


@given("the proxy left {count:d} usage records, 2 of them in one line and 1 of them torn in two")
def given_usage(story: Story, count: int) -> None:
    lines = [RECORD + RECORD, RECORD[:30], RECORD[30:], *[RECORD] * (count - 3)]
    story.scene.write_usage("\n".join(lines) + "\n")


@given("{count:d} bytes that are no record at all")
def given_garbage(story: Story, count: int) -> None:
    story.scene.write_usage("#" * count + "\n")


@when("a session of {count:d} turns is recorded")
def when_session(story: Story, count: int) -> None:
    story.scene.session(story.tier, private_turns(count), "--repo", f"{MARK}-repo")


@when("a session is started")
def when_started(story: Story) -> None:
    story.session = story.scene.run(story.tier, "ccc", "session", "start").stdout.decode().strip()


@when("{count:d} turns are logged")
def when_logged(story: Story, count: int) -> None:
    turns = turns_as_input(private_turns(count))
    story.scene.run(story.tier, "ccc", "session", "log", story.session, stdin=turns)


@when("the session is ended")
def when_ended(story: Story) -> None:
    story.scene.run(story.tier, "ccc", "session", "end", story.session)


@when("a session of {count:d} turns is killed in the middle of its upload")
def when_killed(story: Story, count: int) -> None:
    turns = turns_as_input(private_turns(count))
    done = story.scene.run_until_request(story.tier, "ccc", "session", "run", stdin=turns)
    assert (done.status, story.scene.server.requests, story.scene.totals.turns) == (137, 1, 0), done


@when("the CCC is well again")
def when_well(story: Story) -> None:
    story.scene.server.heal()


@when("the queue is uploaded")
def when_uploaded(story: Story) -> None:
    story.scene.run(story.tier, "ccc", "upload")


@when("the proxy's logs are backfilled")
def when_backfilled(story: Story) -> None:
    story.scene.backfill()


@then("the command succeeds")
def then_succeeds(story: Story) -> None:
    assert story.scene.last.status == 0, story.scene.last


@then('the command is refused because of "{reason}"')
def then_refused(story: Story, reason: str) -> None:
    last = story.scene.last
    assert last.status == 64, last
    assert reason in last.stderr.decode(), last


@then("the command says that rows are still queued")
def then_queued(story: Story) -> None:
    last = story.scene.last
    assert last.status == 1, last
    assert b"still queued" in last.stderr, last


@then("the local log holds {count:d} turns")
def then_log(story: Story, count: int) -> None:
    assert story.scene.logged_turns() == count, story.scene.log()


@then("the local summary counts {count:d} turns and {features:d} shipped features")
def then_summary(story: Story, count: int, features: int) -> None:
    summary = story.scene.summary()
    assert (summary["turns"], summary["features_shipped"]) == (count, features), summary


@then("the data folder holds only the log, the glm counts and the summary")
def then_files(story: Story) -> None:
    assert story.scene.files() == LOCAL_FILES, story.scene.files()


@then("nothing was written")
def then_nothing_written(story: Story) -> None:
    assert story.scene.files() == (), story.scene.files()


@then("not one connection was made")
def then_no_connection(story: Story) -> None:
    assert (story.scene.tap.connections, story.scene.tap.sent) == (0, b"")


@then("the CCC has the numbers of {sessions:d} session with {count:d} turns")
def then_numbers(story: Story, sessions: int, count: int) -> None:
    totals = story.scene.totals
    assert (totals.metrics, totals.metrics_turns) == (sessions, count), (totals, story.scene.last)


@then("the CCC has no events")
def then_no_events(story: Story) -> None:
    assert story.scene.totals.events == 0, story.scene.totals


@then("the CCC has {count:d} turns")
def then_turns(story: Story, count: int) -> None:
    assert story.scene.totals.turns == count, (story.scene.totals, story.scene.last)


@then("no text of the session was on the wire")
def then_no_text(story: Story) -> None:
    assert b"/v1/metrics" in story.scene.tap.sent
    assert not find_canaries(story.scene.tap.sent), story.scene.tap.sent


@then("of their value the CCC has the summary and the links and nothing else")
def then_value(story: Story) -> None:
    values = [event["value"] for event in story.scene.store.bodies() if event["type"] == "turn"]
    assert values
    assert all(set(value) == {"summary", "links"} for value in values), values


@then("the CCC saw rows again and counted them once")
def then_replays(story: Story) -> None:
    totals = story.scene.totals
    assert totals.replays > 0, totals
    assert totals.events == len(story.scene.log()), totals


@then('the status shows {count:d} rows queued and the error "{error}"')
def then_status_error(story: Story, count: int, error: str) -> None:
    queue = story.scene.status(story.tier)["queue"]
    assert queue["pending"] == count, queue
    assert error in queue["last_error"], queue


@then("the status shows {count:d} rows queued and no error")
def then_status(story: Story, count: int) -> None:
    queue = story.scene.status(story.tier)["queue"]
    assert (queue["pending"], queue["last_error"]) == (count, None), queue


@then("the backfilled summary counts {count:d} requests")
def then_backfilled(story: Story, count: int) -> None:
    assert story.scene.backfilled()["records"] == count, story.scene.backfilled()


@then("it says that {count:d} bytes could not be read, and where")
def then_unreadable(story: Story, count: int) -> None:
    unreadable = story.scene.backfilled()["unreadable"]
    assert unreadable["bytes"] == count, json.dumps(unreadable)
    assert unreadable["ranges"][0]["length"] == count, json.dumps(unreadable)
