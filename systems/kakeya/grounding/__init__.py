"""Grounding overlap: does an answer say what its source says, whatever the punctuation and the script?

`segments` cuts at the word boundaries of UAX #29, `tokens` folds and keeps URLs and identifiers whole,
`overlap` compares sets of shingles under a `RagPolicy`.
"""

from holdfast.systems.kakeya.grounding.overlap import Overlap, RagPolicy, overlap, plain_overlap, shingles
from holdfast.systems.kakeya.grounding.segments import segments
from holdfast.systems.kakeya.grounding.tokens import tokenise

__all__ = ["Overlap", "RagPolicy", "overlap", "plain_overlap", "segments", "shingles", "tokenise"]
