"""Signed tree heads as C2SP notes: `c2sp.org/tlog-checkpoint` inside `c2sp.org/signed-note`, Ed25519.

    Checkpoint --sign--> text that a person can mail --open_note(verifier)--> Checkpoint, or NoteError

A note reads:

    example.org/log            the origin, which is the key's name too
    1234                       the number of leaves
    <base64 of the root>
    <extension lines>
                               an empty line ends the signed text
    — example.org/log <base64 of key id || signature>
"""

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256
from typing import final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Checkpoint", "NoteError", "Signer", "Verifier", "open_note"]

ED25519 = b"\x01"
"""The signature type byte of c2sp.org/signed-note for Ed25519."""
MAX_NOTE = 65_536
DASH = "\N{EM DASH} "


class NoteError(ValueError):
    """The text is no note, or no signature of the expected key holds for it."""


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: `size` leaves with this `root`, and lines that only the log's owner reads."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The signed text, with the newline that ends it."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, str(self.size), root, *self.extensions))


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


@final
@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under."""

    name: str
    public: bytes
    """32 raw bytes."""

    def __str__(self) -> str:
        """The key as c2sp.org/signed-note writes it: `name+hash+base64`."""
        key = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{_key_id(self.name, self.public).hex()}+{key}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Read what `str` wrote; raises `NoteError`."""
        try:
            name, key_id, key = text.strip().split("+", 2)
            raw = base64.b64decode(key, validate=True)
        except (ValueError, binascii.Error):
            raise NoteError("not a verifier key; expected `name+hash+base64`") from None
        if raw[:1] != ED25519 or len(raw) != 33 or _key_id(name, raw[1:]).hex() != key_id:
            raise NoteError("not an Ed25519 verifier key, or its hash does not match its bytes")
        return cls(name, raw[1:])


@final
class Signer:
    """A private key and the name it signs under; never shown in a repr."""

    __slots__ = ("_key", "name", "verifier")

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        if not name or any(c.isspace() or c == "+" for c in name):
            raise NoteError(f"`{name}` cannot name a key: no spaces, no `+`, not empty")
        self.name = name
        self._key = key
        self.verifier = Verifier(name, key.public_key().public_bytes_raw())
        """The public half."""

    def sign(self, checkpoint: Checkpoint) -> str:
        """The note; `checkpoint.origin` must be this signer's name."""
        if checkpoint.origin != self.name:
            raise NoteError(f"`{self.name}` does not sign for `{checkpoint.origin}`")
        text = checkpoint.text()
        blob = _key_id(self.name, self.verifier.public) + self._key.sign(text.encode())
        return f"{text}\n{DASH}{self.name} {base64.b64encode(blob).decode()}\n"


def open_note(note: str, verifier: Verifier) -> Checkpoint:
    """Check the signature, then read the text; raises `NoteError`.

    Signatures of other keys are skipped, as the standard demands; a known key whose signature is wrong is
    an error, never skipped.
    """
    text, _, signatures = note.partition("\n\n")
    if len(note) > MAX_NOTE or not signatures.endswith("\n"):
        raise NoteError("not a signed note: no empty line before the signatures, or no final newline")
    signed = (text + "\n").encode()
    if not any(_signed_by(line, signed, verifier) for line in signatures.splitlines()):
        raise NoteError(f"no signature of `{verifier.name}`")
    return _read(text, verifier.name)


def _signed_by(line: str, signed: bytes, verifier: Verifier) -> bool:
    name, _, encoded = line.removeprefix(DASH).partition(" ")
    if not line.startswith(DASH) or not name or not encoded:
        raise NoteError("a signature line does not read `— name base64`")
    if name != verifier.name:
        return False
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise NoteError("a signature is not base64") from None
    if blob[:4] != _key_id(verifier.name, verifier.public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(verifier.public).verify(blob[4:], signed)
    except InvalidSignature:
        raise NoteError(f"the signature of `{verifier.name}` does not hold") from None
    return True


def _read(text: str, name: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 3:
        raise NoteError("a checkpoint has at least three lines")
    origin, size, encoded, *extensions = lines
    if origin != name:
        raise NoteError(f"the origin is `{origin}`, the key is `{name}`'s")
    if not (size.isascii() and size.isdigit()) or (size != "0" and size.startswith("0")) or len(size) > 19:
        raise NoteError(f"`{size}` is not a tree size")
    try:
        root = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise NoteError("the root is not base64") from None
    if len(root) != 32:
        raise NoteError("the root is not 32 bytes")
    if not all(extensions):
        raise NoteError("an extension line is empty")
    return Checkpoint(origin, int(size), root, tuple(extensions))
