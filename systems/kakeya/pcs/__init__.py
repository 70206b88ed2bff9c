"""Proof of computation summaries: the body that clients send, and the canonical bytes that it is signed over."""

from holdfast.systems.kakeya.pcs.body import BODY_LIMIT, BadFieldError, Body, Grounding, parse_body
from holdfast.systems.kakeya.pcs.canonical import Pcs, canonical, fixed9, pcs_id_of, sign

__all__ = [
    "BODY_LIMIT",
    "BadFieldError",
    "Body",
    "Grounding",
    "Pcs",
    "canonical",
    "fixed9",
    "parse_body",
    "pcs_id_of",
    "sign",
]
