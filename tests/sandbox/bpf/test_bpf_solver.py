"""What is said when nothing can be said: no solver, no time, a model that is wrong."""

import subprocess
import sys
from dataclasses import replace

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.action import ALLOW, ERRNO
from holdfast.sandbox.bpf.attempt import Attempt, Bits
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.proof import Counterexample, Proof, ReplayOutcome, Verdict, combine_proofs
from holdfast.sandbox.bpf.prove import prove, prove_acts
from holdfast.sandbox.bpf.relation import Relation, compare
from holdfast.sandbox.bpf.replay import replay_all
from holdfast.sandbox.bpf.simulate import run_filter
from holdfast.sandbox.bpf.solver import Oracle
from holdfast.sandbox.bpf.symbolic import z3
from holdfast.sandbox.bpf.trampoline import RETURN_ADDRESS

from .filters_of_tests import ALLOWED, DENIED, asks_the_kernel, program

HARD = program(
    "ld [k] 16", "tax", "ld [k] 24", "mul x", "tax", "mul x", "st M[k] 0", "ld [k] 32", "tax", "ld [k] 40", "mul x",
    "xor #k 0x9e3779b9", "tax", "mul x", "ldx M[k] 0", "mul x", "tax", "ld [k] 48", "mul x", "tax", "mul x", "div x",
    "jeq #k 0xdeadbeef 0 1", ALLOWED, DENIED,
)  # fmt: skip
"""Products of four arguments against a constant: nothing that a solver answers in a millisecond."""


def test_a_solver_out_of_time_cannot_tell() -> None:
    proof = prove_acts([HARD], ["mount.classic"], abis=(Abi.X86_64,), timeout_ms=1)["mount.classic"]
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "gave up" in proof.reason
    comparison = compare(Relation.EQUIVALENT, [HARD], [program(DENIED)], abis=(Abi.X86_64,), timeout_ms=1)
    assert comparison.verdict is Verdict.CANNOT_TELL


WITHOUT_Z3 = """
import sys
sys.modules["z3"] = None  # what `import z3` meets when the extra is not installed
from holdfast.sandbox.bpf.prove import prove_acts
proof = prove_acts([bytes.fromhex("0600000001000500")], ["mount.classic"])["mount.classic"]
print(proof.verdict.value, "|", proof.reason)
from holdfast.harness.prove_cli import app
app(["--profile", "strict"])
"""


def test_without_z3_nothing_is_proven_and_the_extra_is_named() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT_Z3], capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("not_run | ")
    assert "holdfast[prove]" in ran.stdout
    assert ran.returncode == 2
    assert ran.stderr.startswith("holdfast: proofs need the package z3-solver")
    assert "pip install 'holdfast[prove]'" in ran.stderr


def test_a_proof_without_a_question_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="asked no question"):
        Proof(Verdict.PROVEN, "")
    with pytest.raises(ValueError, match="contradict"):
        Proof(Verdict.COUNTEREXAMPLE, "")


def test_no_abi_is_not_a_proof() -> None:
    assert combine_proofs({}).verdict is Verdict.NOT_RUN
    absent = Proof(Verdict.NOT_RUN, "no such call there")
    assert combine_proofs({Abi.X86_64: absent}).verdict is Verdict.NOT_RUN


PROVEN = Proof(Verdict.PROVEN, "", 1)
UNSURE = Proof(Verdict.CANNOT_TELL, "", 1)
REFUTED = Proof(Verdict.COUNTEREXAMPLE, "", 1, (Counterexample(Abi.I386, Call(0, 0), ALLOW),))
ABSENT = Proof(Verdict.NOT_RUN, "")


@pytest.mark.parametrize(
    ("proofs", "verdict"),
    [
        ((PROVEN, PROVEN), Verdict.PROVEN),
        ((PROVEN, ABSENT), Verdict.PROVEN),
        ((PROVEN, UNSURE), Verdict.CANNOT_TELL),
        ((UNSURE, REFUTED), Verdict.COUNTEREXAMPLE),
        ((PROVEN, REFUTED), Verdict.COUNTEREXAMPLE),
        ((ABSENT, UNSURE), Verdict.CANNOT_TELL),
    ],
)
def test_the_worse_word_wins_over_abis(proofs: tuple[Proof, Proof], verdict: Verdict) -> None:
    first, second = proofs
    assert combine_proofs({Abi.X86_64: first, Abi.I386: second}).verdict is verdict
    assert combine_proofs({Abi.X86_64: second, Abi.I386: first}).verdict is verdict


@pytest.mark.planted
def test_a_formula_that_denies_too_much_is_caught_by_the_second_opinion() -> None:
    oracle = Oracle([decode(program(ALLOWED))])
    oracle.answer = z3.BitVecVal(ERRNO | 1, 32)  # a broken encoder: everything denied
    (question,) = Attempt("mount").questions((Abi.X86_64,))
    proof = oracle.ask(question)
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "solver and simulator disagree" in proof.reason


@pytest.mark.planted
def test_a_formula_that_allows_too_much_is_caught_by_the_simulator() -> None:
    oracle = Oracle([decode(program(DENIED))])
    oracle.answer = z3.BitVecVal(ALLOW, 32)
    (question,) = Attempt("mount").questions((Abi.X86_64,))
    proof = oracle.ask(question)
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "solver and simulator disagree" in proof.reason


@pytest.mark.planted
def test_a_set_without_members_is_no_proof() -> None:
    bits = (Bits(0, 1, 0), Bits(0, 1, 1))
    proof = prove([program(ALLOWED)], {"impossible": (Attempt("mount", bits),)}, abis=(Abi.X86_64,))[
        "impossible"
    ]
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "no call belongs to this set" in proof.reason


@asks_the_kernel
@pytest.mark.planted
def test_a_counterexample_that_the_kernel_denies_takes_the_answer_back() -> None:
    proof = prove_acts([program(ALLOWED)], ["bpf.cmd"], abis=(Abi.X86_64,))["bpf.cmd"]
    taken_back = replay_all([program(DENIED)], {"bpf.cmd": proof})["bpf.cmd"]
    assert taken_back.verdict is Verdict.CANNOT_TELL
    assert "the model and the kernel disagree" in taken_back.reason
    assert dict(taken_back.by_abi) == {Abi.X86_64: Verdict.CANNOT_TELL}


def asks_for_address(address: int) -> bytes:
    """A filter that allows calls from one address only."""
    return program("ld [k] 8", f"jeq #k {address} 0 1", ALLOWED, DENIED)


@asks_the_kernel
def test_a_filter_that_looks_at_the_address_is_replayed_from_there() -> None:
    raw = asks_for_address(RETURN_ADDRESS[Abi.X86_64])
    proof = prove_acts([raw], ["bpf.cmd"], abis=(Abi.X86_64,), replayed=True)["bpf.cmd"]
    assert proof.counterexamples[0].replay.outcome is ReplayOutcome.CONFIRMED


def test_an_address_that_the_replay_does_not_have_is_not_replayable() -> None:
    proof = prove_acts([asks_for_address(0x1234)], ["bpf.cmd"], abis=(Abi.X86_64,), replayed=True)["bpf.cmd"]
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    (shown,) = proof.counterexamples
    assert shown.call.ip & 0xFFFF_FFFF == 0x1234
    assert shown.replay.outcome is ReplayOutcome.NOT_REPLAYABLE
    assert run_filter(decode(asks_for_address(0x1234)), replace(shown.call)) == ALLOW


@pytest.mark.parametrize("name", ["uretprobe", "uprobe"])
def test_a_call_that_no_filter_sees_is_never_proven(name: str) -> None:
    """The filter denies everything, and the kernel runs it all the same."""
    proof = prove([program(DENIED)], {name: (Attempt(name),)}, abis=(Abi.X86_64,))[name]
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "past every filter" in proof.reason
