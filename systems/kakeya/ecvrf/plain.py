"""ECVRF as RFC 9381 writes it, in pure Python: the reference, and the exact path for odd points.

Step numbers in comments are the RFC's. A verification takes some 6 ms, so the service uses `fast.py`,
which hands over to this module whenever libsodium will not answer for a point.
"""

from holdfast.systems.kakeya.ecvrf.edwards25519 import (
    BASE,
    COFACTOR,
    IDENTITY,
    Point,
    Q,
    add,
    decode,
    encode,
    equal,
    multiply,
    negate,
)
from holdfast.systems.kakeya.ecvrf.proof import (
    InvalidProofError,
    Trace,
    candidate,
    challenge,
    gamma_to_hash,
    nonce,
    parse_proof,
    require_key,
    secret_scalar,
)

__all__ = ["public_key_of", "trace_proving", "trace_verifying"]


def public_key_of(secret_key: bytes) -> bytes:
    """Y = x * B."""
    x, _ = secret_scalar(secret_key)
    return encode(multiply(x, BASE))


def encode_to_curve(public_key: bytes, alpha: bytes) -> tuple[int, Point]:
    """5.4.1.1, try and increment: the counter that hit, and H, which is neither invalid nor the identity."""
    for counter in range(256):
        point = decode(candidate(public_key, alpha, counter))
        if point is None:
            continue
        h = multiply(COFACTOR, point)
        if not equal(h, IDENTITY):
            return counter, h
    raise InvalidProofError("alpha", "has no point on the curve in 256 tries (chance: 2^-256)")


def trace_proving(secret_key: bytes, alpha: bytes) -> Trace:
    """5.1, ECVRF_prove, with what lies on the way."""
    x, prefix = secret_scalar(secret_key)  # 1
    public_key = encode(multiply(x, BASE))
    counter, h = encode_to_curve(public_key, alpha)  # 2
    h_string = encode(h)  # 3
    gamma = encode(multiply(x, h))  # 4
    k_string, k = nonce(prefix, h_string)  # 5
    u, v = encode(multiply(k, BASE)), encode(multiply(k, h))
    c = challenge(public_key, h_string, gamma, u, v)  # 6
    s = (k + c * x) % Q  # 7
    pi = gamma + c.to_bytes(16, "little") + s.to_bytes(32, "little")  # 8
    beta = gamma_to_hash(encode(multiply(COFACTOR * x, h)))
    return Trace(counter, h_string, u, v, beta, k_string, k.to_bytes(32, "little"), pi)


def trace_verifying(public_key: bytes, alpha: bytes, proof: bytes, *, validate_key: bool = True) -> Trace:
    """5.3, ECVRF_verify; raises `InvalidProofError` where the RFC outputs "INVALID"."""
    require_key("public_key", public_key)
    y = decode(public_key)  # 1, 2
    if y is None:
        raise InvalidProofError("public_key", "is not the canonical encoding of a point")
    if validate_key and equal(multiply(COFACTOR, y), IDENTITY):  # 3, 5.4.5
        raise InvalidProofError("public_key", "is a point of small order, under which anyone can prove")
    parts = parse_proof(proof)  # 4, 5, 6
    gamma = decode(parts.gamma)
    if gamma is None:
        raise InvalidProofError("proof", "has a Gamma that is not the canonical encoding of a point")
    counter, h = encode_to_curve(public_key, alpha)  # 7
    u = add(multiply(parts.s, BASE), negate(multiply(parts.c, y)))  # 8
    v = add(multiply(parts.s, h), negate(multiply(parts.c, gamma)))  # 9
    h_string, u_string, v_string = encode(h), encode(u), encode(v)
    if challenge(public_key, h_string, parts.gamma, u_string, v_string) != parts.c:  # 10, 11
        raise InvalidProofError("proof", "does not verify under this key and input")
    beta = gamma_to_hash(encode(multiply(COFACTOR, gamma)))
    return Trace(counter, h_string, u_string, v_string, beta)
