"""What `holdfast prove` says, as values: JSON for scripts, a table for people. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from rich.markup import escape
from rich.table import Table

from holdfast.sandbox.bpf.abi import Abi, syscall_name
from holdfast.sandbox.bpf.action import describe
from holdfast.sandbox.bpf.proof import Counterexample, Proof, Verdict
from holdfast.sandbox.bpf.relation import Comparison, Relation
from holdfast.sandbox.bpf.source import Subject

__all__ = ["SCHEMA", "Report", "exit_code", "render_comparison", "render_json", "render_table"]

SCHEMA = "holdfast.proof/1"
COLOURS = {
    Verdict.PROVEN: "green",
    Verdict.COUNTEREXAMPLE: "red",
    Verdict.CANNOT_TELL: "yellow",
    Verdict.NOT_RUN: "dim",
}


@final
@dataclass(frozen=True, slots=True)
class Report:
    """One run over one source."""

    subject: Subject
    abis: tuple[Abi, ...]
    proofs: tuple[Mapping[str, Proof], ...]
    """For each stack of the subject, each act's or query's proof."""

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Over all stacks: the word that wins."""
        names = dict.fromkeys(name for stack in self.proofs for name in stack)
        return {
            name: next(v for v in Verdict if any(stack[name].verdict is v for stack in self.proofs))
            for name in names
        }


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 when all is proven, 1 for a counterexample, 2 otherwise; nothing asked is nothing told."""
    if Verdict.COUNTEREXAMPLE in verdicts:
        return 1
    return 0 if verdicts and set(verdicts) == {Verdict.PROVEN} else 2


def render_table(report: Report) -> Table:
    """One row an act, one column an ABI; what refutes it, or why it cannot be told, at the end."""
    table = Table("act", *(abi.value for abi in report.abis), "by what, or why", title=_title(report))
    for number, stack in enumerate(report.proofs):
        if len(report.proofs) > 1:
            table.add_section()
            table.add_row(f"[bold]stack {number + 1}[/bold]")
        for name, proof in stack.items():
            by_abi = dict(proof.by_abi)
            cells = [_word(by_abi.get(abi, proof.verdict)) for abi in report.abis]
            table.add_row(escape(name), *cells, escape(_because(proof)))
    return table


def render_comparison(relation: Relation, first: str, second: str, comparison: Comparison) -> str:
    """One line for the verdict, one for each difference."""
    claim = {
        Relation.EQUIVALENT: f"`{first}` has the same effect as `{second}`",
        Relation.STRICTER: f"`{first}` is at least as strict as `{second}`",
    }[relation]
    word = "refuted" if comparison.verdict is Verdict.COUNTEREXAMPLE else comparison.verdict.value
    details = [str(d) for d in comparison.differences] or [comparison.reason]
    return "\n".join([f"{claim}: {word}", *(f"  {detail}" for detail in details)])


def render_json(report: Report) -> str:
    """The same for scripts; `docs/schemas/proof-1.json` describes it."""
    stacks = [
        {
            "filters": [
                {"sha256": digest, "instructions": len(raw) // 8}
                for digest, raw in zip(digests, stack, strict=True)
            ],
            "acts": {name: _proof_json(proof) for name, proof in proofs.items()},
        }
        for digests, stack, proofs in zip(
            report.subject.digests, report.subject.stacks, report.proofs, strict=True
        )
    ]
    verdicts = report.verdicts
    document = {
        "schema": SCHEMA,
        "source": report.subject.source,
        "abis": [abi.value for abi in report.abis],
        "acts": {name: verdict.value for name, verdict in verdicts.items()},
        "stacks": stacks,
        "exit_code": exit_code(tuple(verdicts.values())),
    }
    return json.dumps(document, indent=1)


def _title(report: Report) -> str:
    sizes = [
        " + ".join(str(len(raw) // 8) for raw in stack) or "no filter" for stack in report.subject.stacks
    ]
    return escape(f"{report.subject.source}: {'; '.join(sizes)} instructions")


def _word(verdict: Verdict) -> str:
    return f"[{COLOURS[verdict]}]{verdict.value}[/]"


def _because(proof: Proof) -> str:
    match proof.verdict:
        case Verdict.PROVEN:
            return ""
        case Verdict.COUNTEREXAMPLE:
            first, *others = proof.counterexamples
            return f"{first}{f' (and {len(others)} more)' if others else ''}"
        case Verdict.CANNOT_TELL | Verdict.NOT_RUN:
            return proof.reason


def _proof_json(proof: Proof) -> dict[str, Any]:
    return {
        "verdict": proof.verdict.value,
        "reason": proof.reason,
        "questions": proof.questions,
        "by_abi": {abi.value: verdict.value for abi, verdict in proof.by_abi},
        "counterexamples": [_counterexample_json(c) for c in proof.counterexamples],
    }


def _counterexample_json(counterexample: Counterexample) -> dict[str, Any]:
    call = counterexample.call
    return {
        "abi": counterexample.abi.value,
        "syscall": syscall_name(counterexample.abi, call.nr),
        "nr": call.nr,
        "arch": f"0x{call.arch:08x}",
        "args": [f"0x{a:x}" for a in call.args],
        "instruction_pointer": f"0x{call.ip:x}",
        "action": describe(counterexample.answer),
        "replay": {
            "outcome": counterexample.replay.outcome.value,
            "reason": counterexample.replay.reason,
        },
    }
