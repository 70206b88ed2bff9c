"""How the conversation with an agent crosses the wall: one socket, by descriptor or by path.

with open_channel(kind) as channel:  channel.word  -> the agent's argument
                                     channel.descriptors, channel.folders -> what the launch must hand over
                                     channel.answer(confined) -> our end
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast import clock
from holdfast.sandbox.launchers.runtime import Channel

__all__ = ["CONTROL", "OpenChannel", "open_channel"]

CONTROL, STDERR = 3, 2
ANSWER_SECONDS = 30.0
"""A container's start takes a second or two; a machine under load gets more."""
LOOK_SECONDS = 0.05


@final
@dataclass(frozen=True, slots=True)
class OpenChannel:
    """One way across, before anyone speaks."""

    word: str
    """The agent's one argument."""
    descriptors: Mapping[int, int]
    folders: tuple[str, ...]
    """What must be writable inside at the same path."""
    noisy: bool
    """Whether a launcher may write its own words into the conversation."""
    answer: Callable[[Callable[[], bool]], socket.socket | None]
    """Our end, once the agent is there; None when `ended()` came true first, or nobody came in time."""


@contextlib.contextmanager
def open_channel(kind: Channel) -> Iterator[OpenChannel]:
    """Make the sockets. The agent's end is closed on leaving; ours belongs to the caller once it was answered."""
    match kind:
        case Channel.INHERITED:
            with _pair(CONTROL, noisy=False) as channel:
                yield channel
        case Channel.STDERR:
            with _pair(STDERR, noisy=True) as channel:
                yield channel
        case Channel.PATH:
            with _listening() as channel:
                yield channel


@contextlib.contextmanager
def _pair(number: int, *, noisy: bool) -> Iterator[OpenChannel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    given = False

    def answer(_: Callable[[], bool]) -> socket.socket:
        nonlocal given
        given = True
        theirs.close()  # so that the end of the last process inside is the end of the conversation
        return ours

    try:
        yield OpenChannel(str(number), {number: theirs.fileno()}, (), noisy, answer)
    finally:
        theirs.close()
        if not given:
            ours.close()


@contextlib.contextmanager
def _listening() -> Iterator[OpenChannel]:
    """A socket in a folder of its own, which only this user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-channel-"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path = str(folder / "agent.sock")
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: PTH101, S103 - a container's root may be another user; the folder guards it
        listener.listen(1)
        listener.settimeout(LOOK_SECONDS)
        yield OpenChannel(path, {}, (str(folder),), False, lambda ended: _accept(listener, ended))
    finally:
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def _accept(listener: socket.socket, ended: Callable[[], bool]) -> socket.socket | None:
    deadline = clock.monotonic() + ANSWER_SECONDS
    while clock.monotonic() < deadline:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if ended():
                return None
            continue
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        return connection
    return None
