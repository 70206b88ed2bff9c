"""The faults that real filters have had: each yields a counterexample, confirmed by the kernel; its sound twin is proven.

The policy text of every one of them reads well. Only the compiled BPF shows the hole.
"""

import pytest

from holdfast.sandbox.bpf.abi import Abi, number_of
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.bpf.instruction import Instruction, decode, encode
from holdfast.sandbox.bpf.proof import Proof, ReplayOutcome, Verdict
from holdfast.sandbox.bpf.prove import prove_acts

from .filters_of_tests import DOCKER, asks_the_kernel, compare, compiled

pytestmark = asks_the_kernel

LOW = 0xFFFF_FFFF
NAMESPACES = 0x7E02_0000
ALL = (Abi.X86_64, Abi.I386, Abi.X32)
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
NEWUSER = 0x1000_0000
GETPID = 39


def prove_one(act: str, *filters: bytes, abis: tuple[Abi, ...] = ALL) -> Proof:
    return prove_acts(filters, [act], abis=abis, replayed=True)[act]


def weakened(raw: bytes, pc: int, **changes: int) -> bytes:
    """One instruction changed."""
    program = list(decode(raw))
    old = program[pc]
    fields = {"code": old.code, "jt": old.jt, "jf": old.jf, "k": old.k} | changes
    program[pc] = Instruction(**fields)
    return encode(program)


def comparison_at(raw: bytes, value: int) -> int:
    """Where the filter compares a word with `value`."""
    return next(pc for pc, i in enumerate(decode(raw)) if i.name == "jeq" and i.k == value)


def deny_ioctl(*comparisons: object) -> bytes:
    """A deny list that kills foreign ABIs; one rule for each comparison."""
    return compiled("allow", *(("errno 1", "ioctl", c) for c in comparisons))


masked = deny_ioctl(compare(1, "MASKED_EQ", LOW, TIOCSTI))
"""The sound rule: 32 bits are compared, as the kernel reads them."""
unix_only = compiled("errno 1", ("allow", "socket", compare(0, "EQ", 1)))
"""Sound as well: an allow rule that compares 64 bits lets too little through, never too much."""

SOUND: dict[str, tuple[str, bytes]] = {
    "low 32 bits compared": ("tty.sti", masked),
    "64 bits compared in an allow rule": ("sock.family", unix_only),
    "all requests but two, by prefixes": (
        "tty.linux",
        compiled("errno 1", ("allow", "ioctl", compare(1, "MASKED_EQ", 0x8000_0000, 0x8000_0000))),
    ),
    "arch before the rules": ("mount.classic", compiled("errno 1", ("allow", "read"), arches=["X86"])),
    "i386 rule": (
        "mount.classic",
        compiled("allow", *(("errno 1", n) for n in ("mount", "umount", "umount2")), arches=["X86"]),
    ),
    "x32 killed": ("bpf.cmd", compiled("allow", ("errno 1", "bpf"))),
    "whole mask": (
        "ns.clone",
        compiled("errno 1", ("allow", "clone", compare(0, "MASKED_EQ", NAMESPACES, 0))),
    ),
}


@pytest.mark.parametrize(("act", "raw"), SOUND.values(), ids=SOUND.keys())
def test_the_sound_twin_is_proven(act: str, raw: bytes) -> None:
    proof = prove_one(act, raw)
    assert proof.verdict is Verdict.PROVEN, proof.reason


def without_x32_check(raw: bytes) -> bytes:
    """The jump that sends numbers with bit 30 to the kill, sent on instead."""
    pc = next(pc for pc, i in enumerate(decode(raw)) if i.name == "jge" and i.k == 0x4000_0000)
    return weakened(raw, pc, jt=decode(raw)[pc].jf)


def both_ways(raw: bytes, value: int, *, as_if_equal: bool) -> bytes:
    """A comparison that no longer decides: it leads to one place, equal or not."""
    pc = comparison_at(raw, value)
    old = decode(raw)[pc]
    return weakened(raw, pc, jf=old.jt) if as_if_equal else weakened(raw, pc, jt=old.jf)


FAULTY: dict[str, tuple[str, bytes, Abi]] = {
    "64-bit compare": ("tty.sti", deny_ioctl(compare(1, "EQ", TIOCSTI)), Abi.X86_64),
    "two NE rules are ORed": (
        "tty.sti",
        compiled(
            "errno 1",
            ("allow", "ioctl", compare(1, "NE", TIOCSTI)),
            ("allow", "ioctl", compare(1, "NE", TIOCLINUX)),
        ),
        Abi.X86_64,
    ),
    "arch added after the rules": (
        "bpf.cmd",
        compiled("allow", ("errno 1", "bpf"), late=["X86"]),
        Abi.I386,
    ),
    "missing x32 check": ("bpf.cmd", without_x32_check(compiled("allow", ("errno 1", "bpf"))), Abi.X32),
    "clone rule with one mask value": (
        "ns.clone",
        compiled("allow", ("errno 1", "clone", compare(0, "MASKED_EQ", NAMESPACES, NEWUSER))),
        Abi.X86_64,
    ),
    "64-bit comparison weakened by one jump": (
        "sock.family",
        both_ways(unix_only, 1, as_if_equal=True),
        Abi.X86_64,
    ),
    "32-bit comparison weakened by one jump": (
        "tty.sti",
        both_ways(masked, TIOCSTI, as_if_equal=False),
        Abi.X86_64,
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize(("act", "raw", "through"), FAULTY.values(), ids=FAULTY.keys())
def test_a_planted_fault_yields_a_confirmed_counterexample(act: str, raw: bytes, through: Abi) -> None:
    proof = prove_one(act, raw)
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    assert dict(proof.by_abi)[through] is Verdict.COUNTEREXAMPLE
    found = next(c for c in proof.counterexamples if c.abi is through)
    assert found.replay.outcome is ReplayOutcome.CONFIRMED


def test_the_counterexample_to_a_64_bit_compare_sets_high_bits() -> None:
    proof = prove_one("tty.sti", deny_ioctl(compare(1, "EQ", TIOCSTI)), abis=(Abi.X86_64,))
    request = proof.counterexamples[0].call.args[1]
    assert request & LOW == TIOCSTI
    assert request >> 32


def test_the_counterexample_to_one_mask_value_is_another_set_of_namespaces() -> None:
    proof = prove_one("ns.clone", FAULTY["clone rule with one mask value"][1], abis=(Abi.X86_64,))
    flags = proof.counterexamples[0].call.args[0]
    assert flags & NAMESPACES not in {0, NEWUSER}


@pytest.mark.planted
@pytest.mark.parametrize("act", ["mount.classic", "perf.open", "keyring.keyctl", "bpf.cmd", "ns.setns"])
def test_docker_filter_with_one_number_rewritten_is_found_out(act: str) -> None:
    """One allowed number among 974 instructions becomes the act's."""
    raw = DOCKER.read_bytes()
    assert prove_one(act, raw, abis=(Abi.X86_64,)).verdict is Verdict.PROVEN
    number = number_of(ACTS[act].attempts[0].name, Abi.X86_64)
    assert number is not None
    program = decode(raw)
    getpid = next(pc for pc, i in enumerate(program) if i.name == "jeq" and i.k == GETPID and pc > 20)
    proof = prove_one(act, weakened(raw, getpid, k=number), abis=(Abi.X86_64,))
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    assert proof.counterexamples[0].call.nr == number
    assert proof.counterexamples[0].replay.outcome is ReplayOutcome.CONFIRMED
