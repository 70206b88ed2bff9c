"""`holdfast loop`: rounds of the gates until they pass, with a bundle at the end."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from holdfast import clock
from holdfast.harness.bundle import collect, prune, write_bundle
from holdfast.harness.conclude import Concluded
from holdfast.harness.gate import Outcome
from holdfast.harness.leak import search
from holdfast.harness.loop import LoopWish, Round, World, parse_backoff, run_loop
from holdfast.harness.report.page import EXIT_WORDS
from holdfast.harness.run_id import begin_run
from holdfast.sandbox.refusal import BadInputError

__all__ = ["Conduct", "loop_command", "redact", "round_of"]

Conduct = Callable[..., Concluded]
"""`conduct(suite=..., isolation=..., profile=..., proxy_cmd=..., results=..., name=...)`: one quiet campaign."""

HTTP1 = "HOLDFAST_HTTP1"


def loop_command(conduct: Conduct, again: Callable[[], str]) -> Callable[..., int]:
    """The command, over the one way in which the command line runs a campaign."""

    def loop(
        until_pass: Annotated[
            bool, typer.Option("--until-pass", help="Stop at the first round that passes.")
        ] = False,
        max_hours: Annotated[float, typer.Option("--max-hours", min=0.0, max=168.0)] = 8.0,
        backoff: Annotated[str, typer.Option("--backoff", help="FIRST,LIMIT in seconds.")] = "5,300",
        suite: Annotated[
            str | None, typer.Option("--suite", help="Default: ccp, or ccp-live with --live.")
        ] = None,
        isolation: Annotated[
            str, typer.Option("--isolation", help="A comma-separated list.")
        ] = "none,seccomp,bwrap",
        profile: Annotated[str, typer.Option("--profile")] = "standard-net",
        proxy_cmd: Annotated[str | None, typer.Option("--proxy-cmd", help="A proxy in ccp's place.")] = None,
        live: Annotated[bool, typer.Option("--live", help="Your keys, the real hosts. Costs money.")] = False,
        http1: Annotated[bool, typer.Option("--http1", help=f"Tell the proxy {HTTP1}=1.")] = False,
        name: Annotated[
            str, typer.Option("--name", help="METRICS_<name>.json, logs/usage_<name>_final.jsonl")
        ] = "overnight",
        results: Annotated[Path, typer.Option("--results")] = Path("results"),
        logs: Annotated[Path, typer.Option("--logs")] = Path("logs"),
        bundle_dir: Annotated[Path, typer.Option("--bundle-dir")] = Path("~/Downloads"),
        keep: Annotated[int, typer.Option("--keep", min=1, help="Bundles of this name to keep.")] = 5,
    ) -> int:
        """Repeat the gates until both lanes have a 200 and every gate passes, or the time is up; then bundle."""
        if not name.replace("_", "").replace("-", "").isalnum():
            raise BadInputError(f"`{name}` cannot be part of a file's name", hint="letters, digits, - and _")
        if http1:
            os.environ[HTTP1] = "1"
        chosen = suite or ("ccp-live" if live else "ccp")
        if live != chosen.endswith("-live"):
            raise BadInputError(
                "`--live` and the suite contradict each other", hint="--live takes a suite ccp-live"
            )
        wish = LoopWish(name, until_pass, max_hours, parse_backoff(backoff), again(), live)

        def one_round(number: int) -> Round:
            del number
            concluded = conduct(
                suite=chosen,
                isolation=isolation,
                profile=profile,
                proxy_cmd=proxy_cmd,
                results=results,
                name=name,
            )
            return round_of(concluded)

        world = World(clock.utc_now, lambda s: not threading.Event().wait(s), _say, results, logs)
        try:
            code = run_loop(wish, one_round, world)
        except (KeyboardInterrupt, SystemExit):
            _say("interrupted; the same command goes on from here")
            raise
        folder = bundle_dir.expanduser()
        bundle = write_bundle(folder, name, begin_run(), collect(results, logs, name))
        prune(folder, name, keep=keep)
        _say(f"bundle: {bundle}")
        _say(f"holdfast: exit {code} ({EXIT_WORDS.get(code, 'unknown')})")
        return code

    return loop


def round_of(concluded: Concluded) -> Round:
    """A campaign in one line, with its lanes' 200s and its redacted log."""
    judged = concluded.overall
    passing = sum(judgement.outcome is Outcome.PASS for judgement in judged.values())
    bad = [f"{name}: {j.reasons[0]}" for name, j in judged.items() if j.outcome is not Outcome.PASS]
    lanes: dict[str, int] = {}
    for staging in concluded.campaign.stagings:
        for lane, metrics in staging.lanes.items():
            lanes[lane] = lanes.get(lane, 0) + metrics.status.get("200", 0)
    words = ", ".join(
        [
            f"{passing} of {len(judged)} gates pass",
            *(f"{count} x 200 on {lane}" for lane, count in lanes.items()),
            *bad[:3],
        ]
    )
    stagings = concluded.campaign.stagings
    usage = b"".join(redact(text, s.secrets) for s in stagings for text in s.logs.values())
    return Round(concluded.code, words, lanes, usage)


def redact(log: bytes, secrets: Mapping[str, str]) -> bytes:
    """Each line in which a secret stands, in any coat, gives way to one that says so."""
    kept = []
    for line in log.splitlines():
        found = search(secrets, [("line", line)])
        kept.append(b'{"redacted": "' + found[0].name.encode() + b'"}\n' if found else line + b"\n")
    return b"".join(kept)


def _say(line: str) -> None:
    typer.echo(line)
