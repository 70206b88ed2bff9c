"""RFC 9381, ECVRF-EDWARDS25519-SHA512-TAI: the vectors with every intermediate, the edges, and agreement."""

import json
from importlib.resources import files
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.systems.kakeya import ecvrf
from holdfast.systems.kakeya.ecvrf import InvalidProofError, fast, plain
from holdfast.systems.kakeya.ecvrf.edwards25519 import (
    BASE,
    COFACTOR,
    IDENTITY,
    P,
    Q,
    add,
    decode,
    encode,
    equal,
    multiply,
)

VECTORS: dict[str, Any] = json.loads(
    files("holdfast.systems.kakeya").joinpath("vectors/ecvrf-tai-rfc9381.json").read_text()
)
EXAMPLES, EDGE = VECTORS["examples"], VECTORS["edge"]
SMALL_ORDER = VECTORS["small_order_public_keys_to_reject"]
both = pytest.mark.parametrize("which", [fast, plain], ids=["fast", "plain"])
keys = st.binary(min_size=32, max_size=32)


def raw(row: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(row[name]) for name in names]


def alpha_of(row: dict[str, Any]) -> bytes:
    return row["alpha_ascii"].encode() if "alpha_ascii" in row else bytes.fromhex(row["alpha"])


def judge(which: ModuleType, key: bytes, alpha: bytes, proof: bytes, *, validate_key: bool = True) -> str:
    """Beta in hexadecimal, or the refusal's words: what two implementations must say alike."""
    try:
        beta: str = which.trace_verifying(key, alpha, proof, validate_key=validate_key).beta.hex()
    except InvalidProofError as refused:
        return str(refused)
    return beta


def test_the_file_holds_what_it_is_said_to_hold() -> None:
    """A vector test over an emptied file is green too."""
    assert [row["example"] for row in EXAMPLES] == [16, 17, 18]
    assert len(EDGE) == 2
    assert len(SMALL_ORDER) == 5


@both
@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: f"example-{row['example']}")
def test_every_intermediate_of_the_rfc_is_reproduced(which: ModuleType, row: dict[str, Any]) -> None:
    secret, public, alpha, pi = raw(row, "SK", "PK", "alpha", "pi")
    proving = which.trace_proving(secret, alpha)
    assert which.public_key_of(secret) == public
    assert proving.counter == row["try_and_increment_ctr"]
    found = {name: getattr(proving, slot).hex() for name, slot in PROVING.items()}
    assert found == {name: row[name] for name in PROVING}
    verifying = which.trace_verifying(public, alpha, pi)
    assert (verifying.h, verifying.u, verifying.v, verifying.beta) == tuple(raw(row, "H", "U", "V", "beta"))


PROVING = {
    "H": "h",
    "k_string": "k_string",
    "k_mod_q_le": "k",
    "U": "u",
    "V": "v",
    "beta": "beta",
    "pi": "pi",
}


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: f"example-{row['example']}")
def test_the_secret_scalar_is_the_rfcs_x(row: dict[str, Any]) -> None:
    from holdfast.systems.kakeya.ecvrf.proof import secret_scalar

    x, _ = secret_scalar(bytes.fromhex(row["SK"]))
    assert x.to_bytes(32, "little").hex() == row["x"]


@both
@pytest.mark.parametrize("row", EDGE, ids=["small-order-key", "torsion-in-gamma"])
def test_edge_rows_verify_or_not_as_the_rfc_says(which: ModuleType, row: dict[str, Any]) -> None:
    key, pi = raw(row, "PK", "pi")
    accepted = len(judge(which, key, alpha_of(row), pi)) == 128
    assert accepted is row["valid_with_validate_key"]
    if "valid_without_validate_key" in row:
        lenient = judge(which, key, alpha_of(row), pi, validate_key=False)
        assert (len(lenient) == 128) is row["valid_without_validate_key"]
    if "beta" in row:
        assert judge(which, key, alpha_of(row), pi) == row["beta"]


@both
@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_of_small_order_are_refused(which: ModuleType, key: str) -> None:
    said = judge(which, bytes.fromhex(key), b"any", bytes.fromhex(EDGE[0]["pi"]))
    assert said == "`public_key` is a point of small order, under which anyone can prove"


@both
def test_s_plus_q_is_refused_though_it_fits_its_bytes(which: ModuleType) -> None:
    public, alpha, pi = raw(EXAMPLES[0], "PK", "alpha", "pi")
    s = int.from_bytes(pi[48:], "little") + Q
    assert s < 2**256
    assert "not below" in judge(which, public, alpha, pi[:48] + s.to_bytes(32, "little"))


@both
@pytest.mark.parametrize("length", [0, 1, 79, 81, 160])
def test_proofs_of_another_length_are_refused(which: ModuleType, length: int) -> None:
    public, alpha, pi = raw(EXAMPLES[0], "PK", "alpha", "pi")
    assert "80 bytes" in judge(which, public, alpha, (pi * 2)[:length])


@both
@pytest.mark.parametrize("field", ["key", "gamma"])
@pytest.mark.parametrize(
    "text",
    [
        P.to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),
        (2**255 - 1).to_bytes(32, "little"),
        (P + 1 | 1 << 255).to_bytes(32, "little"),
        (1 | 1 << 255).to_bytes(32, "little"),
        (P - 1 | 1 << 255).to_bytes(32, "little"),
        (2).to_bytes(32, "little"),
    ],
    ids=["p", "p+1", "2^255-1", "p+1-signed", "1-signed", "-1-signed", "off-the-curve"],
)
def test_encodings_that_are_not_canonical_points_are_refused(
    which: ModuleType, field: str, text: bytes
) -> None:
    public, alpha, pi = raw(EXAMPLES[0], "PK", "alpha", "pi")
    said = judge(which, text, alpha, pi) if field == "key" else judge(which, public, alpha, text + pi[32:])
    assert "not the canonical encoding" in said


@both
@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused_by_name(which: ModuleType, length: int) -> None:
    with pytest.raises(InvalidProofError, match="`public_key` must be 32 bytes"):
        which.trace_verifying(bytes(length), b"", bytes(80))
    with pytest.raises(InvalidProofError, match="`secret_key` must be 32 bytes"):
        which.trace_proving(bytes(length), b"")


def test_a_challenge_without_the_public_key_is_a_drafts_and_refused() -> None:
    """Drafts up to 10 hash H, Gamma, U, V; same Gamma and beta, another tail."""
    from holdfast.systems.kakeya.ecvrf.proof import challenge, secret_scalar

    secret, public, alpha = raw(EXAMPLES[0], "SK", "PK", "alpha")
    honest = plain.trace_proving(secret, alpha)
    c = challenge(honest.h, honest.pi[:32], honest.u, honest.v)
    s = (int.from_bytes(honest.k, "little") + c * secret_scalar(secret)[0]) % Q
    drafted = honest.pi[:32] + c.to_bytes(16, "little") + s.to_bytes(32, "little")
    assert "does not verify" in judge(fast, public, alpha, drafted)


@pytest.mark.parametrize("bit", range(0, 640, 7))
def test_any_flipped_bit_of_a_proof_is_refused(bit: int) -> None:
    public, alpha, pi = raw(EXAMPLES[1], "PK", "alpha", "pi")
    flipped = bytearray(pi)
    flipped[bit // 8] ^= 1 << bit % 8
    assert len(judge(fast, public, alpha, bytes(flipped))) != 128


@pytest.mark.nightly
@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: f"example-{row['example']}")
def test_every_flipped_bit_of_key_input_and_proof_is_refused_by_both(row: dict[str, Any]) -> None:
    public, alpha, pi = raw(row, "PK", "alpha", "pi")
    whole = public + alpha + pi
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        parts = bytes(changed[:32]), bytes(changed[32 : 32 + len(alpha)]), bytes(changed[32 + len(alpha) :])
        said = {judge(fast, *parts), judge(plain, *parts)}
        assert len(said) == 1, f"bit {bit}: the implementations differ: {said}"
        assert len(said.pop()) != 128, f"bit {bit} was flipped, and the proof still verifies"


@settings(max_examples=25, deadline=None)
@given(secret=keys, alpha=st.binary(max_size=200))
def test_what_is_proved_verifies_to_the_same_beta_in_both(secret: bytes, alpha: bytes) -> None:
    quick, slow = fast.trace_proving(secret, alpha), plain.trace_proving(secret, alpha)
    assert quick == slow
    assert ecvrf.verify(ecvrf.public_key_of(secret), alpha, quick.pi) == quick.beta


@settings(max_examples=60, deadline=None)
@given(secret=keys, alpha=st.binary(max_size=64), bit=st.integers(0, 639))
def test_a_flipped_bit_is_refused_whatever_the_key(secret: bytes, alpha: bytes, bit: int) -> None:
    proof = bytearray(ecvrf.prove(secret, alpha))
    proof[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidProofError):
        ecvrf.verify(ecvrf.public_key_of(secret), alpha, bytes(proof))


@settings(max_examples=15, deadline=None)
@given(secret=keys, alpha=st.binary(max_size=64), other=st.binary(max_size=64))
def test_another_input_or_another_key_is_refused(secret: bytes, alpha: bytes, other: bytes) -> None:
    proof = ecvrf.prove(secret, alpha)
    if other != alpha:
        with pytest.raises(InvalidProofError):
            ecvrf.verify(ecvrf.public_key_of(secret), other, proof)
    with pytest.raises(InvalidProofError):
        ecvrf.verify(ecvrf.public_key_of(bytes(b ^ 1 for b in secret)), alpha, proof)


@settings(max_examples=20, deadline=None)
@given(secret=keys, alpha=st.binary(max_size=32), nonce=st.integers(1, Q - 1), torsion=st.integers(0, 7))
def test_beta_is_unique_however_the_key_holder_proves(
    secret: bytes, alpha: bytes, nonce: int, torsion: int
) -> None:
    """Other nonces, and a torsion component in Gamma: whatever verifies gives the one beta."""
    from holdfast.systems.kakeya.ecvrf.proof import challenge, secret_scalar

    honest = fast.trace_proving(secret, alpha)
    x, _ = secret_scalar(secret)
    h, gamma = decode(honest.h), decode(honest.pi[:32])
    assert h is not None
    assert gamma is not None
    bent = encode(add(gamma, TORSION[torsion]))
    u, v = encode(multiply(nonce, BASE)), encode(multiply(nonce, h))
    c = challenge(ecvrf.public_key_of(secret), honest.h, bent, u, v)
    pi = bent + c.to_bytes(16, "little") + ((nonce + c * x) % Q).to_bytes(32, "little")
    said = {judge(which, ecvrf.public_key_of(secret), alpha, pi) for which in (fast, plain)}
    assert len(said) == 1
    verdict = said.pop()
    assert len(verdict) != 128 or verdict == honest.beta.hex()


@settings(max_examples=60, deadline=None)
@given(key=keys, alpha=st.binary(max_size=16), proof=st.binary(min_size=78, max_size=82))
def test_both_say_the_same_of_arbitrary_bytes(key: bytes, alpha: bytes, proof: bytes) -> None:
    assert judge(fast, key, alpha, proof) == judge(plain, key, alpha, proof)


@settings(max_examples=40, deadline=None)
@given(
    key=st.sampled_from([bytes.fromhex(k) for k in (*SMALL_ORDER, EXAMPLES[0]["PK"])]),
    gamma=st.sampled_from([bytes.fromhex(k) for k in (*SMALL_ORDER, EXAMPLES[0]["pi"][:64])]),
    c=st.sampled_from([0, 1, 8, 2**128 - 1]),
    s=st.sampled_from([0, 1, Q - 1]),
    validate_key=st.booleans(),
)
def test_both_say_the_same_where_libsodium_declines(
    key: bytes, gamma: bytes, c: int, s: int, *, validate_key: bool
) -> None:
    proof = gamma + c.to_bytes(16, "little") + s.to_bytes(32, "little")
    said = [judge(which, key, b"any", proof, validate_key=validate_key) for which in (fast, plain)]
    assert said[0] == said[1]


def _torsion() -> list[tuple[int, int, int, int]]:
    """The eight points whose order divides the cofactor, as multiples of one of order eight."""
    generator = decode(bytes.fromhex(SMALL_ORDER[1]))
    assert generator is not None
    points = [multiply(n, generator) for n in range(8)]
    assert len({encode(p) for p in points}) == COFACTOR
    assert all(equal(multiply(COFACTOR, p), IDENTITY) for p in points)
    return points


TORSION = _torsion()
