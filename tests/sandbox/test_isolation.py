"""Strings become types once, and what is refused names the words that there are."""

import pytest

from holdfast.sandbox import BadInputError, Isolation, parse_isolation, parse_isolations


@pytest.mark.parametrize("isolation", list(Isolation), ids=lambda i: i.value)
def test_each_word_names_its_isolation(isolation: Isolation) -> None:
    assert parse_isolation(isolation.value) is isolation


@pytest.mark.parametrize("text", ["", "Bwrap", "bwrap ,", "docker", "none;seccomp", "*"])
def test_an_unknown_word_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(BadInputError, match=r"unknown isolation .*one of `none`, `seccomp`, `bwrap`"):
        parse_isolations(text)


def test_a_list_keeps_its_order_and_drops_repeats() -> None:
    assert parse_isolations("bwrap,none,bwrap") == (Isolation.BWRAP, Isolation.NONE)
