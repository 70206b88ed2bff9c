"""The matrix as a page: one document in, Markdown or a self-contained HTML heat map out; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import jinja2

from holdfast.harness.report.render import cell, plain

__all__ = ["View", "render_matrix_html", "render_matrix_markdown", "view_of"]

STATE_WORDS: Mapping[str, str] = {
    "held": "held",
    "breached": "breached",
    "open": "open",
    "vacuous": "vacuous",
    "absent": "absent",
    "cannot_tell": "cannot tell",
}
LAYER_WORDS: Mapping[str, str] = {
    "rest": "other layers",
    "together": "only together",
}


@final
@dataclass(frozen=True, slots=True)
class CellView:
    """One cell in words."""

    state: str
    word: str
    by: str
    """What holds it, or how far a breach goes; empty when that was not measured."""
    proven: bool
    deep: bool
    """One defence deep."""
    tip: str


@final
@dataclass(frozen=True, slots=True)
class RowView:
    """One act across the sandboxes."""

    act: str
    family: str
    words: str
    cells: tuple[CellView, ...]


@final
@dataclass(frozen=True, slots=True)
class View:
    """All that a rendering needs."""

    columns: tuple[Mapping[str, Any], ...]
    missing: tuple[Mapping[str, Any], ...]
    rows: tuple[RowView, ...]
    totals: tuple[Mapping[str, int], ...]
    host: tuple[tuple[str, str], ...]
    run: Mapping[str, str]
    profile: str


def view_of(document: Mapping[str, Any]) -> View:
    """Put a matrix document into words."""
    shown = tuple(c for c in document["columns"] if c["status"] != "missing")
    cells = {(c["act"], c["column"]): c for c in document["cells"]}
    rows = tuple(
        RowView(
            row["act"], row["family"], row["words"], tuple(_view(cells[row["act"], c["name"]]) for c in shown)
        )
        for row in document["rows"]
    )
    totals = tuple(
        {state: sum(row.cells[i].state == state for row in rows) for state in STATE_WORDS}
        for i in range(len(shown))
    )
    profile = document["profile"]
    return View(
        shown,
        tuple(c for c in document["columns"] if c["status"] == "missing"),
        rows,
        totals,
        _host_rows(document["host"]),
        document["run"],
        f"{profile['path']} (sha256 {profile['sha256'][:16]}…)" if profile else "none",
    )


def _view(cell: Mapping[str, Any]) -> CellView:
    layers = [LAYER_WORDS.get(word, word) for word in cell["held_by"] or ()]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in cell["counts"].items())
    proof = {
        "proven": "the live filter is proven to admit no such call",
        "counterexample": "the live filter admits",
    }
    parts = [
        counts,
        cell["reason"],
        f"{proof[cell['proof']]}: {cell['proof_reason']}" if cell["proof"] in proof else "",
    ]
    return CellView(
        cell["state"],
        STATE_WORDS[cell["state"]],
        " or ".join(layers) or ("reach only" if cell["breach"] == "reach" else ""),
        cell["proof"] == "proven",
        cell["one_defence_deep"],
        plain(". ".join(part for part in parts if part))[:900],
    )


def _host_rows(host: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = [
        ("kernel", f"{host['kernel']} {host['machine']}"),
        ("user", "root" if host["uid"] == 0 else f"uid {host['uid']}"),
        (
            "seccomp around the harness",
            {0: "none", 1: "strict", 2: "a filter"}[host["seccomp_around_harness"]],
        ),
    ]
    known = [(name, "not on this kernel" if v is None else str(v)) for name, v in host["confounders"].items()]
    return (*rows, *known)


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,  # noqa: S701 - the Markdown page escapes by its `cell` filter instead
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: plain(value) if isinstance(value, str) else value,
    )
    environment.filters |= {"cell": cell, "plain": plain}
    return environment


def render_matrix_markdown(document: Mapping[str, Any]) -> str:
    """`MATRIX.md`."""
    return _environment(autoescape=False).get_template("matrix.md.j2").render(view=view_of(document))


def render_matrix_html(document: Mapping[str, Any]) -> str:
    """`MATRIX.html`: no address in it, nothing is loaded from anywhere."""
    return _environment(autoescape=True).get_template("matrix.html.j2").render(view=view_of(document))
