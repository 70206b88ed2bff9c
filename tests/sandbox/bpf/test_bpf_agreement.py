"""Three readings of one filter agree on every input drawn: the simulator, the Z3 formula, the live kernel.

2,000 points, always the same, in `make test`; 100,000 drawn anew in nightly. Filters come both from
libseccomp (what people write) and from raw instructions over all opcodes (what they might).
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.sandbox.bpf.abi import UNFILTERED, Abi
from holdfast.sandbox.bpf.action import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    LOG,
    TRACE,
    TRAP,
    USER_NOTIF,
    Action,
    classify_action,
    combine,
)
from holdfast.sandbox.bpf.cage import Answer, Cage, Fate
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import OPCODES, SCRATCH_WORDS, Instruction, decode, encode
from holdfast.sandbox.bpf.simulate import run_stack
from holdfast.sandbox.bpf.symbolic import WORDS, encode_stack, z3
from holdfast.sandbox.bpf.trampoline import RETURN_ADDRESS

from .filters_of_tests import PRIVILEGED, asks_the_kernel, compare, compiled

pytestmark = asks_the_kernel

POINTS_A_FILTER = 20
ABIS = (Abi.X86_64, Abi.I386, Abi.X32)
NAMES = ("mount", "ioctl", "clone", "socket", "personality", "bpf", "getpid", "read")
NUMBERS = (0, 3, 5, 16, 20, 21, 39, 41, 54, 56, 120, 135, 136, 165, 321, 357, 359, 0x3FFF_FFFF, 0xFFFF_FFFF)
VALUES = (
    0,
    1,
    0x5412,
    0x541C,
    0x7E02_0000,
    0x1000_0000,
    0xFFFF_FFFF,
    1 << 32,
    1 << 32 | 0x5412,
    (1 << 64) - 1,
)
RETURNS = (
    ALLOW,
    LOG,
    TRACE | 3,
    USER_NOTIF,
    ERRNO,
    ERRNO | 13,
    ERRNO | 0xFFFF,
    TRAP | 9,
    KILL_PROCESS,
    0,
    0x1_0000,
)

values = st.sampled_from(VALUES) | st.integers(0, (1 << 64) - 1)
words = st.sampled_from([v & 0xFFFF_FFFF for v in VALUES] + list(NUMBERS)) | st.integers(0, (1 << 32) - 1)
OPERATORS = ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")


@st.composite
def policies(draw: Any) -> bytes:
    """A policy as people write them: a default, some calls, conditions, foreign architectures."""
    default, *others = draw(st.permutations(["allow", "errno 1", "kill", "trap", "log", "errno 38"]))
    rules = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6)):
        word = draw(st.sampled_from(others))
        indices = draw(st.lists(st.integers(0, 5), unique=True, max_size=2))
        conditions = [
            compare(index, draw(st.sampled_from(OPERATORS)), draw(values), draw(values)) for index in indices
        ]
        rules.append((word, name, *conditions))
    arches = draw(st.lists(st.sampled_from(["X86", "X32"]), unique=True))
    return compiled(default, *rules, arches=arches, optimize=draw(st.sampled_from([1, 2])))


ARITHMETIC = [code for code in OPCODES if code & 7 == 4]


@st.composite
def programs(draw: Any) -> bytes:
    """Raw instructions over every opcode, admissible by construction."""
    body = [Instruction(0x20, 0, 0, 0), *(Instruction(0x02, 0, 0, k) for k in range(4))]
    length = draw(st.integers(1, 24))
    ends = draw(st.lists(st.sampled_from(RETURNS), min_size=1, max_size=4))
    for position in range(length):
        left = min(length - position - 1 + len(ends) - 1, 255)
        body.append(_instruction(draw, left))
    tail = [Instruction(0x06, 0, 0, value) for value in ends]
    return encode([*body, *tail])


def _instruction(draw: Any, left: int) -> Instruction:
    match draw(
        st.sampled_from(["load", "load", "scratch", "compute", "move", "branch", "branch", "branch", "ja"])
    ):
        case "load":
            code, k = draw(
                st.one_of(
                    st.tuples(st.just(0x20), st.integers(0, 15).map(lambda i: 4 * i)),
                    st.tuples(st.sampled_from([0x00, 0x01]), words),
                    st.tuples(st.sampled_from([0x80, 0x81]), st.just(0)),
                )
            )
            return Instruction(code, 0, 0, k)
        case "scratch":
            code = draw(st.sampled_from([0x60, 0x61, 0x02, 0x03]))
            return Instruction(
                code, 0, 0, draw(st.integers(0, 3 if code in {0x60, 0x61} else SCRATCH_WORDS - 1))
            )
        case "compute":
            code = draw(st.sampled_from(ARITHMETIC))
            k = draw(st.integers(0, 31) if code in {0x64, 0x74} else words)
            return Instruction(code, 0, 0, k or 1)
        case "move":
            return Instruction(draw(st.sampled_from([0x07, 0x87])), 0, 0, 0)
        case "branch":
            code = draw(st.sampled_from([0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D]))
            return Instruction(code, draw(st.integers(0, left)), draw(st.integers(0, left)), draw(words))
        case _:
            return Instruction(0x05, 0, 0, draw(st.integers(0, left)))


@st.composite
def calls(draw: Any) -> tuple[Abi, Call]:
    """A call that this machine can make."""
    abi = draw(st.sampled_from(ABIS))
    number = draw(st.sampled_from(NUMBERS) | st.integers(0, 470)) | (0x4000_0000 if abi is Abi.X32 else 0)
    if (abi, number) in UNFILTERED:
        number = 0
    first, second, third, fourth, fifth, sixth = (draw(values) for _ in range(6))
    return abi, Call(abi.arch, number, (first, second, third, fourth, fifth, sixth), RETURN_ADDRESS[abi])


# Without CAP_SYS_ADMIN a first filter that denies seccomp(2) would keep the second from being loaded.
stacks = st.lists(policies() | programs(), min_size=1, max_size=2 if PRIVILEGED else 1)
point_lists = st.lists(calls(), min_size=POINTS_A_FILTER, max_size=POINTS_A_FILTER)


def expected_fate(answer: int) -> Answer:
    """What the cage sees, its own RET_TRACE lying beneath."""
    value = combine([answer, TRACE])
    match classify_action(value):
        case Action.ERRNO:
            return Answer(Fate.FAILED, min(value & 0xFFFF, 4095))
        case Action.USER_NOTIF:
            return Answer(Fate.FAILED, 38)  # ENOSYS: no supervisor listens
        case Action.TRAP:
            return Answer(Fate.TRAPPED)
        case Action.TRACE:
            return Answer(Fate.PASSED)
        case _:
            return Answer(Fate.KILLED)


@dataclass
class Tally:
    """How many points were compared, so that a test cannot pass by comparing none."""

    points: int = 0
    fates: set[Fate] = field(default_factory=set)


def check(
    stack: list[bytes], points: list[tuple[Abi, Call]], tally: Tally, *, loaded: list[bytes] | None = None
) -> None:
    """Compare on each point; `loaded` plants a fault: the kernel is given other filters than the two models."""
    decoded = [decode(raw) for raw in stack]
    formula = encode_stack(decoded)
    with Cage(loaded or stack) as cage:
        for abi, call in points:
            simulated = run_stack(decoded, call)
            concrete = [
                (word, z3.BitVecVal(value, 32)) for word, value in zip(WORDS, call.words, strict=True)
            ]
            assert z3.simplify(z3.substitute(formula, *concrete)).as_long() == simulated
            seen = cage.ask(abi, call)
            assert seen == expected_fate(simulated)
            tally.points += 1
            tally.fates.add(seen.fate)


@pytest.mark.parametrize("examples", [100, pytest.param(5_000, marks=pytest.mark.nightly)])
def test_simulator_formula_and_kernel_agree(examples: int) -> None:
    tally = Tally()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples <= 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(stacks, point_lists)
    def agree(stack: list[bytes], points: list[tuple[Abi, Call]]) -> None:
        check(stack, points, tally)

    agree()
    assert tally.points >= examples * POINTS_A_FILTER
    assert tally.fates == set(Fate)


@pytest.mark.planted
def test_a_kernel_under_another_filter_is_found_to_disagree() -> None:
    with_rule = compiled("allow", ("errno 1", "ioctl", compare(1, "EQ", 0x5412)))
    weakened = compiled("allow", ("errno 1", "ioctl", compare(1, "EQ", 0x5413)))
    point = Abi.X86_64, Call(Abi.X86_64.arch, 16, (0, 0x5412, 0, 0, 0, 0), RETURN_ADDRESS[Abi.X86_64])
    check([with_rule], [point], Tally())
    with pytest.raises(AssertionError):
        check([with_rule], [point], Tally(), loaded=[weakened])
