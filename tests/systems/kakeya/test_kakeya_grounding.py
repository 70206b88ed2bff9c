# ruff: noqa: RUF001 - letters that look alike are what is tested
"""Grounding overlap: word boundaries of UAX #29, the metamorphic properties, and what it is better at."""

import json
import os
import string
import unicodedata
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.systems.kakeya.grounding import RagPolicy, overlap, plain_overlap, segments, shingles, tokenise
from holdfast.systems.kakeya.grounding.overlap import jaccard
from holdfast.systems.kakeya.grounding.tokens import exact_words, fold

HERE = Path(__file__).parent / "vectors"
BREAKS = HERE / "WordBreakTest-15.0.0.txt"
DEBIAN = Path("/usr/share/unicode/auxiliary/WordBreakTest.txt")
BARE = RagPolicy(stopwords=False)
DEVIATIONS = {
    "÷ 2701 × 200D × 2701 ÷": "Unicode 16 took U+2701 out of Extended_Pictographic; the cutter's tables are newer than 15.0",
    "÷ 0061 × 200D × 2701 ÷": "the same",
}
words = st.text(st.sampled_from("abcdéßıİ字カあаб1_.'"), max_size=12)
texts = st.one_of(st.lists(words, max_size=30).map(" ".join), st.text(max_size=80))


def break_rows(path: Path) -> list[str]:
    """The test lines, without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def cut(line: str) -> str:
    """Our boundaries, in the file's notation."""
    text = "".join(chr(int(word, 16)) for word in line.split() if word not in "÷×")
    ends = {0, *accumulate(map(len, segments(text)))}
    marks = ["÷" if n in ends else "×" for n in range(len(text) + 1)]
    return " ".join([marks[0]] + [f"{ord(c):04X} {mark}" for c, mark in zip(text, marks[1:], strict=True)])


def test_word_boundaries_are_those_of_uax_29_but_for_the_listed_deviations() -> None:
    """1,821 of 1,823 lines. A deviation that goes away must leave the list."""
    rows = break_rows(BREAKS)
    assert len(rows) == 1823
    assert {row for row in rows if cut(row) != row} == set(DEVIATIONS)


def test_the_committed_lines_are_debians(request: pytest.FixtureRequest) -> None:
    if not DEBIAN.exists():
        assert os.environ.get("HOLDFAST_PROFILE") != "nightly", (
            "unicode-data is missing; run: make setup-peers"
        )
        pytest.skip("unicode-data is not installed; `make setup-peers` brings it")
    if "WordBreakTest-15.0.0" not in DEBIAN.read_text("utf-8")[:100]:
        pytest.skip("this machine's unicode-data is of another version than the committed lines")
    assert break_rows(DEBIAN) == break_rows(BREAKS)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30))
@example("I\u0307\u0307")
@example("\u0130\u0301")
@example("\u0345\u1fb3\u0399")
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold(unicodedata.normalize("NFD", text)) == fold(text)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60))
def test_segments_joined_are_the_text_again(text: str) -> None:
    assert "".join(segments(text)) == text
    assert all(segments(text))


@settings(max_examples=150, deadline=None)
@given(st.one_of(texts, st.text(st.characters(max_codepoint=0x3000), max_size=40)))
@example("\u05d0\u05d1\"\u05d2 \u05d0'")
@example("a\u0308.b 1\u00ad,2 ٣,٤")
@example("カ_カ a_カ")
@example("__ _a_ a__")
@example("\U00010400\U00010401 x")
def test_the_quick_words_are_the_exact_ones(text: str) -> None:
    """`@`, `://` and `::` make wholes, which UAX #29 knows nothing of; without them both must agree."""
    plain = fold(regex.sub("[@:/]", " ", text))
    assert tokenise(plain) == [w for chunk in plain.split() for w in exact_words(chunk)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See https://a.example/x?y=1,2. Now", ["see", "https://a.example/x?y=1,2", "now"]),
        ("(https://a.example/x)", ["https://a.example/x"]),
        ("os.path.join(x_1, __init__)", ["os.path.join", "x_1", "__init__"]),
        ("std::vec::Vec me@x.example", ["std::vec::vec", "me@x.example"]),
        ("can't won\u2019t 3.14 1,000", ["can't", "won\u2019t", "3.14", "1,000"]),
        ("--- ... ___ !?", []),
        ("STRASSE straße Straße", ["strasse"] * 3),
        ("\u0130stanbul ISTANBUL \u0131", ["istanbul", "istanbul", "\u0131"]),
        ("敏捷的カタカナ", ["敏", "捷", "的", "カタカナ"]),
        ("e\u0301te\u0301 \u00e9t\u00e9", ["\u00e9t\u00e9"] * 2),
        ("co\u00adoperate", ["cooperate"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("👩\u200d💻 codes", ["codes"]),
        ("", []),
    ],
)
def test_tokens_of(text: str, expected: list[str]) -> None:
    assert tokenise(text) == expected


@settings(max_examples=80, deadline=None)
@given(
    texts, texts, st.sampled_from([BARE, RagPolicy(), RagPolicy(shingle_size=1), RagPolicy(shingle_size=4)])
)
def test_the_index_is_symmetric_and_within_its_bounds(left: str, right: str, policy: RagPolicy) -> None:
    there, back = overlap(left, right, policy), overlap(right, left, policy)
    assert there == back
    assert 0 <= there.score <= 1
    assert there.score == jaccard(shingles(left, policy), shingles(right, policy))


@settings(max_examples=80, deadline=None)
@given(texts, st.sampled_from([BARE, RagPolicy()]))
def test_a_text_is_wholly_grounded_in_itself(text: str, policy: RagPolicy) -> None:
    assert overlap(text, text, policy).score == 1.0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(words, max_size=20),
    st.sampled_from(list(',;!?()[]"-\u2014\u2026\u00bb')),
    st.sampled_from([" ", "\n", "\t ", "\u2003", "\u3000"]),
)
def test_punctuation_white_space_case_and_normal_form_change_nothing(
    parts: list[str], mark: str, gap: str
) -> None:
    text = " ".join(parts)
    dressed = f"{mark}{gap}".join(part.replace(".", " ") for part in parts)
    text = text.replace(".", " ")
    expected = shingles(text, BARE)
    assert shingles(dressed, BARE) == expected
    assert shingles(unicodedata.normalize("NFD", text), BARE) == expected
    assert shingles(unicodedata.normalize("NFC", text), BARE) == expected


@settings(max_examples=80, deadline=None)
@given(st.text(st.sampled_from(string.ascii_letters + " éàß"), max_size=60))
def test_case_changes_nothing(text: str) -> None:
    assert tokenise(text.upper()) == tokenise(text.lower()) == tokenise(text)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("", "", 1.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("a", "a", 1.0),
        ("a", "b", 0.0),
        ("...", "", 1.0),
        ("x y", "x y x y", 0.5),
    ],
)
def test_the_small_cases(left: str, right: str, expected: float) -> None:
    assert overlap(left, right, BARE).score == expected


def test_fewer_words_than_a_shingle_make_one_of_what_is_there() -> None:
    assert shingles("alone", RagPolicy(shingle_size=3)) == {"alone"}
    assert overlap("Alone!", "alone", RagPolicy(shingle_size=3)).score == 1.0


def test_a_text_of_stop_words_is_not_an_empty_one() -> None:
    """Else any two of them would be wholly grounded in each other."""
    assert overlap("the of and", "is it a", RagPolicy()).score == 0.0
    assert overlap("the of and", "", RagPolicy()).score == 0.0


def test_a_negation_is_never_a_stop_word() -> None:
    assert overlap("the valve is not safe", "the valve is safe", RagPolicy()).score < 1.0


@pytest.mark.parametrize(
    ("policy", "grounded"),
    [
        (RagPolicy(), True),
        (RagPolicy(min_overlap=0.9), False),
        (RagPolicy(shingle_size=4), False),
        (RagPolicy(stopwords=False), False),
    ],
    ids=["defaults", "minOverlap", "shingleSize", "stopwords"],
)
def test_each_key_of_the_configuration_changes_the_verdict(policy: RagPolicy, *, grounded: bool) -> None:
    found = overlap(
        "The pump in the hall ran hot at noon", "A pump and hall ran hot then by the gate", policy
    )
    assert found.grounded is grounded, found


def test_stemming_is_off_until_asked_for_and_is_pystemmers() -> None:
    one, other = "pumps were running hotter", "pump was run hotter"
    assert overlap(one, other, RagPolicy(stemming=True)).score > overlap(one, other, RagPolicy()).score


def test_the_index_counts_a_repeated_shingle_once() -> None:
    found = overlap("a b a b a b", "a b", BARE)
    assert (found.shared, found.total, found.score) == (1, 2, 0.5)


@pytest.mark.planted
def test_planted_an_index_over_lists_leaves_its_bounds() -> None:
    """The fault in the wild: duplicates counted on one side of the division only."""
    left, right = ["a b"] * 3, ["a b"]
    shared = sum(shingle in right for shingle in left)
    assert shared / len(set(left) | set(right)) > 1
    assert overlap("a b a b a b", "a b", BARE).score <= 1


def false_verdicts(scores: dict[str, float], rows: list[dict[str, Any]], threshold: float) -> Counter[str]:
    wrong: Counter[str] = Counter()
    for number, row in enumerate(rows):
        said = scores[str(number)] >= threshold
        if said != row["grounded"]:
            wrong["taken for grounded" if said else "flagged"] += 1
    return wrong


def test_false_verdicts_fall_against_plain_matching() -> None:
    """On the committed pairs, at the same threshold, in both directions."""
    rows = json.loads((HERE / "grounding-pairs.json").read_text("utf-8"))
    assert Counter(row["grounded"] for row in rows) == {True: 64, False: 48}
    policy = RagPolicy()
    ours = false_verdicts(
        {str(n): overlap(r["answer"], r["source"], policy).score for n, r in enumerate(rows)},
        rows,
        policy.min_overlap,
    )
    plain = false_verdicts(
        {str(n): plain_overlap(r["answer"], r["source"]) for n, r in enumerate(rows)},
        rows,
        policy.min_overlap,
    )
    assert ours["taken for grounded"] < plain["taken for grounded"], (ours, plain)
    assert ours["flagged"] < plain["flagged"], (ours, plain)
    assert dict(ours) == {}
    assert dict(plain) == {"taken for grounded": 32, "flagged": 15}


@pytest.mark.parametrize(
    "unit", ["_", "a-", "a.", "a::", "://", "a@", "'", "\u0301", '\u05d0"', "カ_", "1,", "é."]
)
def test_no_input_makes_time_grow_faster_than_length(unit: str) -> None:
    """200,000 letters of each nuisance: a quadratic expression would not come back within the test's patience."""
    assert isinstance(tokenise(unit * (200_000 // len(unit))), list)
