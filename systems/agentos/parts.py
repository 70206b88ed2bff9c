"""How the commands get their objects: one method a part, so that one of them can be another.

`Parts` is all that a local tier uses; `reporting` is the only way on to what knows a transport, and is
loaded when a tier that reports is set, not before. The tests' planted faults are subclasses of a few lines.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.systems.agentos.integrations.local import LocalClient
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.journal import Sync
from holdfast.systems.agentos.privacy.tier import LocalOnly

if TYPE_CHECKING:
    from holdfast.systems.agentos.reporting import Reporting

__all__ = ["Parts", "parts", "use_parts"]


class Parts:
    """The objects of one run of the command."""

    def recorder(self, data: Path, sync: Sync) -> Recorder:
        """The writer of the data folder."""
        return Recorder(data, sync=sync)

    def local_client(self, recorder: Recorder) -> LocalClient:
        """The client under LocalOnly."""
        return LocalClient(LocalOnly(), recorder)

    def reporting(self) -> "Reporting":
        """What a tier that reports needs besides."""
        from holdfast.systems.agentos.reporting import Reporting

        return Reporting()


_CURRENT: ContextVar[Parts] = ContextVar("parts")


def use_parts(chosen: Parts) -> None:
    """What the commands of this run get their objects from."""
    _CURRENT.set(chosen)


def parts() -> Parts:
    """What `use_parts` was given."""
    return _CURRENT.get()
