"""Signed notes: the published example of the format, and everything near a note that is none."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.records.checkpoint import Checkpoint, NoteError, Signer, Verifier, open_note

SIGNER = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CHECKPOINT = Checkpoint("example.org/log", 20852163, bytes(range(32)), ("an extension",))
NOTE = SIGNER.sign(CHECKPOINT)

# From c2sp.org/signed-note: the key and the note of Go's sum database's documentation (golang.org/x/mod/sumdb/note).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
PETERS_SIGNATURE = (
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)


def test_a_verifier_key_of_another_implementation_is_read_and_its_signature_holds() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    verifier = Verifier.parse(PETER)
    assert str(verifier) == PETER
    blob = base64.b64decode(PETERS_SIGNATURE)
    assert blob[:4].hex() == "c74f20a3"
    Ed25519PublicKey.from_public_bytes(verifier.public).verify(blob[4:], PETERS_TEXT.encode())


def test_a_note_reads_back_and_reads_as_the_format_says() -> None:
    assert open_note(NOTE, SIGNER.verifier) == CHECKPOINT
    root = base64.b64encode(bytes(range(32))).decode()
    assert NOTE.startswith(f"example.org/log\n20852163\n{root}\nan extension\n\n\N{EM DASH} example.org/log ")
    assert Verifier.parse(str(SIGNER.verifier)) == SIGNER.verifier


def test_no_character_of_a_note_can_be_changed() -> None:
    for at in range(len(NOTE)):
        changed = NOTE[:at] + ("A" if NOTE[at] != "A" else "B") + NOTE[at + 1 :]
        with pytest.raises(NoteError):
            open_note(changed, SIGNER.verifier)


def test_no_truncation_and_no_other_key_is_accepted() -> None:
    for end in range(len(NOTE)):
        with pytest.raises(NoteError):
            open_note(NOTE[:end], SIGNER.verifier)
    other = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(NoteError, match="no signature of"):
        open_note(NOTE, other.verifier)


def test_a_cosignature_of_an_unknown_key_is_skipped() -> None:
    witness = Signer("witness.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    line = f"\N{EM DASH} witness.example {base64.b64encode(bytes(68)).decode()}\n"
    assert open_note(NOTE + line, SIGNER.verifier) == CHECKPOINT
    with pytest.raises(NoteError):
        open_note(NOTE + line, witness.verifier)


BAD_SIZES = ["-1", "01", "1.0", "x", "9" * 20, " 1", "\u0661"]


@pytest.mark.parametrize("size", BAD_SIZES)
def test_a_size_that_is_no_plain_number_is_refused_though_signed(size: str) -> None:
    text = f"example.org/log\n{size}\n{base64.b64encode(bytes(32)).decode()}\n"
    blob = base64.b64decode(NOTE.rsplit(" ", 1)[1])[:4] + SIGNER._key.sign(text.encode())
    note = f"{text}\n\N{EM DASH} example.org/log {base64.b64encode(blob).decode()}\n"
    with pytest.raises(NoteError, match="is not a tree size"):
        open_note(note, SIGNER.verifier)


@pytest.mark.parametrize(
    "key", ["", "a+b", "a+00000000+AAAA", PETER[:-1], PETER.replace("c74f", "c74e"), "a+b+c+d"]
)
def test_what_is_no_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(key)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb"])
def test_a_name_that_would_break_the_format_is_refused(name: str) -> None:
    with pytest.raises(NoteError):
        Signer(name, Ed25519PrivateKey.generate())


def test_a_signer_signs_only_for_itself_and_never_shows_its_key() -> None:
    with pytest.raises(NoteError):
        SIGNER.sign(Checkpoint("other", 1, bytes(32)))
    assert bytes(range(32)).hex() not in repr(SIGNER)
