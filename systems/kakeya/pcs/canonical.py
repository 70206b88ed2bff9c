"""The bytes that a proof of computation summary (PCS) is signed over, the same in every language.

    {"D_hat":1.234567890,"budget":...,"coh_star":...,"epoch":7,"merkle_root":"...","pcs_id":"...","r":...,"shard_id":"..."}

Keys sorted by code point, no white space, UTF-8. Measures are binary64 values written with nine decimals,
trailing zeros kept: the value as a binary fraction is rounded exactly, ties to even, and zero has no sign.

Unlike RFC 8785 (JCS): it writes numbers as ECMAScript does (`1.23456789`, `1e-10`, `1e+21`), limits integers
to 2^53, and sorts keys by UTF-16 unit (the same order for these eight keys). Strings are escaped as there.
"""

import base64
import hashlib
import hmac
import json
import math
from dataclasses import dataclass
from typing import final

__all__ = ["EPOCH_LIMIT", "MEASURES", "Pcs", "canonical", "fixed9", "pcs_id_of", "sign"]

MEASURES = ("D_hat", "coh_star", "r", "budget")
EPOCH_LIMIT = 2**63
_QUOTE = json.JSONEncoder(ensure_ascii=False).encode


@final
@dataclass(frozen=True, slots=True)
class Pcs:
    """The eight signed fields."""

    pcs_id: str
    merkle_root: str
    epoch: int
    shard_id: str
    d_hat: float
    coh_star: float
    r: float
    budget: float


def canonical(pcs: Pcs) -> bytes:
    """The signed payload; `ValueError` for a measure that is not finite, or text that UTF-8 cannot hold."""
    fields = {
        "pcs_id": _QUOTE(pcs.pcs_id),
        "merkle_root": _QUOTE(pcs.merkle_root),
        "epoch": str(pcs.epoch),
        "shard_id": _QUOTE(pcs.shard_id),
        "D_hat": fixed9(pcs.d_hat),
        "coh_star": fixed9(pcs.coh_star),
        "r": fixed9(pcs.r),
        "budget": fixed9(pcs.budget),
    }
    return ("{" + ",".join(f'"{key}":{fields[key]}' for key in sorted(fields)) + "}").encode()


def fixed9(value: float) -> str:
    """Nine decimals: `1.5` -> `1.500000000`, `-0.0` and `1e-10` -> `0.000000000`, `-1e-10` too.

    CPython's `%.9f` rounds the exact binary value, ties to even, at any magnitude. ECMAScript's `toFixed`
    does neither: it rounds ties up and gives up at 1e21.
    """
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    text = f"{value:.9f}"
    return text[1:] if text == "-0.000000000" else text


def pcs_id_of(merkle_root: str, epoch: int, shard_id: str) -> str:
    """SHA-256 over `merkle_root|epoch|shard_id`; the first two hold no bar, so that the parts stay apart."""
    return hashlib.sha256(f"{merkle_root}|{epoch}|{shard_id}".encode()).hexdigest()


def sign(key: bytes, payload: bytes) -> str:
    """HMAC-SHA-256 in standard base64."""
    return base64.b64encode(hmac.new(key, payload, hashlib.sha256).digest()).decode("ascii")
