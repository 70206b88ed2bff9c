"""The page: verdict first, honest about what is open, and deaf to what a service writes into it."""

import pytest

from holdfast.harness.report.render import plain, render_markdown
from holdfast.sandbox import Isolation
from tests.running import run


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    concluded = run(tmp_path_factory.mktemp("results"), Isolation.NONE, Isolation.SECCOMP, Isolation.BWRAP)
    return render_markdown(concluded.page)


def test_the_verdict_comes_first(page_text: str) -> None:
    assert page_text.splitlines()[0] == "# Holdfast: every gate passes"


def test_what_is_open_and_not_claimed_stands_before_the_matrix(page_text: str) -> None:
    open_at = page_text.index("Under seccomp, reach.unix")
    assert open_at < page_text.index("## What a process inside can do")


def test_the_matrix_has_a_row_a_family_and_a_column_an_isolation(page_text: str) -> None:
    assert "| family | none | seccomp | bwrap |" in page_text
    rows = [line for line in page_text.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    assert all(line.count("|") == 5 for line in rows)


def test_a_vacuous_probe_is_named_with_both_arms(page_text: str) -> None:
    assert "is vacuous (denied ENOTTY / denied EPERM)" in page_text


def test_it_fits_on_a_page(page_text: str) -> None:
    assert len(page_text.splitlines()) < 90


def test_it_says_that_witnesses_show_nothing_about_providers(page_text: str) -> None:
    assert "nothing here was shown about the providers" in page_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines\tand tab", "two lines and tab"),
        ("bell\x07\x00\x7f\x9b", "bell\\x07\\x00\\x7f\\x9b"),
        ("right\u202eto left", "right\\x202eto left"),
        ("plain ünï", "plain ünï"),
    ],
)
def test_control_and_direction_characters_become_visible(text: str, shown: str) -> None:
    assert plain(text) == shown
