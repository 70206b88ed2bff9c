"""The built-in rules: what no policy, extension or token can lift.

Denied is every change to the policy file, the audit log's files and the state database, of them and of the
directories above them (renaming a parent moves the file). Bootstrap and kernel files ask for review, and so
does every change of the policy. Paths are held against these rules after resolution, so dotfiles, `./`,
`x/../`, `//`, absolute paths, symlinks and hard links are all the same file.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, final

from holdfast.systems.kernel.glob import Glob, PathSet, parse_glob
from holdfast.systems.kernel.request import CHANGES_FILES
from holdfast.systems.kernel.rules import Action, Match, Rule, Source

__all__ = ["Protected", "builtin_rules"]

SQLITE_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
AUDIT_COMPANIONS: Final = (*SQLITE_COMPANIONS, ".lock", ".key", ".snapshot")
MOVES: Final = frozenset({"fs.rename", "fs.delete", "fs.chmod"})
"""Calls that, done to a directory, take away what lies in it."""


@final
@dataclass(frozen=True, slots=True)
class Protected:
    """Where the kernel's own files are; each is resolved before it becomes a rule."""

    policy: Path
    audit: Path
    state: Path
    bootstrap: tuple[Path, ...] = ()
    kernel: tuple[Path, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """The files whose other names (hard links) count as themselves."""
        audit = (Path(f"{self.audit}{end}") for end in AUDIT_COMPANIONS)
        state = (Path(f"{self.state}{end}") for end in SQLITE_COMPANIONS)
        return (self.policy, *audit, *state, *self.bootstrap, *self.kernel)


def builtin_rules(protected: Protected) -> tuple[Rule, ...]:
    """At most ten; every syscall that can change a file, from one table."""
    audit = tuple(f"{protected.audit}{end}" for end in AUDIT_COMPANIONS)
    state = tuple(f"{protected.state}{end}" for end in SQLITE_COMPANIONS)
    guarded = (str(protected.policy), *audit, *state)
    rules = [
        _guard(
            "protect-meta-policy",
            Action.DENY,
            (str(protected.policy),),
            "the policy changes only by policy.update",
        ),
        _guard("protect-audit-log", Action.DENY, audit, "the audit log is written by the kernel alone"),
        _guard("protect-state-db", Action.DENY, state, "the state database is written by the kernel alone"),
        _rule(
            "protect-parents", Action.DENY, MOVES, _parents(guarded), "a directory above kernel files stays"
        ),
        _guard(
            "review-bootstrap", Action.REVIEW, map(str, protected.bootstrap), "bootstrap files need a review"
        ),
        _guard("review-kernel", Action.REVIEW, map(str, protected.kernel), "kernel files need a review"),
    ]
    update = Match(syscalls=frozenset({"policy.update"}))
    reason = "a change of the policy is always reviewed"
    rules.append(Rule("review-policy-update", update, Action.REVIEW, (), reason, (), Source.BUILTIN))
    return tuple(rules)


def _guard(name: str, action: Action, paths: Iterable[str], reason: str) -> Rule:
    globs = [glob for path in paths for glob in _itself_and_below(os.path.realpath(path))]
    return _rule(name, action, CHANGES_FILES, globs, reason)


def _rule(name: str, action: Action, syscalls: frozenset[str], globs: Iterable[Glob], reason: str) -> Rule:
    match = Match(syscalls, None, PathSet(tuple(globs), ()))
    return Rule(name, match, action, (), reason, (), Source.BUILTIN)


def _itself_and_below(path: str) -> Iterator[Glob]:
    yield parse_glob(f"{_quoted(path)}/**")


def _parents(paths: Iterable[str]) -> list[Glob]:
    parents = {str(parent) for path in paths for parent in PurePosixPath(os.path.realpath(path)).parents}
    return [parse_glob(_quoted(parent)) for parent in sorted(parents) if parent != "/"]


def _quoted(path: str) -> str:
    """A path as a glob that means only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
