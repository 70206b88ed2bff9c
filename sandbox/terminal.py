"""A pty that the harness owns: the terminal from which a sandbox is started, and that it must not type into."""

import os
import termios
from types import TracebackType
from typing import Self, final

from holdfast import clock

__all__ = ["Terminal"]

READ_SECONDS = 2.0


@final
class Terminal:
    """Master and slave; the slave becomes descriptors 0 to 2 and the controlling terminal inside.

    Raises `OSError` where the host has no pty.
    """

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        settings = termios.tcgetattr(self.slave)
        settings[3] |= termios.ECHO  # so that what is typed into it comes out at the master
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)
        # A description of our own: what a sandbox does to the one that it is handed must not block us.
        self._ours = os.open(os.ttyname(self.slave), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._marks = 0

    def typed(self, byte: bytes) -> bool:
        """Whether `byte` was typed into the terminal since the last call.

        Writes a mark through the slave and reads the master up to it: what was echoed came before, so no
        time has to be waited for an echo that never comes.
        """
        self._marks += 1
        mark = b"\x1e%d\x1e" % self._marks
        deadline = clock.monotonic() + READ_SECONDS
        text = self._drain_until_written(mark, deadline) + self._read_to(mark, deadline)
        termios.tcflush(self.slave, termios.TCIFLUSH)
        return byte in text

    def drain(self) -> str:
        """What was printed so far; for the last words of an agent that died."""
        os.set_blocking(self.master, False)
        try:
            return os.read(self.master, 1 << 16).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.set_blocking(self.master, True)

    def _drain_until_written(self, mark: bytes, deadline: float) -> bytes:
        """Write the mark; a terminal that somebody has filled is read empty first, for as long as there is time."""
        text = b""
        while True:
            try:
                os.write(self._ours, mark)
            except BlockingIOError:
                text += clock.read_before(self.master, 1 << 16, deadline, what="room in the pty")
            else:
                return text

    def _read_to(self, mark: bytes, deadline: float) -> bytes:
        text = b""
        while mark not in text:
            text += clock.read_before(self.master, 1 << 16, deadline, what="the pty's own mark")
        return text.partition(mark)[0]

    def close(self) -> None:
        """Hang up."""
        os.close(self._ours)
        os.close(self.slave)
        os.close(self.master)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
