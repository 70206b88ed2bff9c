"""`holdfast matrix`: the sandboxes that are here, side by side; `holdfast conform`: does a launcher launch as it should?"""

import functools
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import typer

from holdfast.harness.battery import harness_seccomp
from holdfast.harness.matrix import Column, Ground, Status, exit_code, matrix_document
from holdfast.harness.matrix_run import Survey, measure
from holdfast.harness.report.matrix_page import render_matrix_html, render_matrix_markdown
from holdfast.harness.report.page import EXIT_WORDS, FAMILY_WORDS
from holdfast.harness.report.render import plain
from holdfast.harness.results import read_confounders, validate_document, write_document, write_text
from holdfast.harness.run_id import begin_run
from holdfast.sandbox import BadInputError, Isolation, load_profile, read_host
from holdfast.sandbox.foreign import KNOWN, Foreign, parse_launcher, parse_launchers
from holdfast.sandbox.isolation import AnyIsolation, parse_isolation
from holdfast.sandbox.launchers.docker_engine import engine_for
from holdfast.sandbox.probes import all_probes, catalogue
from holdfast.sandbox.testing.conformance import Conformance, check_launcher, starter_for
from holdfast.sandbox.testing.deviations import DEVIATIONS

__all__ = ["conform", "matrix"]

MAX_DOCUMENT = 32 << 20


def matrix(
    *,
    launcher: Annotated[
        list[str] | None,
        typer.Option("--launcher", help="Besides the known ones: any command prefix; repeatable."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="A comma-separated list of columns instead of all known ones."),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="For our own columns.")] = "standard",
    results: Annotated[Path, typer.Option("--results", help="Where MATRIX.json, .md and .html go.")] = Path(
        "results"
    ),
    attribute: Annotated[
        bool, typer.Option("--attribute/--no-attribute", help="Switch layers off to find what holds an act.")
    ] = True,
    everything: Annotated[
        bool, typer.Option("--all", help="The whole catalogue, not the default battery only.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: render this MATRIX.json again.")
    ] = None,
) -> int:
    """Measure each sandbox on this machine with the same battery, and put them side by side."""
    if source is not None:
        document, code = _read(source), 0
    else:
        document, code = _measure(
            _columns(only, launcher or ()), profile, attributes=attribute, everything=everything
        )
        write_document(results / "MATRIX.json", document)
    write_text(results / "MATRIX.md", render_matrix_markdown(document))
    write_text(results / "MATRIX.html", render_matrix_html(document))
    typer.echo(f"Matrix: {results / 'MATRIX.md'}, {results / 'MATRIX.html'}")
    typer.echo(f"holdfast: exit {code} ({'measured' if code == 0 else EXIT_WORDS[code]})")
    return code


def _columns(only: str | None, prefixes: Sequence[str]) -> tuple[AnyIsolation, ...]:
    """Ours and all known ones by default; one that is not installed becomes a listed, empty column."""
    chosen = (
        [_column(word.strip()) for word in only.split(",")] if only else [*Isolation, *map(Foreign, KNOWN)]
    )
    return tuple(dict.fromkeys([*chosen, *parse_launchers(prefixes)]))


def _column(word: str) -> AnyIsolation:
    return parse_launcher(word) if word in KNOWN else parse_isolation(word)


def _measure(
    columns: tuple[AnyIsolation, ...], profile: str, *, attributes: bool, everything: bool
) -> tuple[dict[str, Any], int]:
    policy = load_profile(profile)
    survey = Survey(columns, policy, catalogue() if everything else all_probes(), attributes)
    host = read_host()
    with engine_for(columns):
        measured, control = measure(survey, host, _tell)
    ground = Ground(
        begin_run(),
        {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "uid": host.uid,
            "seccomp_around_harness": harness_seccomp(),
            "confounders": read_confounders(host),
        },
        survey.probes,
        harness_seccomp(),
        FAMILY_WORDS,
        {
            "path": policy.path if policy.path.startswith("profiles/") else Path(policy.path).name,
            "sha256": policy.sha256,
        },
    )
    return matrix_document(measured, control, ground), exit_code(measured, control)


def _tell(column: Column) -> None:
    match column.status:
        case Status.MEASURED:
            typer.echo(
                f"{column.isolation.value}: {len(column.arm.arms)} attempts, {sum(map(bool, column.flips))} ablations"
            )
        case Status.MISSING | Status.FAILED:
            typer.echo(f"{column.isolation.value}: {column.status.value}, {plain(column.reason)}")


def _read(path: Path) -> dict[str, Any]:
    """A matrix from a file; raises `BadInputError` for anything else."""
    try:
        if path.stat().st_size > MAX_DOCUMENT:
            raise BadInputError(f"`{path}` is larger than {MAX_DOCUMENT >> 20} MiB")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"`{path}` cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"`{path}` is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != "holdfast.matrix/1":
        raise BadInputError(f"`{path}` is not a matrix", hint="a MATRIX.json that `holdfast matrix` wrote")
    try:
        validate_document(document)
    except jsonschema.ValidationError as error:
        raise BadInputError(
            f"`{path}` breaks the schema at {error.json_path}: {error.message[:120]}"
        ) from None
    return document


def conform(
    launcher: Annotated[
        str, typer.Option("--launcher", help="none, seccomp, bwrap, a known name, or a prefix.")
    ],
    profile: Annotated[str, typer.Option("--profile", help="For our own isolations.")] = "standard",
) -> int:
    """Check that a launcher launches as it should: status, signals, streams, descriptors, parent's death, deadline."""
    isolation = _any(launcher)
    make = functools.partial(starter_for, isolation=isolation, profile=load_profile(profile))
    with engine_for([isolation]):
        found = check_launcher(make, deviations=DEVIATIONS.get(isolation.value, {}))
    return _print_conformance(found)


def _any(text: str) -> AnyIsolation:
    return Isolation(text) if text in {i.value for i in Isolation} else parse_launcher(text)


def _print_conformance(found: Conformance) -> int:
    for result in found.results:
        mark = "ok" if result.passed else ("deviates" if result.listed else "FAILS")
        line = f"{mark:9}{result.check}" + (f": {plain(result.reason)}" if result.reason else "")
        typer.echo(line + (f" [{result.listed}]" if result.listed else ""))
    for problem in found.problems:
        typer.echo(f"holdfast: {plain(problem)}", err=True)
    code = 1 if found.problems else 0
    typer.echo(f"holdfast: exit {code} ({'conforms' if code == 0 else 'does not conform'})")
    return code
