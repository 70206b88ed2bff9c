"""What a proxy can tell of the sandbox that it is in, and what its broker counted on its behalf."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import msgspec

from holdfast.systems.ccp.settings import Settings

__all__ = ["COUNTS", "UNCONFINED", "Surroundings", "read_counts", "surroundings_of"]

COUNTS = "decisions.json"
"""Beside the broker's sockets: how often each decision was taken, written anew after each."""


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """For `/readyz` and `/metrics`."""

    sandbox: Mapping[str, object] = field(default_factory=lambda: {"isolation": "none", "weaker": []})
    broker_counts: Path | None = None


UNCONFINED = Surroundings()


def surroundings_of(settings: Settings) -> Surroundings:
    """As the broker outside has told by the environment."""
    sandbox = {"isolation": settings.confined or "none", "weaker": list(settings.weaker)}
    return Surroundings(sandbox, Path(settings.via).with_name(COUNTS) if settings.via else None)


def read_counts(path: Path | None) -> dict[str, int]:
    """Decision -> count; nothing where there is no broker, or none of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path is not None else {}
    except (OSError, msgspec.DecodeError):
        return {}
