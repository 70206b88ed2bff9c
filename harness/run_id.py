"""One run: its id, its canaries, when it began and of which commit."""

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast import clock

__all__ = ["Canaries", "Run", "begin_run"]

PROJECT = Path(__file__).resolve().parent.parent
GIT_SECONDS = 5.0


@final
@dataclass(frozen=True, slots=True)
class Canaries:
    """Secrets that exist for one run only; whoever reports one has seen what it should not."""

    key: str
    neighbour: str
    home: str
    environment: str

    @classmethod
    def fresh(cls) -> "Canaries":
        """Draw new ones."""
        return cls(*(f"holdfast-{secrets.token_hex(12)}" for _ in range(4)))


@final
@dataclass(frozen=True, slots=True)
class Run:
    """What all files of one run carry."""

    id: str
    started: str
    """RFC 3339, UTC."""
    commit: str
    """Of the harness; `unknown` outside a checkout."""


def begin_run() -> Run:
    """A new run; its id sorts by time and is never used twice."""
    now = clock.utc_now()
    return Run(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}", now.isoformat(timespec="seconds"), _commit())


def _commit() -> str:
    if not (PROJECT / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.decode().strip() or "unknown"
