"""The search for canaries finds each coat, and nothing where nothing is."""

import base64
import gzip
import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.harness.leak import decoys, search

CANARY = "sk-ant-api03-0123456789abcdefCANARY"


def names(text: bytes, canary: str = CANARY) -> set[str]:
    return {found.name for found in search({"it": canary}, [("here", text)])}


@pytest.mark.parametrize(("coat", "text"), decoys(CANARY).items(), ids=decoys(CANARY))
def test_each_coat_is_seen_through(coat: str, text: bytes) -> None:
    assert names(text) == {"it"}, coat


@pytest.mark.parametrize(("coat", "text"), decoys(CANARY).items(), ids=decoys(CANARY))
def test_a_coat_over_something_else_is_no_find(coat: str, text: bytes) -> None:
    del coat
    assert names(text, "sk-ant-api03-another-secret-entirely") == set()


def test_a_find_names_place_and_coat_and_never_the_canary() -> None:
    found = search({"the zai key": CANARY}, [("logs/a.log", CANARY.encode())])
    assert str(found[0]) == "the zai key in logs/a.log (plain)"
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        quote(CANARY, safe="").replace("-", "%2D").encode(),
        json.dumps("".join(f"\\u{ord(c):04x}" for c in CANARY)).replace("\\\\", "\\").encode(),
        gzip.compress(base64.b64encode(b"xy" + CANARY.encode())),
        gzip.compress(gzip.compress(CANARY.encode())),
        gzip.compress(b"x" * 50 + CANARY.encode())[:-6],
        b"GET / HTTP/1.1\r\nx-trailer: " + CANARY.encode() + b"\r\n\r\n",
        CANARY.encode().hex().encode().upper(),
    ],
    ids=[
        "percent",
        "all-escaped-json",
        "base64-in-gzip",
        "gzip-twice",
        "cut-off-gzip",
        "header",
        "upper-hex",
    ],
)
def test_coats_over_coats_are_seen_through(text: bytes) -> None:
    assert names(text) == {"it"}


@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_base64_is_found_at_whatever_offset_it_starts(before: bytes, after: bytes) -> None:
    assert names(base64.b64encode(before + CANARY.encode() + after)) == {"it"}


@given(cuts=st.lists(st.integers(1, len(CANARY) - 1), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_canary_cut_by_chunk_boundaries_is_found(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(CANARY)]
    pieces = [CANARY[a:b].encode() for a, b in itertools.pairwise(edges)]
    assert names(b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n") == {"it"}


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_no_noise_makes_it_raise_or_find(noise: bytes) -> None:
    assert names(noise) == set()


def test_a_gzip_bomb_ends_at_the_bound() -> None:
    assert names(gzip.compress(b"\0" * (80 << 20))) == set()
