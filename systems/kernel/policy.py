"""A policy: rules compiled for asking, so that a decision costs nothing for rules that cannot apply.

Rules are filed by syscall and, below that, by the literal directory that their globs start with. A request
looks up its own syscall and the directories on the way to its path; no other rule is touched.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import rfc8785

from holdfast.systems.kernel.decision import Phase
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.request import SYSCALLS, Request
from holdfast.systems.kernel.rules import Action, Match, Rule, Source, Vote

__all__ = [
    "MAX_BUILTINS",
    "Policy",
    "PolicyError",
    "Shelf",
    "compile_policy",
    "parse_document",
    "rule_document",
]

MAX_BUILTINS: Final = 10
Filed = tuple[Rule, Vote]


class PolicyError(ValueError):
    """The rules do not make a policy."""


@final
@dataclass(frozen=True, slots=True)
class Shelf:
    """The rules of one syscall: those without a path, and the others by the directory they start with."""

    anywhere: tuple[Filed, ...]
    by_directory: Mapping[str, tuple[Filed, ...]]

    @property
    def empty(self) -> bool:
        """Whether no rule is filed here."""
        return not (self.anywhere or self.by_directory)

    def votes(self, request: Request) -> list[Vote]:
        """Every vote but abstentions. A rule filed twice votes twice, which weighs nothing."""
        votes: list[Vote] = []
        for rule, vote in self.anywhere:
            if rule.vote(request) is vote.action:
                votes.append(vote)
        by_directory = self.by_directory
        if by_directory and request.path is not None:
            for key in request.path.keys:
                if key in by_directory:
                    for rule, vote in by_directory[key]:
                        if rule.vote(request) is vote.action:
                            votes.append(vote)
        return votes


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that a decision depends on, besides the request and the time."""

    rules: tuple[Rule, ...]
    """Built-ins first; else in the order of their file. The order never matters."""
    builtin: Mapping[str, Shelf]
    yaml: Mapping[str, Shelf]
    digest: str
    """SHA-256 over `document`: equal rules in another order, or given twice, hash the same."""
    document: str
    """The canonical JSON of all rules, as a sorted set; `parse_document` makes the same policy of it."""


def compile_policy(rules: Iterable[Rule]) -> Policy:
    """File every rule; raises `PolicyError` when there are more than ten built-ins."""
    kept = tuple(sorted(rules, key=lambda rule: rule.source is not Source.BUILTIN))
    builtin = [rule for rule in kept if rule.source is Source.BUILTIN]
    if len(builtin) > MAX_BUILTINS:
        raise PolicyError(f"{len(builtin)} built-in rules; at most {MAX_BUILTINS} are allowed")
    if any(rule.source is Source.EXTENSION for rule in kept):
        raise PolicyError("an extension's rules live in its own process, not in the policy")
    document = _document(kept)
    others = [rule for rule in kept if rule.source is Source.YAML]
    return Policy(
        kept, _index(builtin), _index(others), hashlib.sha256(document).hexdigest(), document.decode()
    )


def _index(rules: list[Rule]) -> Mapping[str, Shelf]:
    filed: dict[str, list[Filed]] = {syscall: [] for syscall in SYSCALLS}
    for rule in rules:
        if rule.action is Action.PASS:
            continue
        entry = (rule, rule.ballot())
        for syscall in filed if rule.match.syscalls is None else rule.match.syscalls & filed.keys():
            filed[syscall].append(entry)
    shelves = {}
    empty = Shelf((), MappingProxyType({}))
    for syscall, entries in filed.items():
        shelves[syscall] = _shelve(entries) if entries else empty
    return MappingProxyType(shelves)


def _shelve(entries: list[Filed]) -> Shelf:
    anywhere: list[Filed] = []
    by_directory: dict[str, list[Filed]] = {}
    for entry in entries:
        paths = entry[0].match.paths
        if paths is None:
            anywhere.append(entry)
            continue
        for prefix in {glob.prefix for glob in paths.plain}:
            by_directory.setdefault(prefix, []).append(entry)
    return Shelf(tuple(anywhere), {key: tuple(found) for key, found in by_directory.items()})


def _document(rules: tuple[Rule, ...]) -> bytes:
    documents = sorted({rfc8785.dumps(rule_document(rule)) for rule in rules})
    return b"[" + b",".join(documents) + b"]"


def parse_document(document: str) -> Policy:
    """The policy that wrote `document`; for deciding again. Raises `PolicyError`."""
    try:
        return compile_policy(_read_rule(item) for item in json.loads(document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"not the document of a policy: {error}") from None


def _read_rule(item: dict[str, Any]) -> Rule:
    return Rule(
        name=item["name"],
        match=_read_match(item["match"]),
        action=Action(item["action"]),
        excepts=tuple(_read_match(match) for match in item["except"]),
        reason=item["reason"],
        limits=tuple(sorted(item["constraints"].items())),
        source=Source(Phase(item["source"])),
    )


def _read_match(item: dict[str, list[str]]) -> Match:
    syscalls, tags, states = (
        frozenset(item[key]) if key in item else None for key in ("syscall", "caller_tag", "state")
    )
    paths = PathSet.parse(item["path_glob"]) if "path_glob" in item else None
    return Match(syscalls, tags, paths, states)


def rule_document(rule: Rule) -> dict[str, Any]:
    """The rule as JSON, every field that a decision can depend on and no line number."""
    return {
        "action": rule.action.value,
        "constraints": dict(rule.limits),
        "except": sorted((_match_document(item) for item in rule.excepts), key=rfc8785.dumps),
        "match": _match_document(rule.match),
        "name": rule.name,
        "reason": rule.reason,
        "source": rule.source.value.value,
    }


def _match_document(match: Match) -> dict[str, list[str]]:
    fields = {
        "caller_tag": match.caller_tags,
        "path_glob": None if match.paths is None else match.paths.texts(),
        "state": match.states,
        "syscall": match.syscalls,
    }
    return {key: sorted(values) for key, values in fields.items() if values is not None}
