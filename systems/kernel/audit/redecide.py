"""Every decision in a log, made again: the same inputs and policy must give the same bytes.

An entry of a call carries its inputs and the digest of the policy; the log keeps the policy's document. The
decision is taken anew, with the extension's recorded votes, and compared as canonical JSON.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import rfc8785

from holdfast.systems.kernel.audit.read import Entry, iter_entries, read_policy
from holdfast.systems.kernel.decision import Decision, Phase
from holdfast.systems.kernel.engine import decide, strictest
from holdfast.systems.kernel.policy import Policy, PolicyError, parse_document
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck

__all__ = ["Difference", "Tally", "decide_entry", "decision_document", "redecide", "requests_of"]


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """An entry whose decision cannot be had again."""

    id: int
    message: str


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """How many decisions were made again, and which came out otherwise."""

    decisions: int
    differences: tuple[Difference, ...]


def redecide(path: Path) -> Tally:
    """Walk a whole log; raises `AuditError` when it cannot be read."""
    policies: dict[str, Policy | str] = {}
    count, differences = 0, []
    for entry in iter_entries(path):
        if entry.body.get("event") != "syscall":
            continue
        count += 1
        try:
            message = _difference(entry, _policy(path, entry, policies))
        except (KeyError, ValueError, TypeError) as error:
            message = f"its inputs cannot be read: {error}"
        if message is not None:
            differences.append(Difference(entry.id, message))
    return Tally(count, tuple(differences))


def _policy(path: Path, entry: Entry, known: dict[str, Policy | str]) -> Policy | str:
    digest = str(entry.body["metadata"]["policy"])
    if digest not in known:
        known[digest] = _load(path, digest)
    return known[digest]


def _load(path: Path, digest: str) -> Policy | str:
    text = read_policy(path, digest)
    if text is None:
        return f"the log does not hold policy {digest[:12]}"
    if sha256(text.encode()).hexdigest() != digest:
        return f"the document of policy {digest[:12]} was changed"
    try:
        return parse_document(text)
    except PolicyError as error:
        return str(error)


def _difference(entry: Entry, policy: Policy | str) -> str | None:
    if isinstance(policy, str):
        return policy
    again = decide_entry(entry, policy)
    recorded, found = rfc8785.dumps(_recorded(entry)), rfc8785.dumps(decision_document(again))
    return None if recorded == found else f"recorded {recorded.decode()}, decided again {found.decode()}"


def decide_entry(entry: Entry, policy: Policy) -> Decision:
    """The entry's call, decided by `policy` from the recorded inputs; raises `KeyError`, `ValueError`."""
    inputs = entry.body["metadata"]
    now = int(inputs["now"])
    return strictest(
        _again(request, policy, now, inputs[f"token{number}"], inputs.get(f"votes{number}", ()))
        for number, request in enumerate(requests_of(entry))
    )


def _again(
    request: Request, policy: Policy, now: int, token: str | None, said: Sequence[tuple[str, str, str]]
) -> Decision:
    """One path's decision, with the token standing and the extension's votes that were recorded for it."""
    votes = [Vote(rule, Action(action), reason, Phase.EXTENSION) for rule, action, reason in said]
    check = None if token is None else TokenCheck(Standing(token), request, now)
    return decide(request, policy, now, check, extensions=(lambda *_: votes,) if votes else ())


def requests_of(entry: Entry) -> list[Request]:
    """The requests that an entry's decision was about, one for each path; raises `ValueError`, `KeyError`."""
    body, inputs = entry.body, entry.body["metadata"]
    return [
        Request(body["subject"], body["caller"], path, inputs["caller_tag"], body["state"])
        for path in _paths(inputs)
    ]


def _paths(inputs: dict[str, Any]) -> Iterator[ResolvedPath | None]:
    if "path0" not in inputs:
        yield None
    for number in range(2):
        if f"path{number}" in inputs:
            yield ResolvedPath.judged(inputs[f"path{number}"], inputs[f"workspace{number}"])


def decision_document(decision: Decision) -> dict[str, Any]:
    """A decision as JSON, every field."""
    return {
        "limits": dict(decision.limits),
        "now": str(decision.now),
        "outcome": decision.outcome.value,
        "phase": decision.phase.value,
        "policy": decision.policy,
        "reasons": list(decision.reasons),
        "rules": list(decision.rules),
        "token": None if decision.token is None else decision.token.value,
    }


def _recorded(entry: Entry) -> dict[str, Any]:
    body, inputs = entry.body, entry.body["metadata"]
    return {
        "limits": inputs.get("limits", {}),
        "now": inputs["now"],
        "outcome": body["decision"],
        "phase": inputs["phase"],
        "policy": inputs["policy"],
        "reasons": body["reasons"],
        "rules": body["rules"],
        "token": inputs["token"],
    }
