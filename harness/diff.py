"""What changed between two runs, regression first: a family that was held and is not.

read_snapshot(path) -> Snapshot                 a results folder, or one JSON file of a run
compare(old, new)   -> Change, ...              pure, worst first
render_changes(...) -> lines
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, final

import jsonschema

from holdfast.harness.results import validate_document
from holdfast.sandbox.refusal import BadInputError

__all__ = ["Change", "Kind", "Snapshot", "compare", "exit_of", "read_snapshot", "render_changes"]

GOOD = frozenset({"held", "pass", "proven"})
MAX_BYTES = 32 << 20

Key = tuple[str, str, str]
"""(what: gate, family, act or probe; where: isolation or `run`; name)"""


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one run said."""

    run_ids: tuple[str, ...]
    verdicts: Mapping[Key, str]


@final
class Kind(Enum):
    """How a thing changed; ordered from what is to be read first."""

    REGRESSION = "regression"
    """It was good and is not."""
    LOST = "no longer judged"
    """It was good and was not looked at: no better than a regression."""
    CHANGED = "changed"
    FIXED = "fixed"
    NEW = "new"
    GONE = "gone"


@final
@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    kind: Kind
    key: Key
    old: str | None
    new: str | None

    def __str__(self) -> str:
        what, where, name = self.key
        return f"{self.kind.value}: {what} {name} under {where}: {self.old or 'not judged'} -> {self.new or 'not judged'}"


def read_snapshot(path: Path) -> Snapshot:
    """Read a results folder (its SANDBOX and METRICS files) or one JSON document.

    Raises `BadInputError` where nothing can be read or a file breaks its schema.
    """
    if path.is_dir():
        files = sorted([*path.glob("SANDBOX_*.json"), *path.glob("METRICS_*.json")])
        if not files:
            raise BadInputError(f"`{path}` holds no results", hint="name a folder with SANDBOX_*.json in it")
    else:
        files = [path]
    verdicts: dict[Key, str] = {}
    runs: dict[str, None] = {}
    for file in files:
        document = _load(file)
        runs[document["run"]["id"]] = None
        verdicts |= dict(_iter_verdicts(document))
    return Snapshot(tuple(runs), verdicts)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInputError(f"`{path}` is larger than {MAX_BYTES >> 20} MiB")
        document = json.loads(path.read_text(encoding="utf-8"))
        validate_document(document)
    except OSError as error:
        raise BadInputError(f"cannot read `{path}`: {error.strerror}") from None
    except jsonschema.ValidationError as error:
        raise BadInputError(f"`{path}` breaks its schema at {error.json_path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"`{path}` is no result of holdfast: {error}") from None
    if "run" not in document:
        raise BadInputError(f"`{path}` is of no run")
    return dict(document)


def _iter_verdicts(document: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    match document["schema"]:
        case "holdfast.sandbox/1":
            where = document["isolation"]
            for what, plural in (("family", "families"), ("act", "acts")):
                for name, verdict in document[plural].items():
                    yield (what, where, name), verdict
            for probe in document["probes"]:
                yield ("probe", where, probe["id"]), probe["verdict"]
        case "holdfast.metrics/1":
            for gate, told in document["gates"].items():
                yield ("gate", document.get("name", "run"), gate), told["outcome"]
        case "holdfast.history/1":
            for gate, outcome in document["gates"].items():
                yield ("gate", document["name"], gate), outcome
            for what, plural in (("family", "families"), ("act", "acts")):
                for where, own in document[plural].items():
                    for name, verdict in own.items():
                        yield (what, where, name), verdict
        case other:
            raise BadInputError(f"`{other}` has no verdicts to compare")


def compare(old: Snapshot, new: Snapshot) -> tuple[Change, ...]:
    """Every difference, regressions first; within a kind gates before families, acts and probes."""
    order = {"gate": 0, "family": 1, "act": 2, "probe": 3}
    changes = [
        Change(_kind(before, after), key, before, after)
        for key in old.verdicts.keys() | new.verdicts.keys()
        if (before := old.verdicts.get(key)) != (after := new.verdicts.get(key))
    ]
    kinds = list(Kind)
    return tuple(sorted(changes, key=lambda c: (kinds.index(c.kind), order[c.key[0]], c.key)))


def _kind(before: str | None, after: str | None) -> Kind:
    match before in GOOD, after in GOOD:
        case True, _ if after is None:
            return Kind.LOST
        case True, False:
            return Kind.REGRESSION
        case False, True if before is not None:
            return Kind.FIXED
        case _ if before is None:
            return Kind.NEW
        case _ if after is None:
            return Kind.GONE
        case _:
            return Kind.CHANGED


def exit_of(old: Snapshot, new: Snapshot, changes: Sequence[Change]) -> int:
    """0 nothing got worse · 1 something did · 2 the two have nothing in common, so nothing can be told."""
    if any(change.kind in {Kind.REGRESSION, Kind.LOST} for change in changes):
        return 1
    return 0 if old.verdicts.keys() & new.verdicts.keys() else 2


def render_changes(old: Snapshot, new: Snapshot, changes: Sequence[Change]) -> Iterator[str]:
    """Lines for a terminal."""
    shared = len(old.verdicts.keys() & new.verdicts.keys())
    yield f"{', '.join(old.run_ids)} -> {', '.join(new.run_ids)}: {shared} verdicts in both, {len(changes)} changed"
    yield from map(str, changes)
