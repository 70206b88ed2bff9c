"""Word boundaries of UAX #29 as one regular expression over the `Word_Break` property.

Each match is one segment, so that `segments` is a `findall`. Every loop is possessive over disjoint classes:
no input makes it backtrack, and time is linear in the text. Rule numbers are those of UAX #29, table 4.
"""

import regex

__all__ = ["JOINERS", "WORD", "segments"]


def _wb(*names: str) -> str:
    return "[" + "".join(rf"\p{{WB={name}}}" for name in names) + "]"


JOINERS = _wb("Extend", "Format", "ZWJ") + "*+"
"""WB4: what clings to the character before it."""

_LETTER = _wb("ALetter", "Hebrew_Letter") + JOINERS
_NUMBER = _wb("Numeric") + JOINERS
_KATAKANA = _wb("Katakana") + JOINERS
_CONNECTOR = _wb("ExtendNumLet") + JOINERS
_HEBREW_BEFORE = rf"(?<=\p{{WB=Hebrew_Letter}}{JOINERS[:-1]})"

_LETTERS = (  # WB5, WB6, WB7, WB7b, WB7c
    rf"{_LETTER}(?:{_LETTER}"
    rf"|{_wb('MidLetter', 'MidNumLet', 'Single_Quote')}{JOINERS}{_LETTER}"
    rf"|{_HEBREW_BEFORE}\p{{WB=Double_Quote}}{JOINERS}\p{{WB=Hebrew_Letter}}{JOINERS})*+"
)
_NUMBERS = (  # WB8, WB11, WB12
    rf"{_NUMBER}(?:{_NUMBER}|{_wb('MidNum', 'MidNumLet', 'Single_Quote')}{JOINERS}{_NUMBER})*+"
)
_RUN = rf"(?:(?:{_LETTERS}|{_NUMBERS})++|(?:{_KATAKANA})++)"  # WB9, WB10, WB13
WORD = (  # WB13a, WB13b, and WB7a for the quote that ends a Hebrew word
    rf"(?:{_RUN}|{_CONNECTOR})(?:(?:{_CONNECTOR})++{_RUN}?+|(?<=\p{{WB=ExtendNumLet}}{JOINERS[:-1]}){_RUN})*+"
    rf"(?:{_HEBREW_BEFORE}\p{{WB=Single_Quote}}{JOINERS})?+"
)
_PAIR = rf"\p{{WB=Regional_Indicator}}{JOINERS}(?:\p{{WB=Regional_Indicator}}{JOINERS})?+"  # WB15, WB16
_SPACES = rf"\p{{WB=WSegSpace}}++{JOINERS}"  # WB3d
_CORE = rf"(?:{WORD}|{_PAIR}|{_SPACES}|[^\r\n\p{{WB=Newline}}]{JOINERS})"
_SEGMENT = regex.compile(  # WB3, WB3a, WB3b, WB3c, WB999
    rf"\r\n|[\r\n\p{{WB=Newline}}]|{_CORE}(?:(?<=\p{{WB=ZWJ}})(?=\p{{Extended_Pictographic}}){_CORE})*+",
    regex.V1,
)


def segments(text: str) -> list[str]:
    """The segments between word boundaries; joined together they are `text` again."""
    found: list[str] = _SEGMENT.findall(text)
    return found
