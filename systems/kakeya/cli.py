"""The command `kakeya`: the service, and each control by itself.

Exit codes: 0 done; 1 a check failed (a broken log); 64 bad usage or bad input; 70 our own fault.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.systems.kakeya import quickstart, simulation
from holdfast.systems.kakeya.batch import run_batch
from holdfast.systems.kakeya.dedup import StoreUnavailableError
from holdfast.systems.kakeya.policy import PolicyError, load_policy
from holdfast.systems.kakeya.routing.worm import BrokenLogError, Head, verify_log

__all__ = ["main", "run_command"]

app = typer.Typer(
    name="kakeya",
    help="Verification controls: ECVRF, grounding overlap, gateway identity, risk routing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
flags = typer.Typer(
    help="Look at a policy's flags, change one, take the last change back.", no_args_is_help=True
)
app.add_typer(flags, name="flags")

PolicyPath = Annotated[
    Path, typer.Option("--policy", help="The policy file; secrets stand in files beside it.")
]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder for a policy and fresh keys.")]) -> None:
    """Lay out a policy with one tenant to start from."""
    print(quickstart.lay_out(folder))  # noqa: T201 - the command's answer


@app.command()
def serve(
    policy: PolicyPath,
    data: Annotated[Path, typer.Option(help="Folder for the inbox, the decision log and the first writes.")],
    unix: Annotated[Path | None, typer.Option(help="Listen on this Unix socket.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Listen on this port of 127.0.0.1; 0 picks one.", min=0, max=65535)
    ] = None,
    lifeline: Annotated[
        Path | None, typer.Option(help="Stop when this Unix socket's other end is closed.")
    ] = None,
) -> None:
    """Serve POST /v1/verify, /healthz, /readyz, /metrics and /openapi.json until told to stop."""
    from holdfast.systems.kakeya.service import serve as run_service

    if unix is None and port is None:
        raise typer.BadParameter("nothing to listen on; give `--unix PATH`, `--port N` or both")
    run_service(policy, data, unix=unix, port=port, lifeline=lifeline)


@app.command()
def authorize(
    policy: PolicyPath,
    unix: Annotated[Path, typer.Option(help="Listen on this Unix socket, for the gateway alone.")],
) -> None:
    """Answer a gateway's auth_request: verify the bearer token, hand back a signed stamp."""
    from holdfast.systems.kakeya.service.authorize import serve_authorizer

    serve_authorizer(load_policy(policy), unix)


@app.command()
def batch() -> None:
    """JSON lines on standard input, one answer a line: vrf.prove, vrf.verify, overlap, route, pcs.sign."""
    for line in run_batch(sys.stdin.buffer):
        sys.stdout.write(line + "\n")


@app.command()
def simulate(
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Vary each axis, one at a time.")
    ] = False,
) -> None:
    """Risk routing on the committed distributions, as JSON."""
    setting, axes = simulation.committed()
    if not sensitivity:
        sys.stdout.write(json.dumps(_outcome(simulation.run(setting)), indent=1) + "\n")
        return
    for axis, value, outcome in simulation.sensitivity(setting, axes):
        sys.stdout.write(json.dumps({"axis": axis, "value": value, **_outcome(outcome)}) + "\n")


@app.command("verify-log")
def verify_decisions(
    folder: Annotated[Path, typer.Argument(help="The folder `decisions` of a service's data.")],
    in_use: Annotated[bool, typer.Option("--in-use", help="Let the last segment be open.")] = False,
    head: Annotated[
        str, typer.Option(help="ENTRIES:HASH, kept elsewhere, that the chain must pass through.")
    ] = "",
) -> None:
    """Walk the hash chain of a decision log; print its head."""
    if not folder.is_dir():
        raise typer.BadParameter(f"`{folder}` is not a folder")
    found = verify_log(folder, expected=_head(head), open_tail=in_use)
    print(f"{found.entries}:{found.hash}")  # noqa: T201 - the command's answer


@app.command("check-policy")
def check_policy(policy: PolicyPath) -> None:
    """Load a policy as the service would, and say what is in it."""
    loaded = load_policy(policy)
    print(f"{policy}: {len(loaded.tenants)} tenants, store `{loaded.dedup.partition(':')[0]}`")  # noqa: T201 - the answer


@flags.command("show")
def flags_show(policy: PolicyPath) -> None:
    """Each tenant's controls, as JSON."""
    loaded = load_policy(policy)
    shown = {
        name: {
            "vrf": {"required": t.vrf.required, "mode": t.vrf.mode.value, "keys": len(t.vrf.keys)},
            "rag": dataclasses.asdict(t.rag),
            "riskRouting": dataclasses.asdict(t.risk),
            "identity": {"token": t.token.value},
            "canary": dict(t.canary),
        }
        for name, t in loaded.tenants.items()
    }
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")


@flags.command("set")
def flags_set(
    policy: PolicyPath,
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    key: Annotated[str, typer.Argument(help="`vrf.mode`, `riskRouting.canary`, ...")],
    value: Annotated[str, typer.Argument(help="As JSON; a bare word is text.")],
) -> None:
    """Change one flag; the policy before stays beside it. A running service takes it with its next request."""
    from holdfast.systems.kakeya.policy.edit import set_flag

    set_flag(policy, tenant, key, _json_or_word(value))


@flags.command("rollback")
def flags_rollback(policy: PolicyPath) -> None:
    """Take the last change back."""
    from holdfast.systems.kakeya.policy.edit import roll_back

    roll_back(policy)


def main() -> None:
    """The entry point: codes and lines as the module's head says."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """One command line's exit code; what it prints goes to the standard streams."""
    try:
        app(arguments, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:  # noqa: BLE001 - a traceback is no message; each gets its code and its line
        return _say(*_blame(error))
    return 0


def _blame(error: Exception) -> tuple[int, str]:
    """Whose fault it is, as an exit code, and the line that says so."""
    match error:
        case BrokenLogError():
            return 1, str(error)
        case PolicyError() | ValueError() | OSError() | StoreUnavailableError():
            return 64, str(error)
        case typer.BadParameter(param=None):
            return 64, error.message
        case _ if isinstance(error, _USAGE_ERROR):
            return (
                64,
                error.format_message() or "no command was given; one of those above, or `kakeya --help`",
            )
        case _:
            return 70, f"our own fault: {type(error).__name__}: {error}"


# typer brings its own copy of click, or did not yet: this is the base of usage errors in either.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]


def _say(code: int, message: str) -> int:
    sys.stderr.write(f"kakeya: {message[:1].lower()}{message[1:]}\n")
    return code


def _head(text: str) -> Head | None:
    if not text:
        return None
    entries, _, digest = text.partition(":")
    if not entries.isdigit() or len(digest) != 64:
        raise typer.BadParameter(f"`{text}` is no head; write ENTRIES:HASH as this command prints it")
    return Head(int(entries), digest)


def _json_or_word(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _outcome(outcome: simulation.Outcome) -> dict[str, float]:
    figures = dataclasses.asdict(outcome)
    return {
        **figures,
        "gain_percent": outcome.gain_percent,
        "containment_delta_points": outcome.containment_delta_points,
    }
