"""The group of edwards25519 in plain integers: exact for every input, and slow (RFC 8032, section 5.1).

A point is `(X, Y, Z, T)` with x = X/Z, y = Y/Z, x*y = T/Z. The addition law is complete, so no case is
special: not the identity, not doubling, not a point of small order. Nothing here runs in constant time;
secrets go through libsodium (`fast.py`), and the plain prover exists to be compared with.
"""

from typing import TypeAlias

__all__ = [
    "BASE",
    "COFACTOR",
    "IDENTITY",
    "P",
    "Point",
    "Q",
    "add",
    "decode",
    "encode",
    "equal",
    "multiply",
    "negate",
]

Point: TypeAlias = tuple[int, int, int, int]

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
"""The order of the base point."""
COFACTOR = 8
_D = -121665 * pow(121666, -1, P) % P
_SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)

IDENTITY: Point = (0, 1, 1, 0)


def add(left: Point, right: Point) -> Point:
    """The unified addition of RFC 8032, section 5.1.4."""
    a = (left[1] - left[0]) * (right[1] - right[0]) % P
    b = (left[1] + left[0]) * (right[1] + right[0]) % P
    c = 2 * left[3] * right[3] * _D % P
    d = 2 * left[2] * right[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def negate(point: Point) -> Point:
    """-(x, y) = (-x, y)."""
    x, y, z, t = point
    return (P - x, y, z, P - t)


def multiply(scalar: int, point: Point) -> Point:
    """Double and add, from the low bit; `scalar` is any non-negative integer, not reduced first.

    Not reducing matters: a point with a torsion component has an order that Q does not divide.
    """
    total = IDENTITY
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def equal(left: Point, right: Point) -> bool:
    """The same affine point, whatever the projective denominators."""
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 == (left[1] * right[2] - right[1] * left[2]) % P


def encode(point: Point) -> bytes:
    """y in 32 bytes, little endian, with the low bit of x on top (RFC 8032, section 5.1.2)."""
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(text: bytes) -> Point | None:
    """RFC 8032, section 5.1.3: None for y >= p, for a y off the curve, and for x = 0 with its sign set."""
    packed = int.from_bytes(text, "little")
    sign, y = packed >> 255, packed & (1 << 255) - 1
    if len(text) != 32 or y >= P:
        return None
    x = _recover_x(y)
    if x is None or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


def _recover_x(y: int) -> int | None:
    """A square root of (y^2 - 1) / (d y^2 + 1), or None when there is none."""
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == u:
        return x
    if v * x * x % P == P - u:
        return x * _SQRT_MINUS_ONE % P
    return None


def _base() -> Point:
    point = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point is not None
    return point


BASE: Point = _base()
