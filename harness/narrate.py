"""What a person sees while it works, and at the end: rich on a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from typing import final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast import clock
from holdfast.harness.campaign import Staging
from holdfast.harness.gate import Judgement, Outcome
from holdfast.harness.report.page import Page
from holdfast.harness.report.render import plain
from holdfast.sandbox.isolation import AnyIsolation

__all__ = ["Narrator"]

_COLOURS: Mapping[Outcome, str] = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.CANNOT_TELL: "bold yellow",
}
PLAIN_WIDTH = 110


@final
class Narrator:
    """A `Reporter` that prints; `quiet` leaves only the last line."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        console = console or Console(highlight=False)
        self._console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
        self._quiet = quiet
        self._begun = clock.monotonic()

    def stage_started(self, isolation: AnyIsolation) -> None:
        """Say what is being done; on a terminal only, where the next line follows at once."""
        if not self._quiet and self._console.is_terminal:
            self._console.print(f"[dim]{isolation.value}: bringing it up, attacking it ...[/dim]")

    def stage_finished(self, staging: Staging) -> None:
        """One line an isolation."""
        if self._quiet:
            return
        arm = staging.arm
        done = f"{len(arm.arms)} attempts"
        if staging.judgements:
            passed = sum(j.outcome is Outcome.PASS for j in staging.judgements.values())
            done += f", {passed} of {len(staging.judgements)} gates pass"
        line = f"{staging.isolation.value}: {plain(arm.problem) if arm.problem else done}"
        self._console.print(Text(line, style="yellow" if arm.problem else ""))

    def conclude(
        self, page: Page, overall: Mapping[str, Judgement], *, written: tuple[str, ...] = ()
    ) -> None:
        """The tables, and in words what was shown and what was not."""
        if not self._quiet:
            self._console.print(self._matrix(page))
            self._console.print(self._gates(overall))
            for line in (*page.open_first, *page.warnings):
                self._console.print(Text(plain(line), style="yellow"))
            if not page.live and len(overall) > 1:
                self._console.print("Upstreams were witnesses: nothing was shown about the providers.")
            if written:
                self._console.print(Text(f"Report: {written[0]}"), soft_wrap=True)
        self.last_line(page.code, page.code_words)

    def last_line(self, code: int, words: str) -> None:
        """The line that a script looks for, since make turns every failure into 2."""
        if not self._quiet:
            self._console.print(f"Took {clock.monotonic() - self._begun:.1f} s.")
        print(f"holdfast: exit {code} ({words})", flush=True)  # noqa: T201 - never wrapped, never coloured

    def _matrix(self, page: Page) -> Table:
        table = Table(title="What a process inside can do", title_justify="left")
        table.add_column("family", no_wrap=True)
        table.add_column("it tries to")
        for name in page.isolations:
            table.add_column(name, no_wrap=True)
        for row in page.matrix:
            cells = [Text(cell, style=_cell_colour(cell)) for cell in row.cells]
            table.add_row(row.family, row.words, *cells)
        return table

    def _gates(self, overall: Mapping[str, Judgement]) -> Table:
        table = Table(title="Gates", title_justify="left")
        table.add_column("gate", no_wrap=True)
        table.add_column("outcome", no_wrap=True)
        table.add_column("on what")
        for name, judgement in overall.items():
            reasons = "\n".join(plain(reason) for reason in judgement.reasons[:4])
            style = _COLOURS[judgement.outcome]
            table.add_row(name, Text(judgement.outcome.value.replace("_", " "), style=style), Text(reasons))
        return table


def _cell_colour(cell: str) -> str:
    word = cell.partition(" ")[0]
    return {"held": "green", "open": "dim", "breached": "bold red"}.get(word, "bold yellow")
