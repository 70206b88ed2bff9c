"""A night's loop: round after round until both lanes have a 200 and every gate passes, or the time is up.

    run_loop(wish, one_round, world) -> exit code

What it has to know after a kill stands in one small file, written whole before and after each round, so that
it goes on from where it was: the same deadline, the next round. Deciding is pure (`next_pause`, `is_done`);
the world (clock, waiting, speech) is handed in.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import final

from holdfast.harness.report.page import EXIT_WORDS
from holdfast.harness.results import validate_document, write_document, write_text
from holdfast.sandbox.refusal import BadInputError

__all__ = [
    "Backoff",
    "LoopWish",
    "Progress",
    "Round",
    "World",
    "is_done",
    "next_pause",
    "parse_backoff",
    "run_loop",
]


@final
@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause after the first round that did not pass, doubled each time up to a limit; seconds."""

    first: float
    limit: float


def parse_backoff(text: str) -> Backoff:
    """Read `FIRST,LIMIT` or `FIRST`, in seconds: `"5,300"`; raises `BadInputError`."""
    words = text.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    first, limit = (numbers + numbers)[:2] if len(numbers) in {1, 2} else (-1.0, -1.0)
    if not 0 <= first <= limit <= 86400:
        raise BadInputError(f"cannot read the backoff `{text}`", hint="FIRST,LIMIT in seconds, such as 5,300")
    return Backoff(first, limit)


@final
@dataclass(frozen=True, slots=True)
class LoopWish:
    """What was asked for."""

    name: str
    until_pass: bool
    max_hours: float
    backoff: Backoff
    asked: str
    """The command's own words; a loop that was asked for otherwise is not gone on with."""
    live: bool


@final
@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to."""

    code: int
    words: str
    """One line: what passed and what did not."""
    lanes_200: Mapping[str, int]
    """Answers with status 200, by lane."""
    usage: bytes
    """The proxy's log of this round, redacted."""


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept over a kill."""

    asked: str
    started: str
    deadline: str
    rounds: int
    """Finished ones."""
    worst: int
    last: int | None
    finished: bool
    live: bool


@final
@dataclass(frozen=True, slots=True)
class World:
    """What the loop acts on."""

    now: Callable[[], datetime]
    pause: Callable[[float], bool]
    """Wait; False when it was told to stop meanwhile."""
    say: Callable[[str], None]
    results: Path
    logs: Path


def next_pause(failures: int, backoff: Backoff) -> float:
    """Seconds after `failures` rounds in a row that did not pass; pure."""
    return min(backoff.limit, backoff.first * 2.0 ** min(failures, 32)) if backoff.first else 0.0


def is_done(told: Round) -> bool:
    """Every gate passes and each lane, of which there are two at least, has a 200; pure."""
    return told.code == 0 and len(told.lanes_200) > 1 and all(told.lanes_200.values())


def run_loop(wish: LoopWish, one_round: Callable[[int], Round], world: World) -> int:
    """Go round until done, out of time or stopped; returns the exit code.

    A round that raises `OSError` (a full disk) is told as 70 and does not end the night.
    """
    progress = _begin(wish, world)
    failures, code = 0, 2
    while world.now() < datetime.fromisoformat(progress.deadline):
        number = progress.rounds + 1
        try:
            told = one_round(number)
        except OSError as error:
            told = Round(70, f"our own fault: {error}", {}, b"")
        code = told.code
        progress = _note(progress, told, wish, world)
        world.say(f"round {number}: {told.words}")
        if is_done(told) and wish.until_pass:
            break
        failures = 0 if is_done(told) else failures + 1
        if not world.pause(next_pause(max(0, failures - 1), wish.backoff)):
            world.say("stopped; the same command goes on from here")
            return code or 2
    _keep(replace(progress, finished=True), wish, world)
    if not progress.rounds:
        world.say("no round was run: nothing can be told")
        return 2
    if not wish.until_pass:
        code = progress.worst
    world.say(_last_words(progress, code, wish))
    return code


def _begin(wish: LoopWish, world: World) -> Progress:
    """Go on from what was kept, if it was asked for in the same words and has time left."""
    now = world.now()
    kept = _read(world.results / _file(wish))
    if (
        kept
        and not kept.finished
        and kept.asked == wish.asked
        and now < datetime.fromisoformat(kept.deadline)
    ):
        world.say(f"going on after round {kept.rounds}, begun {kept.started}")
        return kept
    deadline = now + timedelta(hours=wish.max_hours)
    fresh = Progress(
        wish.asked,
        now.isoformat(timespec="seconds"),
        deadline.isoformat(timespec="seconds"),
        0,
        0,
        None,
        False,
        wish.live,
    )
    _keep(fresh, wish, world)
    (world.logs / f"usage_{wish.name}.jsonl").unlink(missing_ok=True)
    return fresh


def _note(progress: Progress, told: Round, wish: LoopWish, world: World) -> Progress:
    """The round's usage lines and the new progress, on the disk."""
    severity = {0: 0, 2: 1, 1: 2, 70: 3}
    worst = max((progress.worst, told.code), key=lambda code: severity.get(code, 3))
    moved = replace(progress, rounds=progress.rounds + 1, worst=worst, last=told.code)
    try:
        world.logs.mkdir(parents=True, exist_ok=True)
        running = world.logs / f"usage_{wish.name}.jsonl"
        with running.open("ab") as log:
            log.write(told.usage)
        write_text(
            world.logs / f"usage_{wish.name}_final.jsonl",
            running.read_bytes().decode("utf-8", "backslashreplace"),
        )
        _keep(moved, wish, world)
    except OSError as error:
        world.say(f"cannot keep the progress: {error}")
    return moved


def _keep(progress: Progress, wish: LoopWish, world: World) -> None:
    document = {"schema": "holdfast.loop/1", "name": wish.name, **asdict(progress)}
    write_document(world.results / _file(wish), document)


def _file(wish: LoopWish) -> str:
    return f"LOOP_{wish.name}.json"


def _read(path: Path) -> Progress | None:
    """What was kept; None when there is nothing that can be gone on with."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        validate_document(document)
    except (OSError, ValueError, KeyError):
        return None
    except Exception as error:
        if type(error).__name__ != "ValidationError":
            raise
        return None
    return Progress(**{key: value for key, value in document.items() if key not in {"schema", "name"}})


def _last_words(progress: Progress, code: int, wish: LoopWish) -> str:
    upstreams = (
        "the real hosts answered"
        if wish.live and code == 0
        else "live upstreams"
        if wish.live
        else "upstreams were witnesses, so nothing was shown about the providers"
    )
    return (
        f"{progress.rounds} round(s) since {progress.started}: {EXIT_WORDS.get(code, 'unknown')}; {upstreams}"
    )
