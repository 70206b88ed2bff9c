"""Changing the policy: `policy.update` is the one way, it is always reviewed, and it shows what it would change.

    propose(text, ...)  validates in memory, decides the last 100 audited calls by both policies -> Proposal
    apply(proposal, ...) logs it on disk, replaces the file as a whole, and hands the new policy to the guard

Only changed outcomes are shown. What was allowed and would be denied is marked BREAKING; more than five of
those need a phrase to be typed, so that nobody confirms them by habit.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.read import Entry, iter_entries
from holdfast.systems.kernel.audit.redecide import decide_entry
from holdfast.systems.kernel.decision import Outcome
from holdfast.systems.kernel.guard import Guard
from holdfast.systems.kernel.loader import Warned, load_rules
from holdfast.systems.kernel.policy import Policy, compile_policy
from holdfast.systems.kernel.rules import Rule, Source

__all__ = ["Change", "Proposal", "UpdateRefusedError", "apply_update", "audited_calls", "propose_update"]

REPLAYED: Final = 100
FEW: Final = 5


class UpdateRefusedError(PermissionError):
    """The policy stays as it is; the message says what is missing."""


@final
@dataclass(frozen=True, slots=True)
class Change:
    """One audited call that would come out otherwise."""

    entry: int
    syscall: str
    before: Outcome
    after: Outcome

    @property
    def breaking(self) -> bool:
        """What was allowed would be denied."""
        return self.before is Outcome.ALLOW and self.after is Outcome.DENY

    def __str__(self) -> str:
        mark = "BREAKING " if self.breaking else ""
        return f"{mark}entry {self.entry}: {self.syscall} {self.before.value} -> {self.after.value}"


@final
@dataclass(frozen=True, slots=True)
class Proposal:
    """A new policy, validated, and what it would have changed."""

    text: str
    policy: Policy
    replaces: str
    """SHA-256 of the file's text that it was proposed against."""
    changes: tuple[Change, ...]
    warnings: tuple[Warned, ...]
    replayed: int

    @property
    def phrase(self) -> str | None:
        """What must be typed; None when few calls break."""
        breaking = sum(change.breaking for change in self.changes)
        return f"break {breaking} calls" if breaking > FEW else None


def audited_calls(log: Path) -> list[Entry]:
    """The last 100 decided calls of a log, oldest first."""
    calls = [entry for entry in iter_entries(log) if entry.body["event"] == EventType.SYSCALL.value]
    return calls[-REPLAYED:]


def propose_update(text: str, file: Path, current: Policy, calls: Sequence[Entry]) -> Proposal:
    """Validate `text` and replay; changes nothing. Raises `PolicyFileError`, `OSError`.

    The built-ins are the current policy's: no file can change them.
    """
    loaded = load_rules(text, str(file))
    builtins: tuple[Rule, ...] = tuple(rule for rule in current.rules if rule.source is Source.BUILTIN)
    policy = compile_policy((*builtins, *loaded.rules))
    changes = []
    for entry in calls:
        before, after = decide_entry(entry, current).outcome, decide_entry(entry, policy).outcome
        if before is not after:
            changes.append(Change(entry.id, entry.body["subject"], before, after))
    return Proposal(text, policy, _digest(file), tuple(changes), loaded.warnings, len(calls))


def apply_update(
    proposal: Proposal, file: Path, guard: Guard, *, reviewer: str, phrase: str | None = None
) -> int:
    """Carry a reviewed proposal out; the audit entry's id. Raises `UpdateRefusedError`, `AuditError`, `OSError`.

    The entry is on disk before the file is touched; the file is replaced by a rename, so a reader sees the
    old policy or the new one; the guard decides by the new one from the next call on.
    """
    if not reviewer:
        raise UpdateRefusedError("a policy update is always reviewed; say who reviewed it")
    if proposal.phrase is not None and phrase != proposal.phrase:
        raise UpdateRefusedError(f"more than {FEW} calls would break; type `{proposal.phrase}` to confirm")
    if _digest(file) != proposal.replaces:
        raise UpdateRefusedError(f"`{file}` changed since the proposal was made; propose again")
    details = {
        "from": guard.policy.digest,
        "to": proposal.policy.digest,
        "changed": len(proposal.changes),
        "breaking": sum(change.breaking for change in proposal.changes),
    }
    guard.log.remember_policy(proposal.policy.digest, proposal.policy.document)
    event = Event(EventType.POLICY_UPDATE, reviewer, "policy.update", "require_review", metadata=details)
    entry = guard.log.append(event)
    _replace(file, proposal.text)
    guard.adopt(proposal.policy)
    return entry


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
