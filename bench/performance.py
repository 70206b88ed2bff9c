"""`python -m holdfast.bench.performance`: results/BENCH.json -> docs/PERFORMANCE.md, and nothing by hand.

The document says on which machine the figures were taken and by which command, what was promised beside what
was measured, and what was not measured.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["main", "render_performance"]

DOCUMENT = Path("docs") / "PERFORMANCE.md"
_WORDS = {True: "holds", False: "**falls short**", None: ""}


def render_performance(found: Mapping[str, Any]) -> str:
    """The document, from what a bench run has written."""
    machine, rows = found["machine"], found["rows"]
    where = f"Linux {machine['kernel']}, {machine['cores']} cores, CPython {machine['python']}"
    lines = [
        "# Performance",
        f"Taken on {where}. A program writes this page from one run; the clock is outside what is measured.",
        "",
        "```sh",
        "tools/setup.sh peers                          # nginx, wrk and the other peers",
        f"python -m holdfast.bench {' '.join(rows)}",
        "python -m holdfast.bench.performance          # writes this page",
        "```",
    ]
    for bench, figures in rows.items():
        lines += ["", f"## {bench}", "| figure | measured | promised | | how |", "|---|---|---|---|---|"]
        lines += [_line(figure) for figure in figures]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    value, limit = row["value"], row["limit"]
    measured = "not measured" if value is None else f"{value:.4g} {row['unit']}"
    sign = "at least" if row["more_is_better"] else "at most"
    promised = "" if limit is None else f"{sign} {limit:g} {row['unit']}"
    cells = (row["name"], measured, promised, _WORDS[row["holds"]], row["note"])
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    """Render the given results, or `results/BENCH.json`, to `docs/PERFORMANCE.md`; 0, or 64 without a run."""
    source = Path(arguments[0]) if arguments else Path("results") / "BENCH.json"
    try:
        text = render_performance(json.loads(source.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        print(f"holdfast: `{source}` is no bench run; run `python -m holdfast.bench` first", file=sys.stderr)
        return 64
    temporary = DOCUMENT.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(DOCUMENT)
    print(f"written: {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
