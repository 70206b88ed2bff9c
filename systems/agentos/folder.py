"""The data folder's files, by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["DataFolder"]


@final
@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where one adapter keeps its files. Everything but the log and the snapshots is derived from them."""

    root: Path

    @property
    def windows(self) -> Path:
        """The log: sessions, turns, ends; the truth."""
        return self.root / "windows.jsonl"

    @property
    def glm_counts(self) -> Path:
        """Turns of glm models; derived from the log."""
        return self.root / "glm_counts.jsonl"

    @property
    def summary(self) -> Path:
        """What the log adds up to; derived from it."""
        return self.root / "metrics_summary.json"

    @property
    def snapshots(self) -> Path:
        """Usage snapshots as they were given by the CCC or ingested."""
        return self.root / "usage_snapshots.jsonl"

    @property
    def outbox(self) -> Path:
        """What is to be uploaded; no such file where nothing ever was."""
        return self.root / "outbox.sqlite"
