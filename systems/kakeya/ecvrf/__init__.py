"""Verifiable random function ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381), twice.

    (secret key, alpha)       -> prove  -> pi, 80 bytes
    (public key, alpha, pi)   -> verify -> beta, 64 bytes, or InvalidProofError

`fast` runs on libsodium, `plain` reads like the RFC and is exact for every point; the tests hold them to the
same answers. pi is malleable by whoever holds the secret key (a torsion component in Gamma with c divisible
by 8 verifies, with the same beta): beta identifies an evaluation, pi never does.
"""

from holdfast.systems.kakeya.ecvrf import fast, plain
from holdfast.systems.kakeya.ecvrf.fast import public_key_of
from holdfast.systems.kakeya.ecvrf.proof import InvalidProofError, Trace

__all__ = ["InvalidProofError", "Trace", "fast", "plain", "prove", "public_key_of", "verify"]


def prove(secret_key: bytes, alpha: bytes) -> bytes:
    """The proof that `beta` is this key's value for `alpha`; raises for a key that is not 32 bytes."""
    return fast.trace_proving(secret_key, alpha).pi


def verify(public_key: bytes, alpha: bytes, proof: bytes, *, validate_key: bool = True) -> bytes:
    """Beta, or `InvalidProofError` naming the field at fault.

    `validate_key=False` takes keys of small order, under which uniqueness is lost; for conformance runs.
    """
    return fast.trace_verifying(public_key, alpha, proof, validate_key=validate_key).beta
