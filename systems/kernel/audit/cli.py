"""`agent-kernel audit`: verify, show, export, prove, redecide. Reading only; no private key is needed."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from holdfast.records.checkpoint import Verifier
from holdfast.systems.kernel.audit.read import (
    check_consistency,
    check_proof,
    iter_entries,
    prove,
    prove_consistency,
)
from holdfast.systems.kernel.audit.redecide import redecide
from holdfast.systems.kernel.audit.seal import read_witness
from holdfast.systems.kernel.audit.verify import Verdict, verify

__all__ = ["audit"]

audit = typer.Typer(help="Verify and read audit logs.", no_args_is_help=True)

EXITS: Final = {Verdict.OK: 0, Verdict.UNSEALED_TAIL: 2, Verdict.BREAK_RECORDED: 2, Verdict.EMPTY: 2}
"""Any other verdict: 1."""

Log = Annotated[Path, typer.Argument(help="the log's database file")]
Key = Annotated[str, typer.Option(help="the log's verifier key, `name+hash+base64`, or @FILE that holds it")]


def _verifier(key: str) -> Verifier:
    return Verifier.parse(Path(key[1:]).read_text() if key.startswith("@") else key)


@audit.command(name="verify")
def verify_command(
    log: Log,
    key: Key,
    witness: Annotated[Path | None, typer.Option(help="checkpoints kept elsewhere")] = None,
    incremental: Annotated[bool, typer.Option(help="only from the last checkpoint on")] = False,
) -> None:
    """Judge LOG: exit 0 ok, 1 tampered with, 2 when part of it cannot be told."""
    notes = [] if witness is None else read_witness(witness)
    report = verify(log, _verifier(key), notes, incremental=incremental)
    typer.echo(f"{report.verdict.value}: {report.message}")
    typer.echo(f"{report.entries} entries, {report.sealed} sealed, {report.checked} checked in this run")
    for first, last in report.declared:
        typer.echo(f"ids {first} to {last} were declared lost by the start after a crash")
    if witness is None:
        typer.echo("no witness was given: a rolled back or wholly replaced log would not show")
    else:
        typer.echo(f"held against {len(notes)} checkpoints of the witness")
    code = EXITS.get(report.verdict, 1)
    raise typer.Exit(2 if witness is not None and not notes and code == 0 else code)


@audit.command()
def show(log: Log, last: Annotated[int, typer.Option(min=1, help="how many of the newest")] = 20) -> None:
    """Print the newest entries of LOG, one a line, control characters escaped."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for entry in iter_entries(log, last=last):
        body = entry.body
        words = (
            body["time"],
            body["event"],
            body["caller"],
            body["subject"],
            body["decision"] or "",
            body["input"],
        )
        console.print(f"{entry.id:>8}  " + "  ".join(json.dumps(word)[1:-1] for word in words))


@audit.command()
def export(log: Log, after: Annotated[int, typer.Option(min=0, help="only ids above this")] = 0) -> None:
    """Write LOG as JSON lines, oldest first."""
    for entry in iter_entries(log, after=after):
        typer.echo(json.dumps(entry.document(), ensure_ascii=False, sort_keys=True))


@audit.command(name="prove")
def prove_command(log: Log, entry: Annotated[int, typer.Argument(help="the entry's id", min=1)]) -> None:
    """Write an inclusion proof of ENTRY as JSON; `check-proof` needs it and the key, and no log."""
    typer.echo(json.dumps(prove(log, entry), ensure_ascii=False, indent=1))


@audit.command(name="check-proof")
def check_proof_command(proof: Annotated[Path, typer.Argument(help="what `prove` wrote")], key: Key) -> None:
    """Check an inclusion proof offline, and print the entry that it proves."""
    entry = check_proof(json.loads(proof.read_text()), _verifier(key))
    typer.echo(json.dumps(entry, ensure_ascii=False, indent=1, sort_keys=True))


@audit.command()
def consistency(
    log: Log,
    key: Key,
    old: Annotated[Path, typer.Argument(help="a file with an earlier checkpoint of this log")],
) -> None:
    """Prove that nothing before the checkpoint OLD was changed; checked here too, and JSON for others."""
    notes = read_witness(old) or [old.read_text()]
    proof = prove_consistency(log, notes[0], _verifier(key))
    check_consistency(proof, _verifier(key))
    typer.echo(json.dumps(proof, ensure_ascii=False, indent=1))


@audit.command(name="redecide")
def redecide_command(log: Log) -> None:
    """Make every decision in LOG again; exit 1 when one differs, 2 when there is none."""
    tally = redecide(log)
    for difference in tally.differences:
        typer.echo(f"entry {difference.id}: {difference.message}")
    typer.echo(f"{tally.decisions} decisions made again, {len(tally.differences)} differ")
    raise typer.Exit(1 if tally.differences else 0 if tally.decisions else 2)
