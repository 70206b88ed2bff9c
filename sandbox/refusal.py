"""Refusals: whose fault it is, which object, and what to do next.

Messages are lower case, without a full stop, with backticks round the user's input and the hint last
(after the model of Cedar's error style guide). The class says whose fault it is, and so the exit code.
"""

from typing import final

__all__ = ["BadInputError", "CannotConfineError", "SandboxError"]


class SandboxError(Exception):
    """Something was refused; `str()` is the one line that a person reads."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


@final
class BadInputError(SandboxError):
    """The caller's fault: an unknown word, a malformed profile, a command that is not there (exit 64)."""


@final
class CannotConfineError(SandboxError):
    """The host's fault: a launcher that is missing or cannot start, a kernel without seccomp.

    Nothing can be told about the sandbox then: exit 2 for a verdict, 70 for `holdfast run`.
    """
