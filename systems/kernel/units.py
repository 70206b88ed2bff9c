"""Sizes and times as people write them in rules, exactly, and with no guessing.

    size   `digits[KiB|MiB|GiB|KB|MB|GB]`   a bare number is bytes    -> bytes
    time   `digits(s|ms|m|h)`               a unit is required         -> milliseconds

Case-sensitive, ASCII digits only, whole numbers only, at most 2^63-1. `kb`, `1.5.0`, `1 KiB`, `1e3`, `-1`,
`M` and `mS` are refused with the reason, since any reading of them would be a guess.
"""

import re
from typing import Final

__all__ = ["UnitError", "parse_size", "parse_time_ms"]

LIMIT: Final = 2**63 - 1
SIZES: Final = {
    "": 1,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
}  # fmt: skip
TIMES: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
QUANTITY: Final = re.compile(r"([0-9]{1,19})([A-Za-z]*)", re.ASCII)
MAX_TEXT: Final = 64


class UnitError(ValueError):
    """The text is not a quantity; the message quotes it and says what is accepted."""


def parse_size(text: str) -> int:
    """`"10MiB"` -> 10485760 bytes; raises `UnitError`."""
    return _parse(text, SIZES, "a size", "bytes, or KiB, MiB, GiB, KB, MB, GB")


def parse_time_ms(text: str) -> int:
    """`"30s"` -> 30000 ms; raises `UnitError`."""
    return _parse(text, TIMES, "a time", "one of s, ms, m, h")


def _parse(text: str, units: dict[str, int], kind: str, accepted: str) -> int:
    found = QUANTITY.fullmatch(text)
    if found is None:
        raise UnitError(f"`{text[:MAX_TEXT]}` is not {kind}: expected digits 0-9 and then {accepted}")
    digits, unit = found.groups()
    if unit not in units:
        raise UnitError(f"`{text}` is not {kind}: unit `{unit}` is not {accepted}")
    value = int(digits) * units[unit]
    if value > LIMIT:
        raise UnitError(f"`{text}` is not {kind}: larger than 2^63-1")
    return value
