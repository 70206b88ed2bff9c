"""Render the README's picture from a real run: `python tools/picture.py docs/report.svg`."""

import io
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from holdfast.harness.campaign import Wanted
from holdfast.harness.cli import load_suites
from holdfast.harness.conclude import conclude
from holdfast.harness.narrate import Narrator
from holdfast.harness.run_id import begin_run
from holdfast.sandbox import load_profile, parse_isolations
from holdfast.sandbox.probes import all_probes

FORMAT = (
    '<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"><style>'
    ".{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px; "
    "line-height: {line_height}px; font-variant-east-asian: full-width; }} {styles}</style><defs>"
    '<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />'
    '</clipPath>{lines}</defs>{chrome}<g transform="translate({terminal_x}, {terminal_y})" '
    'clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>'
)


def main(target: str) -> None:
    """One run of the main job, recorded as a terminal shows it."""
    console = Console(record=True, width=108, file=io.StringIO(), force_terminal=True, highlight=False)
    wanted = Wanted(
        run=begin_run(),
        isolations=parse_isolations("none,seccomp,bwrap"),
        profile=load_profile("standard-net"),
        probes=all_probes(),
        suites=load_suites("ccp"),
    )
    with tempfile.TemporaryDirectory() as folder:
        conclude(
            wanted,
            Narrator(console=console),
            results=Path(folder),
            name="sandbox",
            command="make sandbox-deny-tests",
        )
    svg = console.export_svg(
        title="make sandbox-deny-tests", theme=DIMMED_MONOKAI, code_format=FORMAT, unique_id="holdfast"
    )
    Path(target).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
