"""Sandboxes that are not ours: what a user names with `--launcher`, turned into a type once.

launcher := known name | command prefix            "docker"   "nsjail -Mo --chroot / --"

A prefix is split by the shell's rules of quoting, without a shell; the agent's own command line is put
behind it. A known name alone means our module for it, with the policy that the tool applies by default.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.refusal import BadInputError

__all__ = ["KNOWN", "Foreign", "parse_launcher", "parse_launchers"]

KNOWN = ("firejail", "docker", "podman", "runc", "crun", "systemd-nspawn", "srt", "codex")
"""Those with a module of their own in `launchers/`, in the order of the matrix."""


@final
@dataclass(frozen=True, slots=True)
class Foreign:
    """A launcher by name; with a prefix, the user's own command line."""

    value: str
    """As files and columns are named; the same attribute that `Isolation` has."""
    prefix: tuple[str, ...] = ()


def parse_launcher(text: str) -> Foreign:
    """Read one launcher; raises `BadInputError` when there is nothing to run."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInputError(f"launcher `{text}` cannot be split: {error}", hint="check its quotes") from None
    if not words:
        raise BadInputError(
            "an empty launcher",
            hint=f"one of {', '.join(KNOWN)}, or a command prefix such as `nsjail -Mo --`",
        )
    if words[0] in KNOWN and len(words) == 1:
        return Foreign(words[0])
    return Foreign(_file_word(words[0]), words)


def parse_launchers(texts: Iterable[str]) -> tuple[Foreign, ...]:
    """Read several; raises `BadInputError` when two would be written to the same file."""
    found = tuple(dict.fromkeys(parse_launcher(text) for text in texts))
    names = [foreign.value for foreign in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInputError(f"two launchers are both called `{twice[0]}`", hint="measure one after the other")
    return found


def _file_word(command: str) -> str:
    """A word for file names: the command's base name, marked as the user's own where a module has it too."""
    base = re.sub(r"[^A-Za-z0-9._-]", "-", command.rsplit("/", maxsplit=1)[-1]).strip(".-") or "launcher"
    return f"{base}-prefix" if base in (*KNOWN, "none", "seccomp", "bwrap") else base
