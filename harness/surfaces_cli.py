"""`holdfast report` and `holdfast diff`: looking at what runs left."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from holdfast.harness.diff import compare, exit_of, read_snapshot, render_changes
from holdfast.harness.history import read_history, render_history
from holdfast.harness.report.page import EXIT_WORDS
from holdfast.harness.results import write_text
from holdfast.sandbox.refusal import BadInputError

__all__ = ["diff", "report"]

PAGE, HISTORY = "SANDBOX-REPORT.html", "HISTORY.html"


def report(
    results: Annotated[Path, typer.Option("--results", help="Where the results are.")] = Path("results"),
    history: Annotated[bool, typer.Option("--history", help="The page over all kept runs.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> int:
    """Name the latest report (or the history page) and what it says; `--open` shows it."""
    page = results / (HISTORY if history else PAGE)
    records = read_history(results)
    if history:
        if not records:
            raise BadInputError(f"`{results}` keeps no run yet", hint="holdfast gates, or holdfast deny")
        write_text(page, render_history(records))
    elif not page.is_file():
        raise BadInputError(f"there is no report in `{results}`", hint="holdfast gates, or holdfast deny")
    if records:
        latest = records[-1]
        typer.echo(
            f"{latest.name}: {EXIT_WORDS.get(latest.code, 'unknown')} (run {latest.run_id}, {latest.started})"
        )
    typer.echo(str(page))
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        typer.echo("holdfast: no browser could be started; the page is the file above", err=True)
    return 0


def diff(
    old: Annotated[Path, typer.Argument(help="A results folder, or one JSON file of a run.")],
    new: Annotated[Path, typer.Argument(help="The same, of the later run.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """What changed between two runs, regressions first. Exit 1 when something that was good is not."""
    before, after = read_snapshot(old), read_snapshot(new)
    changes = compare(before, after)
    if as_json:
        for change in changes:
            what, where, name = change.key
            told = {
                "kind": change.kind.value,
                "what": what,
                "where": where,
                "name": name,
                "old": change.old,
                "new": change.new,
            }
            typer.echo(json.dumps(told))
    else:
        for line in render_changes(before, after, changes):
            typer.echo(line)
    code = exit_of(before, after, changes)
    words = {0: "nothing got worse", 1: "something that was good is not", 2: "nothing in common to compare"}
    typer.echo(f"holdfast: exit {code} ({words[code]})", err=as_json)
    return code
