"""`python -m holdfast.bench [NAME ...]`: run every bench, or the named ones; print a table, write JSON."""

import dataclasses
import importlib
import json
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from holdfast.bench.row import Row

HERE = Path(__file__).parent
RESULTS = Path("results") / "BENCH.json"
WORDS = {True: "holds", False: "falls short", None: ""}


def bench_names() -> list[str]:
    """The benches that lie beside this module, by name."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def measure(name: str) -> list[Row]:
    """All rows of one bench."""
    return list(importlib.import_module(f"holdfast.bench.bench_{name}").measure())


def render(rows: dict[str, list[Row]]) -> Table:
    """The table that a person reads."""
    table = Table("bench", "figure", "measured", "promised", "", "note", title="holdfast bench")
    for bench, figures in rows.items():
        for row in figures:
            promised = "" if row.limit is None else f"{'>=' if row.more_is_better else '<='} {row.limit:g}"
            table.add_row(bench, row.name, row.shown, promised, WORDS[row.holds], row.note)
    return table


def main(wanted: list[str]) -> int:
    """Run; 0 when every promise holds, 1 when one falls short, 64 for a name that is not there."""
    known = bench_names()
    if unknown := sorted(set(wanted) - set(known)):
        print(f"holdfast: no bench named `{unknown[0]}`; there are: {', '.join(known)}", file=sys.stderr)
        return 64
    rows = {name: measure(name) for name in wanted or known}
    Console(width=None if sys.stdout.isatty() else 160).print(render(rows))
    RESULTS.parent.mkdir(exist_ok=True)
    written = {name: [{**dataclasses.asdict(r), "holds": r.holds} for r in rs] for name, rs in rows.items()}
    machine = {"kernel": platform.release(), "cores": os.cpu_count(), "python": platform.python_version()}
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine, "rows": written}, indent=1))
    temporary.replace(RESULTS)
    return 1 if any(row.holds is False for figures in rows.values() for row in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
