"""Sealing: a signed statement of how many entries there are and what they hash to.

The note's extension lines carry what an incremental check needs: the chain's head, the last id, and, where
a log does not begin or go on as it should, the signed admission of that.

    head <hex> <id>       the last entry's hash and id
    base                  entries up to here were moved to an archive by the kernel itself
    break <kept> <known>  of <known> entries only the first <kept> survived damage; the log goes on after those
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.records.checkpoint import Checkpoint, NoteError, Signer, Verifier, open_note
from holdfast.records.merkle import Frontier

__all__ = ["Seal", "append_witness", "load_or_make_signer", "open_seal", "read_witness", "seal"]

HASH_BYTES: Final = 32
NOTE_END: Final = "\n%%\n"
"""Stands between the notes of a witness file; no note can hold it, since each line of one is non-empty text
that we wrote."""


@final
@dataclass(frozen=True, slots=True)
class Seal:
    """What a checkpoint of ours says."""

    size: int
    root: bytes
    head: bytes
    last_id: int
    base: bool = False
    lost: tuple[int, int] | None = None
    """Of a break: how many entries were kept, and how many there had been; None without one."""


def seal(signer: Signer, frontier: Frontier, head: bytes, last_id: int, *marks: str) -> str:
    """The signed note for the tree as it stands."""
    lines = (f"head {head.hex()} {last_id}", *marks)
    return signer.sign(Checkpoint(signer.name, frontier.size, frontier.root(), lines))


def open_seal(note: str, verifier: Verifier) -> Seal:
    """Check the signature and read our lines; raises `NoteError`."""
    checkpoint = open_note(note, verifier)
    try:
        word, head, last_id = checkpoint.extensions[0].split(" ")
        sealed = Seal(checkpoint.size, checkpoint.root, bytes.fromhex(head), int(last_id))
        marks = checkpoint.extensions[1:]
        breaks = [mark.split(" ") for mark in marks if mark.startswith("break ")]
        lost = [(int(kept), int(known)) for _, kept, known in breaks]
    except (IndexError, ValueError):
        raise NoteError("the checkpoint does not say where the chain's head is") from None
    if word != "head" or len(sealed.head) != HASH_BYTES:
        raise NoteError("the checkpoint does not say where the chain's head is")
    base = "base" in marks
    return Seal(sealed.size, sealed.root, sealed.head, sealed.last_id, base, lost[0] if lost else None)


def load_or_make_signer(path: Path, name: str) -> Signer:
    """The log's key from a file of 32 bytes, mode 0600; made when it is not there. Raises `OSError`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raw = Ed25519PrivateKey.generate().private_bytes_raw()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, raw)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        _sync_folder(path)
    if len(raw) != HASH_BYTES:
        raise NoteError(f"`{path}` is not an Ed25519 key: expected 32 bytes")
    return Signer(name, Ed25519PrivateKey.from_private_bytes(raw))


def _sync_folder(path: Path) -> None:
    """A new name is on disk only when its folder is."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def append_witness(path: Path, note: str) -> None:
    """Add a note to the witness file, on disk when this returns; raises `OSError`.

    What a crash left of an earlier note is cut off first: it was never acknowledged, and the new note must
    not be glued to it.
    """
    new = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        if end and os.pread(fd, len(NOTE_END), max(0, end - len(NOTE_END))) != NOTE_END.encode():
            whole, mark, _ = os.pread(fd, end, 0).rpartition(NOTE_END.encode())
            end = len(whole) + len(mark)
            os.ftruncate(fd, end)
        os.pwrite(fd, f"{note}{NOTE_END}".encode(), end)
        os.fsync(fd)
    finally:
        os.close(fd)
    if new:
        _sync_folder(path)


def read_witness(path: Path) -> list[str]:
    """The whole notes of a witness file; raises `OSError`.

    Left out are a last one that was cut off, and one with zero bytes where a sector never reached the disk:
    both are what a crash leaves of a note that was not acknowledged.
    """
    notes = path.read_text(errors="replace").split(NOTE_END)[:-1]
    return [note for note in notes if "\0" not in note]
