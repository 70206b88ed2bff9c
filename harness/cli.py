"""The command `holdfast`: words to types, the campaign, files, an exit code.

Exit codes: 0 all gates pass, 1 a gate fails, 2 cannot tell, 64 bad usage or bad input, 70 our own fault;
`holdfast run` gives the command's own status instead, 128 + n for signal n.
"""

import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from holdfast.harness.campaign import Wanted
from holdfast.harness.conclude import Concluded, Silent, Teller, conclude
from holdfast.harness.lock import hold
from holdfast.harness.loop_cli import loop_command
from holdfast.harness.matrix_cli import conform, matrix
from holdfast.harness.mutate_cli import mutate
from holdfast.harness.narrate import Narrator
from holdfast.harness.prove_cli import prove
from holdfast.harness.report.page import EXIT_WORDS
from holdfast.harness.run_id import begin_run
from holdfast.harness.sarif import append_step_summary, step_summary
from holdfast.harness.service import ServiceSpec
from holdfast.harness.suite import Suite
from holdfast.harness.surfaces_cli import diff, report
from holdfast.harness.sweep import sweep
from holdfast.harness.words import absolute_words, folders_of, split_words
from holdfast.sandbox import (
    BadInputError,
    CannotConfineError,
    Command,
    Further,
    Isolation,
    Profile,
    SandboxError,
    Spawner,
    confine,
    load_profile,
    parse_further,
    parse_isolation,
    parse_isolations,
    read_host,
)
from holdfast.sandbox.confine import plan_command
from holdfast.sandbox.foreign import parse_launchers
from holdfast.sandbox.isolation import AnyIsolation
from holdfast.sandbox.launchers.docker_engine import engine_for
from holdfast.sandbox.probes import Probe, all_probes, catalogue

__all__ = ["app", "load_suites", "main"]

BAD_INPUT, OUR_FAULT, CANNOT_TELL = 64, 70, 2
STDERR = 2
INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""

UsageFault: type[Exception] = typer.BadParameter.__mro__[2]
"""click's base of all bad usage; by its place in the ancestry, since typer carries a click of its own."""

app = typer.Typer(
    name="holdfast",
    help="Show that a sandbox denies what it is said to deny, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ProfileOption = Annotated[str, typer.Option("--profile", help="strict, standard, standard-net, or a path.")]
IsolationsOption = Annotated[str, typer.Option("--isolation", help="A comma-separated list.")]
ReadableOption = Annotated[
    list[Path] | None,
    typer.Option("--readable", help="A folder that CMD needs and bwrap's root would not have; repeatable."),
]
LaunchersOption = Annotated[
    list[str] | None,
    typer.Option("--launcher", help="A sandbox that is not ours, by name or command prefix; repeatable."),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Where the results go.")]
CommandArgument = Annotated[list[str] | None, typer.Argument(metavar="[-- CMD ...]")]


app.command("prove")(prove)
app.command("report")(report)
app.command("diff")(diff)
app.command("mutate")(mutate)
app.command("matrix")(matrix)
app.command("conform")(conform)


@app.command()
def run(
    command: CommandArgument = None,
    isolation: Annotated[str, typer.Option("--isolation", help="none, seccomp or bwrap.")] = "bwrap",
    profile: ProfileOption = "standard",
    explain: Annotated[bool, typer.Option("--explain", help="Print the plan and run nothing.")] = False,
    readable: ReadableOption = None,
    writable: Annotated[
        list[Path] | None, typer.Option("--writable", help="A folder that stays writable under bwrap.")
    ] = None,
) -> int:
    """Confine CMD and give its status; nothing is probed."""
    if not command:
        raise BadInputError("no command was given", hint="put it behind `--`: holdfast run -- CMD")
    chosen = parse_isolation(isolation)
    policy = load_profile(profile)
    folders = _existing("--writable", writable or ())
    wanted = Command(
        argv=tuple(command),
        cwd=_inside_folder(chosen, folders),
        inherited=dict(os.environ),
        readable=_existing("--readable", readable or ()),
        writable=folders,
    )
    if explain:
        for word in plan_command(chosen, wanted, policy, read_host()).words():
            typer.echo(word)
        return 0
    return _run_confined(chosen, wanted, policy)


def _inside_folder(isolation: Isolation, writable: tuple[str, ...]) -> str:
    """Where the command starts: here, where here exists inside; else the first writable folder, else `/`."""
    here = os.getcwd()  # noqa: PTH109 - a string is what the plan wants
    seen = (*writable, *read_host().interpreter, read_host().project, "/usr", "/etc")
    if isolation is not Isolation.BWRAP or any(here == s or here.startswith(f"{s}/") for s in seen):
        return here
    return writable[0] if writable else "/"


FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def _run_confined(isolation: Isolation, command: Command, profile: Profile) -> int:
    """Forward signals, wait, and say so when the command never ran."""
    early: list[int] = []
    deliver: list[Callable[[int], None]] = [early.append]

    def forward(number: int, _: FrameType | None) -> None:
        deliver[0](number)

    for number in FORWARDED:  # before the start: a signal must find either us or the command, never nobody
        signal.signal(number, forward)
    with Spawner() as spawner, confine(spawner, isolation, command, profile=profile) as confined:
        deliver[0] = confined.signal
        for pending in early:
            confined.signal(pending)
        for note in confined.skipped:
            typer.echo(f"holdfast: skipped {note}", err=True)
        status = confined.wait()
        if isolation is Isolation.BWRAP and '"exit-code"' not in confined.launcher_status:
            # bwrap reports an exit code only for a command that it could execute.
            _say_failed(f"`{command.argv[0]}` never ran inside bwrap (its own words stand above)")
            return BAD_INPUT
        return status


@app.command()
def deny(
    command: CommandArgument = None,
    isolation: Annotated[
        str | None, typer.Option("--isolation", help="A comma-separated list; default: all three.")
    ] = None,
    launcher: LaunchersOption = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Default: standard, or standard-net with a service.")
    ] = None,
    ready: Annotated[
        str | None, typer.Option("--ready", help="CMD is ready when this URL answers 200.")
    ] = None,
    readable: ReadableOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="The whole catalogue: further families, other ABIs.")
    ] = False,
    proves: Annotated[
        bool, typer.Option("--prove", help="Also prove each act over the filter that was loaded.")
    ] = False,
    attributes: Annotated[
        bool, typer.Option("--attribute", help="Also find, by taking layers away, which of them deny.")
    ] = False,
    results: ResultsOption = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
    bwrap_args: Annotated[
        str, typer.Option("--bwrap-args", help="Further arguments of bwrap, as CCP_BWRAP_ARGS takes them.")
    ] = "",
    allow_weaker: Annotated[
        bool, typer.Option("--allow-weaker", help="Take arguments that loosen the sandbox.")
    ] = False,
) -> int:
    """Attack each isolation with the battery, with CMD as a service beside the probes if one is given."""
    service = _service(command, ready)
    foreign = parse_launchers(launcher or ())
    own = parse_isolations(isolation or "none,seccomp,bwrap") if isolation or not foreign else ()
    further = parse_further(bwrap_args, source="--bwrap-args", allow_weaker=allow_weaker)
    return _campaign(
        suites=(),
        isolations=(*own, *foreign),
        profile=profile or ("standard-net" if service else "standard"),
        service=service,
        readable=readable or (),
        results=results,
        name="deny",
        quiet=quiet,
        probes=catalogue() if every else all_probes(),
        proves=proves,
        attributes=attributes,
        further=further,
    ).code


def _service(command: list[str] | None, ready: str | None) -> ServiceSpec | None:
    """A stranger's service: its port is that of the ready URL."""
    if not command:
        if ready:
            raise BadInputError("`--ready` without a command", hint="put the service behind `--`")
        return None
    if not ready:
        raise BadInputError("a service needs `--ready URL`, so that it is known when it is up")
    try:
        parts = urlsplit(ready)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "http" or host not in {"127.0.0.1", "localhost"} or not port:
        raise BadInputError(
            f"`{ready}` is not a loopback URL with a port", hint="http://127.0.0.1:PORT/health"
        )
    return ServiceSpec(absolute_words(command), "/", port, ready_url=ready)


@app.command()
def gates(
    suite: Annotated[str, typer.Option("--suite", help="A comma-separated list of suites.")] = "ccp",
    isolation: IsolationsOption = "none,seccomp,bwrap",
    profile: ProfileOption = "standard-net",
    proxy_cmd: Annotated[str | None, typer.Option("--proxy-cmd", help="A proxy in ccp's place.")] = None,
    readable: ReadableOption = None,
    results: ResultsOption = Path("results"),
    proves: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Also prove the five families over the filter's bytes.")
    ] = True,
    name: Annotated[str, typer.Option("--name", help="METRICS_<name>.json")] = "gates",
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> int:
    """Bring each suite's system up under each isolation, attack it, drive it, judge every gate."""
    return _campaign(
        suites=load_suites(suite),
        isolations=parse_isolations(isolation),
        profile=profile,
        proxy_cmd=proxy_cmd,
        readable=readable or (),
        results=results,
        name=name,
        quiet=quiet,
        proves=proves,
    ).code


def _conduct(
    *, suite: str, isolation: str, profile: str, proxy_cmd: str | None, results: Path, name: str
) -> Concluded:
    """A quiet campaign for the loop, which tells a round in one line of its own."""
    return _campaign(
        suites=load_suites(suite),
        isolations=parse_isolations(isolation),
        profile=profile,
        proxy_cmd=proxy_cmd,
        readable=(),
        results=results,
        name=name,
        quiet=True,
        teller=Silent(),
    )


def load_suites(names: str) -> tuple[Suite[Any], ...]:
    """Load suites by entry point; raises `BadInputError` naming those that there are."""
    found = {point.name: point for point in entry_points(group="holdfast.suites")}
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in chosen if name not in found]:
        raise BadInputError(
            f"unknown suite `{unknown[0]}`", hint=f"one of {', '.join(sorted(found)) or 'none'}"
        )
    return tuple(found[name].load() for name in chosen)


def _campaign(
    *,
    suites: tuple[Suite[Any], ...],
    isolations: tuple[AnyIsolation, ...],
    profile: str,
    results: Path,
    name: str,
    quiet: bool,
    readable: Sequence[Path],
    service: ServiceSpec | None = None,
    proxy_cmd: str | None = None,
    probes: tuple[Probe, ...] | None = None,
    proves: bool = False,
    attributes: bool = False,
    further: Further | None = None,
    teller: Teller | None = None,
) -> Concluded:
    """Sweep, take the folder, run, judge, write, tell."""
    proxy = absolute_words(split_words(proxy_cmd, option="--proxy-cmd")) if proxy_cmd is not None else None
    words = proxy or (service.argv if service else ())
    wanted = Wanted(
        run=begin_run(),
        isolations=isolations,
        profile=load_profile(profile),
        probes=all_probes() if probes is None else probes,
        proves=proves,
        attributes=attributes,
        suites=suites,
        service=service,
        proxy_command=proxy,
        readable=(*folders_of(words, read_host()), *_existing("--readable", readable)),
        alterations={}
        if further is None
        else {Isolation.BWRAP: lambda plan: plan.with_further(further.words)},
    )
    sweep()
    if results.exists() and not results.is_dir():
        raise BadInputError(f"`--results {results}` is not a folder")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        raise BadInputError(
            f"`--name {name}` is no part of a file's name", hint="letters, digits, `_`, `.`, `-`"
        )
    with hold(results, told=_say_failed), engine_for(isolations):
        concluded = conclude(
            wanted, teller or Narrator(quiet=quiet), results=results, name=name, command=_again()
        )
    append_step_summary(step_summary(f"Holdfast: {name}", {"all isolations": concluded.overall}))
    return concluded


def _existing(option: str, paths: Sequence[Path]) -> tuple[str, ...]:
    """Whole paths; raises `BadInputError` for one that is not there."""
    if missing := [path for path in paths if not path.exists()]:
        raise BadInputError(f"`{option} {missing[0]}` is not there")
    return tuple(str(path.resolve()) for path in paths)


def _again() -> str:
    """The command that was typed, to be typed again."""
    return shlex.join(["holdfast", *sys.argv[1:]])


app.command("loop")(loop_command(_conduct, _again))


class TerminatedError(SystemExit):
    """SIGTERM, so that folders and sandboxes are left as tidily as after Ctrl-C."""


def _terminate(number: int, _: FrameType | None) -> None:
    raise TerminatedError(128 + number)


def _say_failed(what: str) -> None:
    typer.echo(f"holdfast: {what}", err=True)


def _refuse(error: Exception, code: int) -> int:
    _say_failed(str(error) or type(error).__name__)
    _say_failed(f"exit {code} ({EXIT_WORDS.get(code, 'refused')})")
    return code


def _fill_standard_streams() -> None:
    """Put something harmless where a standard stream was closed.

    INVARIANT: no descriptor of ours is ever 0, 1 or 2; those numbers are handed to what is confined.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)


def main() -> None:
    """The entry point: every way out has a code of ours."""
    _fill_standard_streams()
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    confining = arguments[:1] == ["run"]
    if not confining:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        result = app(arguments, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except UsageFault as error:
        return _refuse(error, BAD_INPUT)
    except BadInputError as error:
        return _refuse(error, BAD_INPUT)
    except CannotConfineError as error:
        return _refuse(error, OUR_FAULT if confining else CANNOT_TELL)
    except SandboxError as error:
        return _refuse(error, OUR_FAULT)
    except TerminatedError:
        _say_failed("terminated")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        _say_failed("interrupted")
        return INTERRUPTED
    except OSError as error:
        return _refuse(error, OUR_FAULT)
    except Exception as error:  # noqa: BLE001 - the last line of defence: our own fault, and the whole story
        traceback.print_exc()
        return _refuse(error, OUR_FAULT)
    return int(result or 0)
