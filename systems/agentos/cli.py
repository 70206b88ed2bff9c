"""The command `agentos`: thin adapters from options to objects, and errors to one line and a status.

Exit status: 0 done · 1 done, but rows are still queued or the health check found something · 64 bad usage
or input, or a licence's or tier's no · 70 our own fault.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.clock import utc_now
from holdfast.systems.agentos.cli_licence import app as licence_app
from holdfast.systems.agentos.console import say, tell
from holdfast.systems.agentos.errors import AdapterError, BadInputError
from holdfast.systems.agentos.files import (
    explain_os_error,
    make_folder,
    read_bounded,
    write_atomically,
    write_json,
)
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.ingest import add_snapshot, ingest_events
from holdfast.systems.agentos.integrations.local import Session
from holdfast.systems.agentos.integrations.recorder import Logged, Recorder, iter_events
from holdfast.systems.agentos.journal import LINE_LIMIT, Sync
from holdfast.systems.agentos.metrics.attribution import model_value, session_value
from holdfast.systems.agentos.metrics.summary import fold_log, load_health, render_summary
from holdfast.systems.agentos.options import (
    HERE,
    AsJson,
    Authority,
    Data,
    KeyFile,
    KeyringFile,
    LicenceFile,
    Repo,
    SessionId,
    SyncText,
    TierText,
    Tries,
    Turns,
    Url,
)
from holdfast.systems.agentos.parts import Parts, parts, use_parts
from holdfast.systems.agentos.privacy.tier import TierName
from holdfast.systems.agentos.settings import Settings, read_key
from holdfast.systems.agentos.status import (
    Licence,
    problems,
    read_status,
    render_prometheus,
    render_text,
)
from holdfast.systems.agentos.strict_json import parse_object
from holdfast.systems.agentos.tools.backfill_ccp import Progress, backfill, find_sources

__all__ = ["app", "main"]

app = typer.Typer(
    help="The CCC adapter: telemetry that obeys its privacy tier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ccc = typer.Typer(
    help="Record sessions and upload what the tier lets out.", no_args_is_help=True, rich_markup_mode=None
)
session_app = typer.Typer(help="Start, log and end sessions.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ccc, name="ccc")
ccc.add_typer(session_app, name="session")
app.add_typer(licence_app, name="license")

STANDARD_INPUT = Path("-")
# The command-line library brings its own copy of click in newer versions; this is the base class in either.
UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]


@contextlib.contextmanager
def recording(settings: Settings, sync: Sync = Sync.NEVER) -> Iterator[Recorder]:
    """The data folder's writer; what it had to mend, and what is behind at its end, is told."""
    recorder = parts().recorder(settings.data, sync)
    for repair in recorder.repairs:
        tell(str(repair))
    with recorder:
        yield recorder
    if recorder.problem:
        tell(f"{recorder.problem}; what was recorded is in the log, and the rest is made from it next time")


@session_app.command("start")
def start(
    repo: Repo = "unknown",
    branch: str = "unknown",
    commit: str = "unknown",
    session_id: SessionId = None,
    metadata: Annotated[str, typer.Option(help="a JSON object")] = "{}",
    data: Data = HERE,
    tier: TierText = "local_only",
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    sync: SyncText = Sync.NEVER,
) -> None:
    """Start a session under the tier, if the licence grants it; prints the session's id."""
    settings = Settings(data, TierName.from_user(tier), licence=licence, keyring=keyring)
    fields = session_fields(repo, branch, commit, session_id)
    if extra := parse_object(metadata.encode(), what="--metadata", limit=LINE_LIMIT):
        fields["metadata"] = extra
    say(start_session(settings, fields, sync).session_id)


def session_fields(repo: str, branch: str, commit: str, session_id: str | None) -> dict[str, Any]:
    """What a caller says of a session; an id that is not given is made up."""
    named = {"session_id": session_id} if session_id else {}
    return {"repo_id": repo, "branch": branch, "commit": commit, **named}


def start_session(settings: Settings, fields: dict[str, Any], sync: Sync) -> Session:
    """Check first, then write."""
    if settings.tier is TierName.LOCAL_ONLY:
        with recording(settings, sync) as recorder:
            return parts().local_client(recorder).start(fields)
    reporting = parts().reporting()
    granted = reporting.tier(settings)
    with recording(settings, sync) as recorder:
        return reporting.session(granted, recorder, fields)


@session_app.command("log")
def log(
    session: Annotated[str, typer.Argument(help="the session's id")],
    source: Turns = STANDARD_INPUT,
    data: Data = HERE,
    tier: TierText = "local_only",
    url: Url = None,
    key_file: KeyFile = None,
    ca: Authority = None,
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    sync: SyncText = Sync.NEVER,
) -> None:
    """Log turns; under the full tier they are streamed, and what cannot be sent now is queued."""
    settings = Settings(data, TierName.from_user(tier), url, key_file, ca, licence, keyring)
    with recording(settings, sync) as recorder:
        recorded, already = log_turns(Session(recorder, session), source)
    say(f"{recorded} recorded, {already} already there")
    if settings.tier is TierName.FULL:
        stream(settings)


def log_turns(session: Session, source: Path) -> tuple[int, int]:
    """Log a turn a line; the first bad one stops, and says what was recorded before it."""
    counts = {Logged.RECORDED: 0, Logged.ALREADY: 0}
    for number, raw in enumerate(input_lines(source), 1):
        try:
            counts[session.log(parse_object(raw, what="the turn", limit=LINE_LIMIT))] += 1
        except AdapterError as problem:
            done = counts[Logged.RECORDED]
            raise BadInputError(f"line {number}: {problem} ({done} turns before it were recorded)") from None
    return counts[Logged.RECORDED], counts[Logged.ALREADY]


def input_lines(source: Path) -> Iterator[bytes]:
    """The lines of a file or of standard input that are not blank, one by one as they come."""
    try:
        with (
            contextlib.nullcontext(sys.stdin.buffer)
            if source == STANDARD_INPUT
            else source.open("rb") as file
        ):
            while line := file.readline(LINE_LIMIT + 1):
                if line.strip():
                    yield line
    except OSError as problem:
        raise explain_os_error(f"read the turns `{source}`", problem) from None


def stream(settings: Settings) -> None:
    """One try to upload while the session runs; trouble is a notice, not a failure: the rows are queued."""
    try:
        reporting = parts().reporting()
        with reporting.uplink(settings, reporting.tier(settings)) as uplink:
            done = uplink.upload(reporting.patience(1))
    except AdapterError as problem:
        tell(f"not uploaded now: {problem}; the turns are in the log and will be queued")
        return
    if done.stopped:
        tell(f"not uploaded now: {done.stopped}; the turns are queued")


@session_app.command("end")
def end(
    session: Annotated[str, typer.Argument(help="the session's id")],
    notes: str = "",
    data: Data = HERE,
    tier: TierText = "local_only",
    url: Url = None,
    key_file: KeyFile = None,
    ca: Authority = None,
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    sync: SyncText = Sync.NEVER,
    tries: Tries = 6,
) -> None:
    """End a session; under a tier that reports, upload. Status 1 when something is still queued."""
    settings = Settings(data, TierName.from_user(tier), url, key_file, ca, licence, keyring)
    with recording(settings, sync) as recorder:
        Session(recorder, session).end(notes)
    say("ended")
    if settings.tier is not TierName.LOCAL_ONLY:
        run_upload(settings, tries, as_json=False)


@session_app.command("run")
def run_session(
    source: Turns = STANDARD_INPUT,
    repo: Repo = "unknown",
    branch: str = "unknown",
    commit: str = "unknown",
    session_id: SessionId = None,
    notes: str = "",
    data: Data = HERE,
    tier: TierText = "local_only",
    url: Url = None,
    key_file: KeyFile = None,
    ca: Authority = None,
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    sync: SyncText = Sync.NEVER,
    tries: Tries = 6,
) -> None:
    """A whole session at once: start it, log the turns, end it, upload what the tier lets out."""
    settings = Settings(data, TierName.from_user(tier), url, key_file, ca, licence, keyring)
    fields = session_fields(repo, branch, commit, session_id)
    session = start_session(settings, fields, sync)
    with recording(settings, sync) as recorder:
        running = Session(recorder, session.session_id)
        recorded, _ = log_turns(running, source)
        running.end(notes)
    say(f"{session.session_id} ended with {recorded} turns")
    if settings.tier is not TierName.LOCAL_ONLY:
        run_upload(settings, tries, as_json=False)


@ccc.command()
def upload(
    data: Data = HERE,
    tier: TierText = "local_only",
    url: Url = None,
    key_file: KeyFile = None,
    ca: Authority = None,
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    usage: Annotated[bool, typer.Option("--usage", help="fetch a usage snapshot too")] = False,
    tries: Tries = 6,
    as_json: AsJson = False,
) -> None:
    """Upload what the tier lets out. Status 1 when something is still queued."""
    settings = Settings(data, TierName.from_user(tier), url, key_file, ca, licence, keyring)
    run_upload(settings, tries, as_json=as_json, usage=usage)


def run_upload(settings: Settings, tries: int, *, as_json: bool, usage: bool = False) -> None:
    """Drain the queue and say what came of it."""
    reporting = parts().reporting()
    with reporting.uplink(settings, reporting.tier(settings)) as uplink:
        done = uplink.upload(reporting.patience(tries))
        snapshot = uplink.channel.usage() if usage else None
    if snapshot is not None:
        add_snapshot(settings.data, snapshot)
    figures = {
        "sent": done.sent,
        "duplicates": done.duplicates,
        "set_aside": done.set_aside,
        "retries": done.retries,
    }
    if as_json:
        say({"schema": "ccc.upload/1", **figures, "stopped": done.stopped})
    else:
        say(f"uploaded {done.sent} rows, {done.duplicates} of them replays")
    if done.set_aside:
        tell(
            f"the CCC rejected {done.set_aside} rows; they are set aside in the queue, see `agentos ccc status`"
        )
    if done.stopped:
        tell(f"still queued: {done.stopped}")
        raise typer.Exit(1)


@ccc.command()
def ingest(
    files: Annotated[list[Path], typer.Argument(help="logs of sessions and turns")],
    usage: Annotated[Path | None, typer.Option(help="a usage snapshot")] = None,
    data: Data = HERE,
) -> None:
    """Take other logs' events in, as local sessions; what is there already counts once."""
    with recording(Settings(data, TierName.LOCAL_ONLY)) as recorder:
        counts = ingest_events(recorder, DataFolder(data).windows, files)
    if usage is not None:
        add_snapshot(data, read_bounded(usage, what="the snapshot"))
    say(counts.render())


@ccc.command()
def status(
    data: Data = HERE,
    tier: TierText = "local_only",
    licence: LicenceFile = None,
    keyring: KeyringFile = None,
    prometheus: Annotated[Path | None, typer.Option(help="write a Prometheus text file")] = None,
    check: Annotated[bool, typer.Option("--check", help="status 1 when something is wrong")] = False,
    max_age: Annotated[float, typer.Option(help="seconds that a row may wait")] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Show the queue, the last error, the tier and the licence."""
    settings = Settings(data, TierName.from_user(tier), licence=licence, keyring=keyring)
    seen = read_status(data, settings.tier, now=utc_now(), licence=licence_state(settings))
    found = problems(seen, max_age=max_age)
    if prometheus is not None:
        write_atomically(prometheus, render_prometheus(seen).encode(), mode=0o644)
    say({**seen.to_json(), "problems": list(found)} if as_json else render_text(seen, found))
    if check and found:
        raise typer.Exit(1)


def licence_state(settings: Settings) -> Licence | None:
    """What a check says now, as a value: a bad licence is news here, not an error."""
    if settings.tier is TierName.LOCAL_ONLY:
        return None
    try:
        grant = parts().reporting().tier(settings).grant
    except AdapterError as problem:
        return Licence(None, None, str(problem))
    return Licence(grant.license_id, grant.expires.isoformat(), None)


@ccc.command()
def rebuild(
    data: Data = HERE,
    check: Annotated[bool, typer.Option("--check", help="compare only; status 1 when they differ")] = False,
) -> None:
    """Fold the whole log anew, and hold the summary to it."""
    folder = DataFolder(data)
    whole, resumed = fold_log(folder.windows, None), fold_log(folder.windows, folder.summary)
    same = whole.rollup.to_json() == resumed.rollup.to_json()
    if not check:
        folder.summary.unlink(missing_ok=True)
        with recording(Settings(data, TierName.LOCAL_ONLY)):
            pass
    say("the summary agrees with the log" if same else "the summary differed from the log")
    if check and not same:
        raise typer.Exit(1)


@ccc.command()
def attribution(
    session: Annotated[str | None, typer.Option(help="one session only")] = None,
    data: Data = HERE,
    as_json: AsJson = False,
) -> None:
    """Whose work the value is: by model, with the sum."""
    turns = [
        event
        for event in iter_events(DataFolder(data).windows)
        if event.get("type") == "turn" and session in {None, event["session_id"]}
    ]
    if session is not None and not turns:
        raise BadInputError(f"the log has no turn of a session `{session}`")
    shares, value = model_value(turns), session_value(turns)
    if as_json:
        say({"schema": "ccc.attribution/1", "value": value, "model_value": shares, "turns": len(turns)})
        return
    for model, part in sorted(shares.items(), key=lambda item: -item[1]):
        say(f"{part:14.6f}  {part / value if value else 0:7.2%}  {model}")
    say(f"{value:14.6f}           total of {len(turns)} turns")


@ccc.command()
def summary(data: Data = HERE) -> None:
    """Print the summary of the log as it is now."""
    folder = DataFolder(data)
    say(render_summary(fold_log(folder.windows, folder.summary).rollup, load_health(folder.snapshots)))


@ccc.command()
def serve(
    key_file: Annotated[Path, typer.Option(help="a file with the bearer key")],
    store: Annotated[Path, typer.Option(help="the SQLite file")],
    listen: Annotated[str, typer.Option(help="127.0.0.1:PORT (0: any) or unix:/PATH")] = "127.0.0.1:0",
    faults: Annotated[str, typer.Option(help="what shall go wrong, e.g. 500*3,lost,slow:2")] = "",
) -> None:
    """Run a small CCC on this machine, to try the adapter against; ends with its standard input."""
    from holdfast.systems.agentos.server import Server, Store, parse_faults

    unix, port = parse_listen(listen)
    kept = Store(store)
    with Server(kept, read_key(key_file), unix=unix, port=port, faults=parse_faults(faults)) as server:
        say(f"listening on {server.address}")
        sys.stdout.flush()
        sys.stdin.buffer.read()
    kept.close()


def parse_listen(text: str) -> tuple[Path | None, int]:
    """`127.0.0.1:PORT` or `unix:/PATH`; no other address, since the key goes over it in the clear."""
    if text.startswith("unix:/"):
        return Path(text.removeprefix("unix:")), 0
    host, _, port = text.rpartition(":")
    if host != "127.0.0.1" or not port.isdigit() or int(port) > 65535:
        raise BadInputError(f"cannot listen on `{text[:80]}`; use 127.0.0.1:PORT or unix:/PATH")
    return None, int(port)


@app.command("backfill")
def backfill_command(
    ccp_root: Annotated[Path, typer.Option(help="the proxy's folder, with logs/archive and results")],
    output: Annotated[Path, typer.Option(help="the summary to write")] = Path(
        "data/integration/ccp_metrics_summary.json"
    ),
    snapshot: Annotated[Path | None, typer.Option(help="a usage snapshot")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Read the proxy's own logs into a summary; what cannot be read is counted, with its place."""
    sources = find_sources(ccp_root)
    progress = Progress(sources.size, None if quiet else sys.stderr)
    result = backfill(sources, progress, snapshot)
    if not dry_run:
        make_folder(output.parent)
        write_json(output, result)
    say(result if dry_run else f"wrote {output}")
    unreadable = result["unreadable"]
    if unreadable["bytes"]:
        first = unreadable["ranges"][0]
        tell(
            f"{unreadable['bytes']} bytes could not be read, the first at byte {first['offset']} of `{first['file']}`;"
            " `unreadable` in the result lists them"
        )


def main(argv: list[str] | None = None, with_parts: Parts | None = None) -> int:
    """Run the command line; the library's own exit codes are mapped to ours."""
    use_parts(with_parts or Parts())
    try:
        return int(app(argv, standalone_mode=False, prog_name="agentos") or 0)
    except (Exception, KeyboardInterrupt) as problem:  # noqa: BLE001 - the last line of defence: no traceback, no secret
        status_, notice = explain(problem)
    if notice:
        tell(notice)
    return status_


def explain(problem: BaseException) -> tuple[int, str | None]:
    """The exit status of what was raised, and the line for the user."""
    match problem:
        case typer.Exit():
            return int(problem.exit_code), None
        case UsageProblem():
            return 64, str(getattr(problem, "format_message", problem.__str__)())
        case AdapterError():
            return problem.status, str(problem)
        case KeyboardInterrupt() | typer.Abort():
            return 130, "interrupted"
        case _:
            name = type(problem).__name__
            return 70, f"our own fault: {name} in the adapter; nothing acknowledged is lost, please report it"


def run() -> None:
    """The entry point."""
    sys.exit(main())
