"""How much is kept: 90 days and 1 GiB, archives included; warned of before, and logged when it goes.

    over 80 %   a warning        over 95 %   a critical one        over 100 %   the oldest archive is deleted

The live log is never cut: what fills up is moved to an archive, a log of its own that verifies on its own.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final, final

from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog

__all__ = ["Level", "Retention", "keep", "level_of"]

ARCHIVE: Final = "audit-*.db"
COMPANIONS: Final = ("", "-wal", "-shm", ".snapshot")


@final
class Level(Enum):
    """How full the storage is."""

    FINE = "fine"
    WARN = "warn"
    CRITICAL = "critical"
    OVER = "over"


@final
@dataclass(frozen=True, slots=True)
class Retention:
    """Where archives go and how much is kept."""

    archives: Path
    limit: int = 1 << 30
    """Bytes, of the live log and all archives together."""
    days: int = 90
    segment: int = 64 << 20
    """The live log is archived when it is larger than this."""


def level_of(used: int, limit: int) -> Level:
    """Pure; the boundaries themselves are still the lower level."""
    for level, percent in ((Level.OVER, 100), (Level.CRITICAL, 95), (Level.WARN, 80)):
        if used * 100 > limit * percent:
            return level
    return Level.FINE


def keep(log: AuditLog, retention: Retention, now: datetime) -> Level:
    """Archive, warn, delete, in that order; the level afterwards. Called now and then by the kernel.

    Raises `AuditError`: an archive is deleted only after its deletion is on disk as an entry.
    """
    retention.archives.mkdir(parents=True, exist_ok=True)
    if _live(log.path) > retention.segment:
        log.archive(retention.archives / f"audit-{now:%Y%m%dT%H%M%S%f}.db")
    for archive in _archives(retention):
        written = datetime.fromtimestamp(archive.stat().st_mtime, UTC)
        if now - written > timedelta(days=retention.days):
            _delete(log, archive, f"older than {retention.days} days")
    _warn(log, retention)
    while level_of(_used(log.path, retention), retention.limit) is Level.OVER and (
        rest := _archives(retention)
    ):
        _delete(log, rest[0], "storage is over its limit")
    return level_of(_used(log.path, retention), retention.limit)


def _warn(log: AuditLog, retention: Retention) -> None:
    used = _used(log.path, retention)
    level = level_of(used, retention.limit)
    if level is not Level.FINE:
        details = {"level": level.value, "used": used, "limit": retention.limit}
        log.append(Event(EventType.AUDIT_STORAGE_WARNING, "kernel", metadata=details))


def _delete(log: AuditLog, archive: Path, why: str) -> None:
    details = {"archive": archive.name, "bytes": archive.stat().st_size}
    log.append(Event(EventType.AUDIT_ARCHIVE_DELETED, "kernel", reasons=(why,), metadata=details))
    log.flush()
    archive.unlink()


def _archives(retention: Retention) -> list[Path]:
    return sorted(retention.archives.glob(ARCHIVE))


def _live(path: Path) -> int:
    files = (Path(f"{path}{end}") for end in COMPANIONS)
    return sum(file.stat().st_size for file in files if file.exists())


def _used(path: Path, retention: Retention) -> int:
    return _live(path) + sum(archive.stat().st_size for archive in _archives(retention))
