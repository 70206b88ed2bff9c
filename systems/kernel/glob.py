"""Path globs: gitignore-like, compiled at load, and never slower than pattern times path.

    `*`    any run of characters inside one segment, a leading dot included
    `?`    one character of a segment          `[a-z]`, `[!a-z]`   one character of a class
    `**`   zero or more whole segments
    `/x`   from the file system's root          `x/y`  from the workspace's root
    `x`    (no slash) a last segment of that name, anywhere in the workspace
    `x/`   everything below x

A list of globs matches when one of its plain entries does and none of its `!` entries does, wherever in the
list they stand: an exclusion wins. The empty list matches nothing.

Backtracking is fenced in by atomic groups: between two wildcards the leftmost match of a literal is as good
as any other, so the engine may forget the alternatives. A test compares this with a naive matcher.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

__all__ = ["Glob", "GlobError", "PathSet", "parse_glob"]

MAX_GLOB: Final = 1024
MAX_STARS: Final = 64
SPECIAL: Final = frozenset("*?[")


class GlobError(ValueError):
    """The text is not a glob; the message quotes its start and says why."""


@final
@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern, compiled."""

    text: str
    """As written, without its `!`."""
    absolute: bool
    """Whether it is held against the whole path or against the one inside the workspace."""
    prefix: str
    """The directory that every match lies in or is, without wildcards: the index's key. `""`: any."""
    literal: bool
    """No wildcard at all: it matches exactly one path."""
    subtree: bool
    """Exactly `prefix` and everything below it."""
    regex: re.Pattern[str]


def parse_glob(text: str) -> Glob:
    """Compile one entry (without `!`); raises `GlobError`."""
    if not text or len(text) > MAX_GLOB:
        raise GlobError(f"glob of {len(text)} characters; expected 1 to {MAX_GLOB}")
    if any(c < " " or c == "\x7f" for c in text):
        raise GlobError(f"glob {text[:60]!r} holds a control character")
    if text.count("*") > MAX_STARS:
        raise GlobError(f"glob `{text[:60]}` has more than {MAX_STARS} stars")
    absolute = text.startswith("/")
    segments = _segments(text, absolute=absolute)
    plain = []
    for segment in segments:
        if SPECIAL & set(segment):
            break
        plain.append(segment)
    literal = len(plain) == len(segments)
    prefix = ("/" if absolute else "") + "/".join(plain)
    subtree = segments == [*plain, "**"]
    return Glob(text, absolute, prefix, literal, subtree, re.compile(_translate(segments), re.DOTALL))


def _segments(text: str, *, absolute: bool) -> list[str]:
    body = text[1:] if absolute else text
    if body.endswith("/"):
        body += "**"
    elif "/" not in body and not absolute:
        body = f"**/{body}"
    segments = body.split("/")
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise GlobError(f"glob `{text}` has a segment `{segment}`, which no resolved path has")
        if "**" in segment and segment != "**":
            raise GlobError(f"glob `{text}`: `**` must be a whole segment")
    return [s for i, s in enumerate(segments) if s != "**" or i == 0 or segments[i - 1] != "**"]


def _translate(segments: list[str]) -> str:
    """A regular expression over `a/b/c/`: each segment ends in its slash, and `**` is any number of them."""
    chunks: list[list[str]] = [[]]
    for segment in segments:
        if segment == "**":
            chunks.append([])
        else:
            chunks[-1].append(f"{_segment(segment)}/")
    first, *rest = ("".join(chunk) for chunk in chunks)
    if not rest:
        return first
    *middle, last = rest
    return "".join((first, *(rf"(?>(?:[^/]+/)*?{chunk})" for chunk in middle), r"(?:[^/]+/)*", last))


def _segment(text: str) -> str:
    """One segment; each `*` run but the last swallows lazily and atomically up to the next literal."""
    pieces = _pieces(text)
    if "*" not in pieces:
        return "".join(pieces)
    runs: list[str] = [""]
    for piece in pieces:
        if piece == "*":
            runs.append("")
        else:
            runs[-1] += piece
    first, *middle, last = runs
    inner = "".join(f"(?>[^/]*?{run})" for run in middle if run)
    # A lone `*` is a whole segment, and no segment is empty.
    return f"{first}{inner}[^/]{'+' if not (first or inner or last) else '*'}{last}"


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            pieces.append("*")
        elif char == "?":
            pieces.append("[^/]")
        elif char == "[":
            end = text.find("]", at + 1 + text.startswith("!", at))
            if end < 0:
                raise GlobError(f"glob segment `{text}`: `[` without `]`")
            pieces.append(_klass(text[at:end]))
            at = end + 1
        else:
            pieces.append(re.escape(char))
    return pieces


def _klass(body: str) -> str:
    negated = body.startswith("!")
    inner = body[1:] if negated else body
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner)
    pattern = f"[{'^/' if negated else ''}{escaped}]"
    try:
        re.compile(pattern)
    except re.error:
        raise GlobError(f"glob class `[{body}]` is not a class of characters") from None
    return pattern if negated else f"(?!/){pattern}"


@final
@dataclass(frozen=True, slots=True)
class PathSet:
    """A list of globs, entries with `!` set apart."""

    plain: tuple[Glob, ...]
    excluded: tuple[Glob, ...]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "PathSet":
        """Raises `GlobError`."""
        plain = tuple(parse_glob(e) for e in entries if not e.startswith("!"))
        return cls(plain, tuple(parse_glob(e[1:]) for e in entries if e.startswith("!")))

    def texts(self) -> tuple[str, ...]:
        """The entries again, exclusions last."""
        return (*(g.text for g in self.plain), *(f"!{g.text}" for g in self.excluded))

    def holds(self, absolute: str, relative: str | None) -> bool:
        """Whether the path is in the set.

        Both subjects are slash-terminated and have no leading slash (`etc/passwd/`, the root is `""`);
        `relative` is None outside the workspace.
        """
        for glob in self.plain:
            subject = absolute if glob.absolute else relative
            if subject is not None and glob.regex.fullmatch(subject):
                break
        else:
            return False
        for glob in self.excluded:
            subject = absolute if glob.absolute else relative
            if subject is not None and glob.regex.fullmatch(subject):
                return False
        return True
