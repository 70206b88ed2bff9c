"""The policy in force, read again when its file changes; a bad new one is reported and not taken."""

from collections.abc import Callable
from pathlib import Path
from typing import final

from holdfast.systems.kakeya.policy import Policy, PolicyError, load_policy

__all__ = ["PolicyFile"]


@final
class PolicyFile:
    """Call it for the policy in force. The gateway's trust and the store are those of the start.

    A change is seen by the file's identity, size and time together; writers replace the file by renaming.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._policy = load_policy(path)
        self.error: PolicyError | None = None
        """Why the file as it lies there now is not in force; None when it is."""
        self.on_error: Callable[[PolicyError], None] = lambda _: None
        """Called once for each new file that is refused."""

    def __call__(self) -> Policy:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._take()
        return self._policy

    def _take(self) -> None:
        try:
            self._policy, self.error = load_policy(self._path), None
        except PolicyError as error:
            self.error = error
            self.on_error(error)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_size, found.st_mtime_ns)
