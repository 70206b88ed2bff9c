"""How much of an answer is grounded in a source: Jaccard's index over sets of word shingles.

    text -> tokenise -> drop stop words -> stem -> shingles of n -> set        |A & B| / |A | B|

Sets, not lists: a shingle said ten times counts once, so that the index stays within 0..1.
"""

import functools
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any, TypeAlias, final

from holdfast.systems.kakeya.grounding.stopwords import STOPWORDS
from holdfast.systems.kakeya.grounding.tokens import tokenise

__all__ = ["Overlap", "RagPolicy", "jaccard", "overlap", "plain_overlap", "shingles"]

Shingles: TypeAlias = frozenset[str]
"""Words joined by a space, which no word holds. Strings, not tuples: the collector need not walk millions."""


@final
@dataclass(frozen=True, slots=True)
class RagPolicy:
    """The configuration keys `rag.*`, by their names in snake case, with their defaults."""

    enabled: bool = True
    min_overlap: float = 0.35
    shingle_size: int = 2
    stopwords: bool = True
    stemming: bool = False


@final
@dataclass(frozen=True, slots=True)
class Overlap:
    """The index, what it was counted over, and whether it reaches the policy's minimum."""

    score: float
    shared: int
    total: int
    grounded: bool


def overlap(answer: str, source: str, policy: RagPolicy) -> Overlap:
    """Judge one answer against one source. Linear in both; 0 <= score <= 1; symmetric."""
    left, right = shingles(answer, policy), shingles(source, policy)
    shared = len(left & right)
    total = len(left) + len(right) - shared
    score = shared / total if total else 1.0
    return Overlap(score, shared, total, grounded=score >= policy.min_overlap)


def jaccard(left: Shingles, right: Shingles) -> float:
    """Both empty: 1.0, they do not differ. One empty: 0.0."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def shingles(text: str, policy: RagPolicy) -> Shingles:
    """Each run of n words; with fewer words than n, one shingle of what is there."""
    words = content_words(text, policy)
    if 0 < len(words) < policy.shingle_size:
        return frozenset((" ".join(words),))
    return frozenset(map(" ".join, zip(*(words[i:] for i in range(policy.shingle_size)), strict=False)))


def content_words(text: str, policy: RagPolicy) -> list[str]:
    """The words that count; a text of stop words alone keeps them, or it would equal an empty one."""
    words = tokenise(text)
    if policy.stopwords:
        words = list(filterfalse(STOPWORDS.__contains__, words)) or words
    return _stemmer().stemWords(words) if policy.stemming else words


def plain_overlap(answer: str, source: str) -> float:
    """The share of the answer's white-space words found in the source: the matching that this replaces.

    Kept as the baseline that the false-positive figures are measured against.
    """
    words = answer.split()
    found = set(source.split())
    return sum(word in found for word in words) / len(words) if words else 1.0


@functools.cache
def _stemmer() -> Any:
    """Snowball's English stemmer in C. The pure `snowballstemmer` takes 250 times as long, so it is no stand-in."""
    import Stemmer  # type: ignore[import-not-found]

    return Stemmer.Stemmer("english")
