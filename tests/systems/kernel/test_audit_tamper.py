"""The tamper matrix as a test: every cell has the verdict that is published, and none is blind with the witness."""

from pathlib import Path

import pytest

from tests.systems.kernel.tamper import Cell, cells, render

PUBLISHED = Path(__file__).parents[3] / "docs" / "TAMPER-MATRIX.md"
BLIND_ALONE = {
    "truncate the tail and its checkpoints": "ok",
    "rewrite all, delete all checkpoints": "unsealed_tail",
    "roll the file back": "ok",
    "roll the file back, go on writing with the key": "ok",
    "delete the -wal": "ok",
    "delete every row": "empty",
}
NAMED = {
    "truncate the tail": "truncated",
    "delete a row": "gap",
    "swap two rows": "rewritten",
    "rewrite all, rehash": "rewritten",
    "roll the file back": "rolled_back",
    "roll the file back, go on writing with the key": "forked",
    "change a row's version": "rewritten",
    "change a row's version, rehash": "rewritten",
    "insert a row": "rewritten",
}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    return list(cells(tmp_path_factory.mktemp("tamper")))


def test_every_field_and_column_is_covered_and_the_control_is_ok(matrix: list[Cell]) -> None:
    assert len(matrix) == 93
    assert (matrix[-1].alone, matrix[-1].witnessed) == ("ok", "ok")


def test_with_the_witness_nothing_goes_unseen(matrix: list[Cell]) -> None:
    blind = [cell for cell in matrix[:-1] if cell.witnessed in {"ok", "unsealed_tail", "empty"}]
    assert blind == []


def test_what_cannot_be_seen_without_the_witness_is_exactly_what_is_said(matrix: list[Cell]) -> None:
    blind = {c.operation: c.alone for c in matrix[:-1] if c.alone in {"ok", "unsealed_tail", "empty"}}
    assert blind == BLIND_ALONE


def test_the_verdicts_tell_kinds_of_tampering_apart(matrix: list[Cell]) -> None:
    found = {
        cell.operation: cell.witnessed
        for cell in matrix
        if cell.target in {"entries and checkpoints", "files"}
    }
    assert {name: found[name] for name in NAMED} == NAMED


def test_the_published_matrix_is_what_this_run_gives(matrix: list[Cell]) -> None:
    assert PUBLISHED.read_text() == render(matrix)
