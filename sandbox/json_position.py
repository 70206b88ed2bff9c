"""Where in a JSON text a value stands, so that an error can name file and line.

The standard library's decoder keeps no positions. Rather than a parser of our own, this walks the text
with that decoder's own scanner, one level at a time, to the value that a path names.
"""

import json
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]  # CPython exports both

__all__ = ["line_of", "reject_duplicate_keys"]

_DECODER = json.JSONDecoder()


def line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The 1-based line on which the value at `path` starts; that of the deepest part that is there."""
    offset = _skip_blank(text, 0)
    for step in path:
        found = _member(text, offset, step) if text[offset] in "{[" else None
        if found is None:
            break
        offset = found
    return text.count("\n", 0, offset) + 1


def reject_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An `object_pairs_hook` that refuses what parsers disagree on; raises `ValueError` with the key."""
    if repeated := [key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1]:
        raise ValueError(f"the key `{repeated[0]}` stands twice in one object")
    return dict(pairs)


def _member(text: str, offset: int, step: str | int) -> int | None:
    """The offset of member `step` of the object or array that starts at `offset`."""
    index, offset = 0, _skip_blank(text, offset + 1)
    while text[offset] not in "}]":
        key: str | int = index
        if isinstance(step, str):
            if text[offset] != '"':
                return None
            key, offset = scanstring(text, offset + 1)
            offset = _skip_blank(text, _skip_blank(text, offset) + 1)  # past the colon
        if key == step:
            return offset
        _, offset = _DECODER.raw_decode(text, offset)
        offset = _skip_blank(text, offset)
        if text[offset] == ",":
            offset = _skip_blank(text, offset + 1)
        index += 1
    return None


def _skip_blank(text: str, offset: int) -> int:
    match = WHITESPACE.match(text, offset)
    return int(match.end()) if match else offset
