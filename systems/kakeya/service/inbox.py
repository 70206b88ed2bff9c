"""The write-ahead log: each body, as it came, before anything reads it.

    frame = length (4, big endian) | SHA-256 of the body, first 8 bytes | body

What a parser chokes on can then be found and played again. A torn last frame is what a killed process
leaves; it is recognised and cut off. Segments are bounded, and old ones are removed.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import final

__all__ = ["Inbox", "iter_bodies"]

_HEAD = struct.Struct(">I8s")


@final
class Inbox:
    """One writer's log under `folder`; at most `segments` files of about `segment_bytes`."""

    def __init__(self, folder: Path, *, segment_bytes: int = 64 << 20, segments: int = 64) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._segment_bytes, self._segments = folder, segment_bytes, segments
        existing = _paths(folder)
        self._number = int(existing[-1].stem) if existing else 0
        self._size = _whole_length(existing[-1]) if existing else 0
        self._descriptor = self._open()
        os.ftruncate(self._descriptor, self._size)

    def append(self, body: bytes) -> None:
        """With the kernel when this returns: it outlives the process, though not the power."""
        frame = _HEAD.pack(len(body), hashlib.sha256(body).digest()[:8]) + body
        if os.write(self._descriptor, frame) != len(frame):
            os.ftruncate(self._descriptor, self._size)
            raise OSError("the write-ahead log took half a frame; is the disk full")
        self._size += len(frame)
        if self._size >= self._segment_bytes:
            self._roll()

    def close(self) -> None:
        """Stop writing."""
        os.close(self._descriptor)

    def _open(self) -> int:
        path = self._folder / f"{self._number:08d}.wal"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _roll(self) -> None:
        os.close(self._descriptor)
        self._number, self._size = self._number + 1, 0
        self._descriptor = self._open()
        for old in _paths(self._folder)[: -self._segments]:
            old.unlink()


def iter_bodies(folder: Path) -> Iterator[bytes]:
    """Every whole body, oldest first."""
    for path in _paths(folder):
        for _, body in _iter_frames(path):
            yield body


def _whole_length(path: Path) -> int:
    return max((end for end, _ in _iter_frames(path)), default=0)


def _iter_frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset of the end, body) up to the first frame that is torn or damaged."""
    end = 0
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, digest = _HEAD.unpack(head)
            body = file.read(length)
            if len(body) != length or hashlib.sha256(body).digest()[:8] != digest:
                return
            end += _HEAD.size + length
            yield end, body


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("????????.wal"))
