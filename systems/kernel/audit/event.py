"""What is logged, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, final

__all__ = ["MAX_SUMMARY", "SECURITY", "Event", "EventType"]

MAX_SUMMARY: Final = 500


@final
class EventType(Enum):
    """Everything that the log has a word for."""

    SYSCALL = "syscall"
    TOOL_EXECUTE = "tool_execute"
    TOOL_RESULT = "tool_result"
    STATE_TRANSITION = "state_transition"
    POLICY_UPDATE = "policy_update"
    SESSION_MODE_CHANGE = "session_mode_change"
    SANDBOX_CREATED = "sandbox_created"
    SANDBOX_DESTROYED = "sandbox_destroyed"
    SANDBOX_FAILED = "sandbox_failed"
    CAPABILITY_ISSUED = "capability_issued"
    CAPABILITY_EXPIRED = "capability_expired"
    MERGE_APPROVED = "merge_approved"
    MERGE_REJECTED = "merge_rejected"
    KERNEL_START = "kernel_start"
    KERNEL_SHUTDOWN = "kernel_shutdown"
    AUDIT_STORAGE_WARNING = "audit_storage_warning"
    AUDIT_ARCHIVE_DELETED = "audit_archive_deleted"


SECURITY: Final = frozenset({
    EventType.POLICY_UPDATE, EventType.MERGE_APPROVED, EventType.MERGE_REJECTED,
    EventType.SESSION_MODE_CHANGE, EventType.CAPABILITY_ISSUED,
})  # fmt: skip
"""Committed to disk before `append` returns."""


@final
@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Times and ids are the log's to give."""

    type: EventType
    caller: str
    subject: str = ""
    """The syscall's or tool's name."""
    decision: str | None = None
    rules: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    mode: str | None = None
    state: str | None = None
    token: str | None = None
    """The token's id in hex, never its bytes."""
    summary: str = ""
    """Of the input; secrets are removed and 500 characters kept."""
    duration_us: int = 0
    sandbox: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """JSON values; numbers as canonical JSON can hold them."""
