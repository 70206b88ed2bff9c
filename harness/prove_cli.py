"""`holdfast prove`: what a filter's own BPF allows, proven or refuted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import typer
from rich.console import Console

from holdfast.harness.prove_report import Report, exit_code, render_comparison, render_json, render_table
from holdfast.sandbox.bpf.abi import Abi, host_abis, parse_abis
from holdfast.sandbox.bpf.acts import FIVE, OUT_OF_SIGHT, find_acts
from holdfast.sandbox.bpf.attempt import Attempt
from holdfast.sandbox.bpf.disassemble import disassemble
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.proof import Proof, Verdict
from holdfast.sandbox.bpf.prove import prove as prove_sets
from holdfast.sandbox.bpf.query import parse_query
from holdfast.sandbox.bpf.relation import Relation, compare
from holdfast.sandbox.bpf.source import Subject, load_compiled, load_live, load_raw, load_source
from holdfast.sandbox.refusal import BadInputError, SandboxError

__all__ = ["app", "prove"]

app = typer.Typer(add_completion=False)
BAD_INPUT, CANNOT_TELL = 64, 2
PIPE_WIDTH = 200


@final
@dataclass(frozen=True, slots=True)
class _Asked:
    """How the questions are to be put."""

    abis: tuple[Abi, ...]
    timeout_ms: int
    replayed: bool


@app.command()
def prove(
    *,
    profile: Annotated[
        str, typer.Option(help="OCI JSON, a runtime config.json, or one of ours by name")
    ] = "",
    bpf: Annotated[str, typer.Option(help="raw filter, eight bytes an instruction")] = "",
    pid: Annotated[str, typer.Option(help="the live filters of a process, every thread")] = "",
    act: Annotated[list[str] | None, typer.Option(help="act or family; repeatable")] = None,
    everything: Annotated[bool, typer.Option("--all", help="the whole catalogue")] = False,
    can: Annotated[list[str] | None, typer.Option(help="can this call pass? `ioctl(TIOCSTI)`")] = None,
    equivalent: Annotated[tuple[str, str] | None, typer.Option(help="two sources: same effect?")] = None,
    stricter: Annotated[
        tuple[str, str] | None,
        typer.Option(help="is every call that the first lets pass let pass by the second?"),
    ] = None,
    abi: Annotated[str, typer.Option(help="x86_64,i386,x32,aarch64; this machine's by default")] = "",
    timeout: Annotated[float, typer.Option(help="seconds for each question", min=0.001, max=3600)] = 10.0,
    replay: Annotated[bool, typer.Option(help="show counterexamples to the kernel")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
    listing: Annotated[bool, typer.Option("--disassemble", help="print the filter and stop")] = False,
) -> None:
    """Prove what a seccomp filter denies; 0 proven, 1 a counterexample, 2 cannot tell.

    A source is a profile, `PATH.bpf`, or `pid:N`; the default is the profile `standard`.
    """
    try:
        asked = _Asked(parse_abis(abi) if abi else host_abis(), max(1, round(timeout * 1000)), replay)
        relations = [
            (r, p) for r, p in ((Relation.EQUIVALENT, equivalent), (Relation.STRICTER, stricter)) if p
        ]
        asking = act or everything or can or as_json
        _check_usage(relations, profile or bpf or pid or listing or asking, listing and asking)
        if relations:
            code = max(_print_relation(relation, *pair, asked) for relation, pair in relations)
        else:
            subject = _one_subject(profile, bpf, pid)
            sets = _wanted(act or [], can or [], everything)
            code = (
                _print_listing(subject) if listing else _print_proofs(subject, sets, asked, as_json=as_json)
            )
    except SandboxError as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(BAD_INPUT if isinstance(error, BadInputError) else CANNOT_TELL) from None
    raise typer.Exit(code)


def _check_usage(relations: Sequence[object], beside: object, listing_beside: object) -> None:
    """Refuse what would be ignored: a question that is not answered must not look answered."""
    if len(relations) > 1:
        raise BadInputError(
            "`--equivalent` and `--stricter` exclude each other", hint="ask one after the other"
        )
    if relations and beside:
        raise BadInputError(
            "`--equivalent` and `--stricter` stand alone", hint="they take their two sources themselves"
        )
    if listing_beside:
        raise BadInputError("`--disassemble` stands alone", hint="it prints one source and asks nothing")


def _one_subject(profile: str, bpf: str, pid: str) -> Subject:
    if len([word for word in (profile, bpf, pid) if word]) > 1:
        raise BadInputError("`--profile`, `--bpf` and `--pid` exclude each other", hint="give one source")
    if bpf:
        return load_raw(bpf)
    return load_live(pid) if pid else load_compiled(profile or "standard")


def _wanted(acts: list[str], queries: list[str], everything: bool) -> dict[str, tuple[Attempt, ...]]:
    """What to ask; the five families when nothing is named."""
    for word in acts:
        if word in OUT_OF_SIGHT:
            raise BadInputError(f"no filter can hold `{word}`", hint=OUT_OF_SIGHT[word])
    sets = {query: (parse_query(query),) for query in queries}
    named = None if everything else acts or ([] if queries else FIVE)
    return {**sets, **{found.id: found.attempts for found in find_acts(named)}}


def _print_proofs(
    subject: Subject, sets: Mapping[str, tuple[Attempt, ...]], asked: _Asked, *, as_json: bool
) -> int:
    proofs = tuple(_prove_stack(stack, sets, asked) for stack in subject.stacks)
    report = Report(subject, asked.abis, proofs)
    if as_json:
        typer.echo(render_json(report))
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=PIPE_WIDTH)
        console.print(render_table(report))
        counts = {v.value: list(report.verdicts.values()).count(v) for v in Verdict}
        console.print(", ".join(f"{count} {word}" for word, count in counts.items() if count))
    return exit_code(tuple(report.verdicts.values()))


def _prove_stack(
    stack: tuple[bytes, ...], sets: Mapping[str, tuple[Attempt, ...]], asked: _Asked
) -> dict[str, Proof]:
    return prove_sets(stack, sets, abis=asked.abis, timeout_ms=asked.timeout_ms, replayed=asked.replayed)


def _print_relation(relation: Relation, first: str, second: str, asked: _Asked) -> int:
    stacks = [_one_stack(load_source(source)) for source in (first, second)]
    comparison = compare(relation, *stacks, abis=asked.abis, timeout_ms=asked.timeout_ms)
    typer.echo(render_comparison(relation, first, second, comparison))
    return exit_code((comparison.verdict,))


def _one_stack(subject: Subject) -> tuple[bytes, ...]:
    if len(subject.stacks) != 1:
        raise BadInputError(
            f"the threads of `{subject.source}` are under different filters",
            hint="compare two raw filters instead",
        )
    return subject.stacks[0]


def _print_listing(subject: Subject) -> int:
    for stack in subject.stacks:
        for position, raw in enumerate(stack):
            typer.echo(f"; {subject.source}, filter {position + 1} of {len(stack)}, oldest first")
            typer.echo("\n".join(disassemble(decode(raw))))
    return 0
