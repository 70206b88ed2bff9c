"""What the kernel's verifier admits is decoded, and nothing else; held against the kernel itself."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.cage import Cage, CannotReplayError
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import OPCODES, Instruction, decode, encode
from holdfast.sandbox.refusal import BadInputError

from .filters_of_tests import ALLOWED, DOCKER, asks_the_kernel, program

GETPID = Call(Abi.X86_64.arch, 39)

REFUSED = {
    "nothing": (b"", "the filter is empty"),
    "half an instruction": (program(ALLOWED)[:-4], "truncated: 4 bytes"),
    "one byte too many": (program(ALLOWED) + b"\0", "truncated: 9 bytes"),
    "too long": (program(ALLOWED) * 4097, "4097 instructions"),
    "no return at the end": (program(ALLOWED, "ld #k 0"), "instruction 1: control leaves"),
    "ends in a jump": (program(ALLOWED, "ja 0"), "instruction 1: control leaves"),
    "jump past the end": (program("jeq #k 0 0 1", ALLOWED), "instruction 0: control leaves"),
    "long jump past the end": (program("ja 1", ALLOWED), "instruction 0: control leaves"),
    "load past seccomp_data": (program("ld [k] 64", ALLOWED), "load from offset 64"),
    "load between words": (program("ld [k] 18", ALLOWED), "load from offset 18"),
    "scratch word 16": (program("st M[k] 16", ALLOWED), "scratch word 16"),
    "scratch word that is not stored": (program("ld M[k] 3", ALLOWED), "scratch word 3 is read before"),
    "scratch word stored on one way only": (
        program("jeq #k 0 0 1", "st M[k] 2", "ld M[k] 2", ALLOWED),
        "instruction 2: scratch word 2",
    ),
    "division by zero": (program("div #k 0", ALLOWED), "division by the constant zero"),
    "shift by 32": (program("lsh #k 32", ALLOWED), "shift by 32"),
    "mod": (encode([Instruction(0x94, 0, 0, 3)]) + program(ALLOWED), "opcode `0x94` is not admitted"),
    "byte load": (encode([Instruction(0x30, 0, 0, 0)]) + program(ALLOWED), "opcode `0x30`"),
    "packet load": (encode([Instruction(0x40, 0, 0, 0)]) + program(ALLOWED), "opcode `0x40`"),
    "return of x": (encode([Instruction(0x0E, 0, 0, 0)]), "opcode `0x0e`"),
}


@pytest.mark.parametrize(("raw", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_bytes_that_the_kernel_would_not_load_are_refused_with_their_place(raw: bytes, why: str) -> None:
    with pytest.raises(BadInputError, match=why.replace("(", r"\(")):
        decode(raw)


@pytest.mark.parametrize(
    "lines",
    [
        ("lsh #k 31", ALLOWED),
        ("div #k 1", ALLOWED),
        ("ld [k] 60", ALLOWED),
        ("st M[k] 15", "ldx M[k] 15", ALLOWED),
        ("jeq #k 0 0 0", ALLOWED),
        ("ld #len", "ret a"),
    ],
    ids=" / ".join,
)
def test_the_last_admissible_value_is_admitted(lines: tuple[str, ...]) -> None:
    assert len(decode(program(*lines))) == len(lines)


def test_docker_filter_reads_back_to_the_same_bytes() -> None:
    raw = DOCKER.read_bytes()
    assert len(decode(raw)) == 974
    assert encode(decode(raw)) == raw


def loads(raw: bytes) -> bool:
    """Whether the kernel takes these bytes; whatever they then answer."""
    try:
        with Cage([raw]) as cage:
            cage.ask(Abi.X86_64, GETPID)
    except CannotReplayError as error:
        if "EINVAL" in str(error):
            return False
        raise
    return True


def decodes(raw: bytes) -> bool:
    try:
        decode(raw)
    except BadInputError:
        return False
    return True


@asks_the_kernel
@pytest.mark.parametrize("code", [*range(0x100), 0x115, 0x106], ids=hex)
def test_every_opcode_is_admitted_as_the_kernel_admits_it(code: int) -> None:
    raw = program("st M[k] 0") + encode([Instruction(code, 0, 0, 0 if code in {0x05, 0x60, 0x61} else 1)])
    if OPCODES.get(code) == "ld [k]":
        raw = encode([Instruction(code, 0, 0, 4)])
    if OPCODES.get(code, "").endswith("M[k]"):
        raw = program("st M[k] 0") + encode([Instruction(code, 0, 0, 0)])
    raw += program(ALLOWED)
    assert decodes(raw) is (code in OPCODES)
    assert loads(raw) is decodes(raw)


CODES = [*OPCODES, 0x94, 0x30, 0x50, 0x0E, 0xFF]


@st.composite
def rough_programs(draw: Any) -> bytes:
    """Programs that are nearly admissible: small numbers, short jumps, mostly a return at the end."""
    body = draw(
        st.lists(
            st.tuples(
                st.sampled_from(CODES),
                st.integers(0, 3),
                st.integers(0, 3),
                st.sampled_from([0, 1, 2, 4, 15, 16, 31, 32, 60, 64]),
            ),
            min_size=1,
            max_size=6,
        )
    )
    tail = [(0x06, 0, 0, 0x7FFF0000)] * draw(st.sampled_from([0, 1, 3, 3, 3]))
    return b"".join(struct.pack("<HBBI", *fields) for fields in [*body, *tail])


@asks_the_kernel
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(rough_programs())
def test_decoder_and_kernel_admit_the_same_programs(raw: bytes) -> None:
    assert decodes(raw) is loads(raw)
