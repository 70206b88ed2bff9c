"""The body of `POST /v1/verify`: bytes to values, once, with the field named in every refusal."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

from holdfast.systems.kakeya.pcs.canonical import EPOCH_LIMIT, Pcs
from holdfast.systems.kakeya.routing.decision import Estimate, estimate_from
from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

__all__ = ["BODY_LIMIT", "BadFieldError", "Body", "Grounding", "parse_body"]

T = TypeVar("T")

BODY_LIMIT = 1 << 20
SOURCES_LIMIT = 16
_HEX32 = re.compile("[0-9a-f]{64}")
_PROOF = re.compile("[0-9a-f]{160}")
_SIGNATURE = re.compile("[A-Za-z0-9+/]{43}=")


@final
class BadFieldError(ValueError):
    """The body is not one; `field` is `body` when the fault lies in no single field."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"`{field}` {why}")
        self.field = field
        self.why = why


@final
@dataclass(frozen=True, slots=True)
class Grounding:
    """An answer, and the sources that it should be grounded in."""

    answer: str
    sources: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Body:
    """One submission; everything but `pcs` and `signature` may be left out."""

    pcs: Pcs
    signature: str
    vrf_proof: bytes | None
    estimate: Estimate | None
    """None when `risk` is absent or not an interval at all: the standard way."""
    grounding: Grounding | None


def parse_body(raw: bytes) -> Body:
    """The submission, or `BadFieldError`. Whether it is genuine is for later."""
    try:
        fields = parse_object(raw)
    except BadJsonError as error:
        raise BadFieldError("body", str(error)) from None
    if unknown := sorted(fields.keys() - _READERS.keys() - _OPTIONAL):
        raise BadFieldError(
            unknown[0][:40].encode("ascii", "backslashreplace").decode(), "is not a field of this body"
        )
    values = {name: _read(fields, name, reader) for name, reader in _READERS.items()}
    signature = values.pop("sig")
    return Body(
        pcs=Pcs(**{name.lower(): value for name, value in values.items()}),
        signature=signature,
        vrf_proof=_read(fields, "vrf_proof", _proof) if "vrf_proof" in fields else None,
        estimate=estimate_from(fields.get("risk")),
        grounding=_read(fields, "grounding", _grounding) if "grounding" in fields else None,
    )


def _read(fields: Mapping[str, Any], name: str, reader: Callable[[object], T]) -> T:
    if name not in fields:
        raise BadFieldError(name, "is missing")
    try:
        return reader(fields[name])
    except BadFieldError:
        raise
    except ValueError as error:
        raise BadFieldError(name, str(error)) from None


def _hex32(value: object) -> str:
    if not isinstance(value, str) or not _HEX32.fullmatch(value):
        raise ValueError("must be 64 lower-case hexadecimal digits")
    return value


def _epoch(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < EPOCH_LIMIT:
        raise ValueError("must be an integer from 0 to 2^63 - 1, with no point and no exponent")
    return value


def _shard(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise ValueError("must be text of 1 to 200 characters")
    return value


def _measure(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - a wrong type in JSON is a wrong value here
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("must be a number that binary64 can hold") from None
    if not math.isfinite(number):
        raise ValueError("must be a number that binary64 can hold")
    return number


def _signature(value: object) -> str:
    if not isinstance(value, str) or not _SIGNATURE.fullmatch(value):
        raise ValueError("must be 32 bytes in standard base64")
    return value


def _proof(value: object) -> bytes:
    """A proof of another length is for the verifier to refuse; here it only has to be bytes."""
    if not isinstance(value, str) or not _PROOF.fullmatch(value):
        raise ValueError("must be 160 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _grounding(value: object) -> Grounding:
    if not isinstance(value, dict) or value.keys() != {"answer", "sources"}:
        raise ValueError("must be an object of `answer` and `sources`")
    sources = value["sources"]
    if not isinstance(value["answer"], str):
        raise BadFieldError("grounding.answer", "must be text")
    if not isinstance(sources, list) or not 1 <= len(sources) <= SOURCES_LIMIT:
        raise BadFieldError("grounding.sources", f"must be a list of 1 to {SOURCES_LIMIT} texts")
    if not all(isinstance(source, str) for source in sources):
        raise BadFieldError("grounding.sources", "must hold nothing but text")
    return Grounding(value["answer"], tuple(sources))


_READERS: dict[str, Callable[[object], Any]] = {
    "pcs_id": _hex32,
    "merkle_root": _hex32,
    "epoch": _epoch,
    "shard_id": _shard,
    "D_hat": _measure,
    "coh_star": _measure,
    "r": _measure,
    "budget": _measure,
    "sig": _signature,
}
_OPTIONAL = frozenset({"vrf_proof", "risk", "grounding"})
