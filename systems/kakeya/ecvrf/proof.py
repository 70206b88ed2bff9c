"""The proof string, the hash domains and the refusals that both implementations share.

pi_string = Gamma (32) | c (16, little endian) | s (32, little endian)        RFC 9381, section 5.5
"""

import hashlib
from dataclasses import dataclass
from typing import final

from holdfast.systems.kakeya.ecvrf.edwards25519 import Q

__all__ = [
    "InvalidProofError",
    "Proof",
    "Trace",
    "challenge",
    "gamma_to_hash",
    "nonce",
    "parse_proof",
    "secret_scalar",
]

SUITE = b"\x03"
"""ECVRF-EDWARDS25519-SHA512-TAI."""
KEY_LENGTH, CHALLENGE_LENGTH, SCALAR_LENGTH = 32, 16, 32
PROOF_LENGTH = KEY_LENGTH + CHALLENGE_LENGTH + SCALAR_LENGTH


@final
class InvalidProofError(ValueError):
    """The proof does not show what it claims; `field` is `public_key`, `secret_key` or `proof`."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"`{field}` {why}")
        self.field = field


@final
@dataclass(frozen=True, slots=True)
class Proof:
    """The three parts; Gamma is still bytes, since whether it is a point is for the verifier to say."""

    gamma: bytes
    c: int
    s: int


@final
@dataclass(frozen=True, slots=True)
class Trace:
    """Every value on the way that RFC 9381, appendix B, prints; all encoded as there."""

    counter: int
    h: bytes
    u: bytes
    v: bytes
    beta: bytes
    k_string: bytes = b""
    """Of a prover only, like the two below."""
    k: bytes = b""
    pi: bytes = b""


def parse_proof(proof: bytes) -> Proof:
    """Split; a proof of another length, or with s >= q, is invalid (5.4.4: else s + q would do as well)."""
    if len(proof) != PROOF_LENGTH:
        raise InvalidProofError("proof", f"must be {PROOF_LENGTH} bytes long, this one has {len(proof)}")
    s = int.from_bytes(proof[48:], "little")
    if s >= Q:
        raise InvalidProofError("proof", "has a scalar s that is not below the group's order")
    return Proof(gamma=proof[:32], c=int.from_bytes(proof[32:48], "little"), s=s)


def require_key(field: str, key: bytes) -> None:
    """Keys of either kind are 32 bytes."""
    if len(key) != KEY_LENGTH:
        raise InvalidProofError(field, f"must be {KEY_LENGTH} bytes long, this one has {len(key)}")


def secret_scalar(secret_key: bytes) -> tuple[int, bytes]:
    """x, clamped as RFC 8032 says, and the half of the hash that seeds nonces."""
    require_key("secret_key", secret_key)
    digest = hashlib.sha512(secret_key).digest()
    low = int.from_bytes(digest[:32], "little")
    return low & ((1 << 254) - 8) | 1 << 254, digest[32:]


def nonce(prefix: bytes, h: bytes) -> tuple[bytes, int]:
    """5.4.2.2: k_string, and k = k_string mod q."""
    k_string = hashlib.sha512(prefix + h).digest()
    return k_string, int.from_bytes(k_string, "little") % Q


def challenge(*points: bytes) -> int:
    """5.4.3 over Y, H, Gamma, U, V. Drafts up to 10 leave Y out, and their proofs end differently."""
    digest = hashlib.sha512(SUITE + b"\x02" + b"".join(points) + b"\x00").digest()
    return int.from_bytes(digest[:CHALLENGE_LENGTH], "little")


def gamma_to_hash(cofactor_gamma: bytes) -> bytes:
    """5.2: beta, from the encoding of cofactor * Gamma."""
    return hashlib.sha512(SUITE + b"\x03" + cofactor_gamma + b"\x00").digest()


def candidate(public_key: bytes, alpha: bytes, counter: int) -> bytes:
    """5.4.1.1, steps 6A and 6B: the 32 bytes that may or may not be a point."""
    return hashlib.sha512(SUITE + b"\x01" + public_key + alpha + bytes((counter, 0))).digest()[:32]
