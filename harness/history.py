"""Kept results: a short record of each run, and a page with small charts over them.

remember(...)    -> {name: text}    to be written with the run's other files
read_history(...) -> Record, ...    oldest first
render_history(records) -> HTML
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from holdfast.harness.report.dossier import tone_of
from holdfast.harness.report.html import render_page
from holdfast.harness.results import render_document, validate_document

__all__ = ["KEPT", "Record", "forget", "read_history", "remember", "render_history"]

FOLDER = "history"
KEPT = 60
"""Records; the oldest go first."""


def remember(
    results: Path, name: str, metrics: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """This run's record, by the path within `results` that it belongs at."""
    (results / FOLDER).mkdir(parents=True, exist_ok=True)
    by_isolation = {document["isolation"]: document for document in documents.values()}
    record = {
        "schema": "holdfast.history/1",
        "name": name,
        "run": metrics["run"],
        "exit_code": metrics["exit_code"],
        "live": metrics["live"],
        "gates": {gate: told["outcome"] for gate, told in metrics["gates"].items()},
        "families": {i: document["families"] for i, document in by_isolation.items()},
        "acts": {i: document["acts"] for i, document in by_isolation.items()},
        "lanes": metrics["lanes"],
    }
    return {f"{FOLDER}/{metrics['run']['id']}-{name}.json": render_document(record)}


def forget(results: Path, *, keep: int = KEPT) -> None:
    """Remove the oldest records past `keep`; their names sort by time."""
    for path in sorted((results / FOLDER).glob("*.json"))[:-keep]:
        path.unlink(missing_ok=True)


@final
@dataclass(frozen=True, slots=True)
class Record:
    """One run, as it is drawn."""

    name: str
    run_id: str
    started: str
    code: int
    gates: Mapping[str, str]
    families: Mapping[str, Mapping[str, str]]
    lanes: Mapping[str, Mapping[str, Any]]


def read_history(results: Path) -> tuple[Record, ...]:
    """Every record that keeps to its schema, oldest first; one that does not is passed over."""
    records = []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            validate_document(told)
        except (OSError, ValueError, KeyError):
            continue
        run = told["run"]
        records.append(
            Record(
                told["name"],
                run["id"],
                run["started"],
                told["exit_code"],
                told["gates"],
                told["families"],
                told["lanes"],
            )
        )
    return tuple(records)


@final
@dataclass(frozen=True, slots=True)
class Strip:
    """One thing over time: a word a run, empty where the run did not judge it."""

    label: str
    words: tuple[str, ...]

    @property
    def tones(self) -> tuple[tuple[str, str], ...]:
        """(word, how it looks)"""
        return tuple((word, tone_of(word) if word else "none") for word in self.words)


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A figure over time, as points of a polyline in a box of 100 by 24."""

    label: str
    latest: str
    points: str


def render_history(records: Sequence[Record]) -> str:
    """`results/HISTORY.html`."""
    gates = dict.fromkeys(gate for record in records for gate in record.gates)
    families = dict.fromkeys((i, f) for record in records for i, own in record.families.items() for f in own)
    return render_page(
        "history.html.j2",
        records=records,
        gates=[
            Strip(gate, tuple(r.gates.get(gate, "").replace("_", " ") for r in records)) for gate in gates
        ],
        families=[
            Strip(
                f"{f} under {i}", tuple(r.families.get(i, {}).get(f, "").replace("_", " ") for r in records)
            )
            for i, f in families
        ],
        lines=[line for lane in _lanes(records) for line in _lines(records, lane)],
    )


def _lanes(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(lane for record in records for lane in record.lanes))


def _lines(records: Sequence[Record], lane: str) -> list[Line]:
    found = []
    for figure in ("ttfb_ms", "latency_ms"):
        values = [
            float(record.lanes[lane][figure]["p50"])
            for record in records
            if "p50" in record.lanes.get(lane, {}).get(figure, {})
        ]
        if values:
            words = f"{lane}: {'first byte' if figure == 'ttfb_ms' else 'whole answer'}"
            found.append(Line(words, f"{values[-1]:.1f} ms", points_of(values)))
    return found


def points_of(values: Sequence[float]) -> str:
    """Scaled to the box, zero at its foot; one value is a level line."""
    top = max(values) or 1.0
    spread = values if len(values) > 1 else (*values, *values)
    step = 100 / (len(spread) - 1)
    return " ".join(f"{index * step:.1f},{23 - value / top * 21:.1f}" for index, value in enumerate(spread))
