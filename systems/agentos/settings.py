"""What the adapter is told, from options and the environment; strings become types here."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.files import read_bounded
from holdfast.systems.agentos.privacy.tier import TierName

__all__ = ["Settings", "read_key"]


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """One adapter's set-up. What a tier does not need may be missing."""

    data: Path
    tier: TierName
    url: str | None = None
    key_file: Path | None = None
    authority: Path | None = None
    licence: Path | None = None
    keyring: Path | None = None

    def need(self, name: str) -> Path:
        """A file that the set tier needs."""
        found: Path | None = getattr(self, name)
        if found is None:
            option = {"key_file": "--key-file", "licence": "--licence", "keyring": "--keyring"}[name]
            raise BadInputError(f"the tier `{self.tier.value}` needs {option}; `agentos --help` lists them")
        return found

    @property
    def address(self) -> str:
        """The CCC's address, which a tier that reports needs."""
        if self.url is None:
            raise BadInputError(f"the tier `{self.tier.value}` needs --url, the CCC's address")
        return self.url


def read_key(path: Path) -> str:
    """The bearer key from its file, which nobody but its owner may read."""
    raw = read_bounded(path, what="the key file", limit=4096)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and path.stat().st_uid == os.getuid():
        raise BadInputError(f"the key file `{path}` is open to others (mode {mode:o}); run: chmod 600 {path}")
    key = raw.decode("ascii", "replace").strip()
    if not key or not key.isprintable() or "\ufffd" in key or " " in key:
        raise BadInputError(f"the key file `{path}` does not hold one line with a key")
    return key
