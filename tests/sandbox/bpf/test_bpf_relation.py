"""Two filters over all inputs: equal effect, or one as strict as the other; otherwise the call that differs."""

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.bpf.proof import Verdict
from holdfast.sandbox.bpf.relation import Relation, compare
from holdfast.sandbox.profile import load_profile

from .filters_of_tests import ALLOWED, DOCKER, compiled, program
from .filters_of_tests import compare as argument

EQUIVALENT, STRICTER = Relation.EQUIVALENT, Relation.STRICTER
PROVEN, REFUTED = Verdict.PROVEN, Verdict.COUNTEREXAMPLE
HERE = (Abi.X86_64, Abi.I386, Abi.X32)

linear = compiled("errno 1", *(("allow", name) for name in ("read", "write", "close", "getpid", "futex")))
tree = compiled(
    "errno 1", *(("allow", name) for name in ("futex", "getpid", "close", "write", "read")), optimize=2
)
fewer = compiled("errno 1", ("allow", "read"), ("allow", "write"))
other_errno = compiled(
    "errno 13", *(("allow", name) for name in ("read", "write", "close", "getpid", "futex"))
)
traced = compiled("errno 1", ("allow", "read"), ("trace 7", "write"))
sticky = compiled("allow", ("errno 1", "ioctl", argument(1, "EQ", 0x5412)))
masked = compiled("allow", ("errno 1", "ioctl", argument(1, "MASKED_EQ", 0xFFFF_FFFF, 0x5412)))

CASES: dict[str, tuple[Relation, bytes, bytes, Verdict]] = {
    "the same bytes": (EQUIVALENT, linear, linear, PROVEN),
    "a list and a tree over the same rules": (EQUIVALENT, linear, tree, PROVEN),
    "fewer calls": (EQUIVALENT, fewer, linear, REFUTED),
    "another errno": (EQUIVALENT, other_errno, linear, REFUTED),
    "errno beyond 4095 is 4095": (
        EQUIVALENT,
        program("ret #k 0x0005ffff"),
        program("ret #k 0x00050fff"),
        PROVEN,
    ),
    "an unknown action kills": (
        EQUIVALENT,
        program("ret #k 0x00010000"),
        program("ret #k 0x80000000"),
        PROVEN,
    ),
    "killing a thread is another effect": (
        EQUIVALENT,
        program("ret #k 0"),
        program("ret #k 0x80000000"),
        REFUTED,
    ),
    "allow's data is nothing": (EQUIVALENT, program(ALLOWED), program("ret #k 0x7fff0009"), PROVEN),
    "fewer calls are stricter": (STRICTER, fewer, linear, PROVEN),
    "more calls are not": (STRICTER, linear, fewer, REFUTED),
    "another errno is as strict": (STRICTER, other_errno, linear, PROVEN),
    "handing over is stricter than allowing": (STRICTER, traced, fewer, PROVEN),
    "allowing is not stricter than handing over": (STRICTER, fewer, traced, REFUTED),
    "handing over is not stricter than denying": (
        STRICTER,
        traced,
        compiled("errno 1", ("allow", "read")),
        REFUTED,
    ),
    "a mask is stricter than 64 bits": (STRICTER, masked, sticky, PROVEN),
    "64 bits are not stricter than a mask": (STRICTER, sticky, masked, REFUTED),
}


@pytest.mark.parametrize(("relation", "first", "second", "verdict"), CASES.values(), ids=CASES.keys())
def test_a_relation_is_decided(relation: Relation, first: bytes, second: bytes, verdict: Verdict) -> None:
    comparison = compare(relation, [first], [second], abis=HERE)
    assert comparison.verdict is verdict, comparison.reason
    assert bool(comparison.differences) is (verdict is REFUTED)


def test_the_difference_is_a_call_that_one_can_look_at() -> None:
    comparison = compare(STRICTER, [sticky], [masked], abis=(Abi.X86_64,))
    (difference,) = comparison.differences
    request = difference.call.args[1]
    assert request & 0xFFFF_FFFF == 0x5412
    assert request >> 32
    assert "x86_64 ioctl(" in str(difference)
    assert "first ALLOW, second ERRNO(1)" in str(difference)


def test_a_stack_is_as_strict_as_each_of_its_filters() -> None:
    assert compare(STRICTER, [linear, fewer], [fewer], abis=HERE).verdict is PROVEN
    assert compare(STRICTER, [linear, fewer], [linear], abis=HERE).verdict is PROVEN
    assert compare(EQUIVALENT, [linear, fewer], [fewer, linear], abis=HERE).verdict is PROVEN


def test_no_filter_is_equivalent_to_one_that_allows() -> None:
    assert compare(EQUIVALENT, [], [program(ALLOWED)], abis=HERE).verdict is PROVEN
    assert compare(STRICTER, [], [fewer], abis=HERE).verdict is REFUTED


def test_our_profiles_are_ordered() -> None:
    strict, standard, net = (assemble(load_profile(n)).code for n in ("strict", "standard", "standard-net"))
    assert compare(STRICTER, [strict], [standard]).verdict is PROVEN
    assert compare(STRICTER, [standard], [net]).verdict is PROVEN
    assert compare(STRICTER, [net], [standard]).verdict is REFUTED


def test_docker_filter_is_neither_stricter_than_ours_nor_equal() -> None:
    ours, docker = assemble(load_profile("standard")).code, DOCKER.read_bytes()
    assert compare(STRICTER, [docker], [ours]).verdict is REFUTED
    assert compare(EQUIVALENT, [docker], [docker]).verdict is PROVEN


def test_no_abi_no_answer() -> None:
    assert compare(EQUIVALENT, [linear], [linear], abis=()).verdict is Verdict.NOT_RUN
