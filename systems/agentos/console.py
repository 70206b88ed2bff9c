"""What goes to the terminal: results to standard output, notices to standard error, nothing that acts on it."""

import json
import sys
from typing import Any

__all__ = ["printable", "say", "tell"]


def say(value: str | dict[str, Any]) -> None:
    """A result, to standard output."""
    sys.stdout.write((json.dumps(value) if isinstance(value, dict) else printable(value)) + "\n")


def printable(text: str) -> str:
    """Text from anywhere, fit for a terminal: control characters as escapes, line ends kept."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def tell(notice: str) -> None:
    """A notice, to standard error."""
    sys.stderr.write(f"agentos: {printable(notice)}\n".replace("\n", " ").rstrip() + "\n")
