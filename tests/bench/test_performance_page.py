"""docs/PERFORMANCE.md is written from a run, and says what fell short or was not measured."""

import dataclasses
from pathlib import Path

import pytest

from holdfast.bench.performance import main, render_performance
from holdfast.bench.row import Row

ROWS = {
    "kept": Row("CPU over nginx", 2.5, "x", limit=3.0, note="in turn"),
    "broken": Row("memory", 200.0, "MiB", limit=150.0),
    "peer": Row("CPU, peer", None, "us", note="not installed | here"),
    "promise-unmeasured": Row("ratio", None, "x", limit=3.0),
    "more": Row("rate", 5.0, "/s", limit=4.0, more_is_better=True),
}
LINES = {
    "kept": "| CPU over nginx | 2.5 x | at most 3 x | holds | in turn |",
    "broken": "| memory | 200 MiB | at most 150 MiB | **falls short** |  |",
    "peer": "| CPU, peer | not measured |  |  | not installed \\| here |",
    "promise-unmeasured": "| ratio | not measured | at most 3 x | **falls short** |  |",
    "more": "| rate | 5 /s | at least 4 /s | holds |  |",
}


def rendered(*rows: Row) -> str:
    found = {
        "machine": {"kernel": "6.1", "cores": 2, "python": "3.11.7"},
        "rows": {"ccp": [{**dataclasses.asdict(row), "holds": row.holds} for row in rows]},
    }
    return render_performance(found)


@pytest.mark.parametrize("name", LINES)
def test_a_figure_stands_beside_its_promise(name: str) -> None:
    assert LINES[name] in rendered(ROWS[name]).splitlines()


def test_the_page_names_the_machine_and_the_commands() -> None:
    text = rendered(*ROWS.values())
    assert "Linux 6.1, 2 cores, CPython 3.11.7" in text
    assert "python -m holdfast.bench ccp\n" in text
    assert text.count("\n| ") == len(ROWS) + 1


def test_without_a_run_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 64
    assert "is no bench run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
