"""Mutants of a profile: what each lets through by the rules as written, and how a mutant is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.harness.cli import _main
from holdfast.harness.mutant import Kind, Mutant, allows, mutants_of
from holdfast.harness.mutate import Fate, Judged, Score, choose, judge_mutant
from holdfast.harness.results import validate_document
from holdfast.sandbox import load_profile, parse_profile
from holdfast.sandbox.bpf.abi import Abi, number_of
from holdfast.sandbox.bpf.action import Grip, grip
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.proof import Counterexample, Proof, Replayed, ReplayOutcome, Verdict
from holdfast.sandbox.bpf.simulate import run_stack
from holdfast.sandbox.profile import Action, Profile

STANDARD = load_profile("standard")
MUTANTS = tuple(mutants_of(STANDARD))

on_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the ABIs are those of x86-64")


def one(kind: Kind, start: str) -> Mutant:
    return next(m for m in MUTANTS if m.kind is kind and m.what.startswith(start))


def test_there_is_a_mutant_of_each_kind_and_each_forbidden_call() -> None:
    assert {m.kind for m in MUTANTS} == set(Kind)
    allowed = {m.what for m in MUTANTS if m.kind is Kind.ALLOWED}
    assert {"mount", "unshare", "bpf", "perf_event_open", "ptrace", "keyctl", "ioctl", "clone3"} <= allowed
    assert "connect" not in allowed, "the profile allows it already"


@pytest.mark.parametrize(
    ("kind", "start", "aims"),
    [
        (Kind.ALLOWED, "mount", {"mount.classic"}),
        (Kind.ERRNO_ALLOWED, "clone3", {"ns.clone3"}),
        (Kind.CONDITION_DROPPED, "clone", {"ns.clone"}),
        (Kind.COMPARED_WHOLE, "clone", set()),
        (Kind.NEGATED, "clone", {"ns.clone"}),
        (Kind.MASK_BIT, "clone argument 0 MASKED_EQ 0x7e020000/0x0, bit 0x20000", {"ns.clone"}),
        (Kind.NEGATED, "ioctl", {"tty.sti", "tty.linux"}),
        (Kind.NEGATED, "socket ", {"sock.family"}),
        (Kind.ARCHITECTURE, "SCMP_ARCH_X86", {"abi.i386"}),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else None,
)
def test_a_mutant_aims_at_what_its_rules_let_through(kind: Kind, start: str, aims: set[str]) -> None:
    assert set(one(kind, start).aims) == aims


def test_a_list_of_denials_has_mutants_that_libseccomp_takes() -> None:
    """Where all else is allowed, a denial is undone by leaving it out: an allow rule would be the default's own."""
    denials = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["mount", "bpf"], "action": "SCMP_ACT_ERRNO"},
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "value": 0xFFFFFFFF, "valueTwo": 0x5412, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    }
    mutants = tuple(mutants_of(parse_profile(json.dumps(denials).encode(), path="denials.json")))
    aims = {(m.kind, m.what): set(m.aims) for m in mutants}
    assert aims[Kind.ALLOWED, "mount"] == {"mount.classic"}
    assert aims[Kind.ERRNO_ALLOWED, "mount, bpf"] == {"mount.classic", "bpf.cmd"}
    whole = next(m for m in mutants if m.kind is Kind.COMPARED_WHOLE)
    assert whole.aims == ("tty.sti",), "high bits slip past a 64-bit comparison of a denial"
    assert all(assemble(m.profile).code for m in mutants)


CALLS = ("ioctl", "clone", "personality", "socket", "mount", "read", "clone3", "mknod")
VALUES = (0, 1, 2, 0x5412, 0x541C, 0x5413, 0x7E02_0000, 0x1000_0000, 0xFFFF_FFFF, 1 << 32 | 0x5412, 0x1000)


@on_x86_64
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([STANDARD, *(m.profile for m in MUTANTS[::97])]),
    st.sampled_from(CALLS),
    st.tuples(*[st.sampled_from(VALUES) | st.integers(0, (1 << 64) - 1)] * 6),
)
def test_the_rules_as_written_and_the_filter_that_is_made_of_them_agree(
    profile: Profile, name: str, args: tuple[int, int, int, int, int, int]
) -> None:
    number = number_of(name, Abi.X86_64)
    assert number is not None
    answer = run_stack([decode(assemble(profile).code)], Call(Abi.X86_64.arch, number, args))
    if any(not r.conditions and r.action is Action.ALLOW for r in profile.rules_for(name)):
        assert grip(answer) is Grip.EXECUTES  # libseccomp lets a rule without conditions win
    else:
        assert (grip(answer) is Grip.EXECUTES) == allows(profile, name, args)


def found(
    act: str = "tty.sti", replay: ReplayOutcome = ReplayOutcome.CONFIRMED, abi: Abi = Abi.X86_64
) -> dict[str, Proof]:
    counterexample = Counterexample(abi, Call(abi.arch, 16), 0x7FFF0000, Replayed(replay, ""))
    proof = Proof(Verdict.COUNTEREXAMPLE, "", 1, (counterexample,), by_abi=((abi, Verdict.COUNTEREXAMPLE),))
    return {act: proof}


@pytest.mark.parametrize(
    ("aims", "flipped", "held", "opened", "fate", "why"),
    [
        ({"tty.sti"}, found(), {"tty.sti"}, {"tty.sti"}, Fate.KILLED, "by proof and probe"),
        ({"tty.sti"}, {}, {"tty.sti"}, {"tty.sti"}, Fate.SURVIVED, "its proof stands"),
        ({"tty.sti"}, found(), {"tty.sti"}, set(), Fate.SURVIVED, "no probe of tty.sti reaches"),
        ({"tty.sti"}, found(), set(), set(), Fate.KILLED, "by proof and replay"),
        ({"tty.sti"}, found(replay=ReplayOutcome.NOT_RUN), set(), set(), Fate.SURVIVED, "not confirmed"),
        ({"tty.sti"}, found() | found("ptrace"), {"tty.sti"}, {"tty.sti"}, Fate.SURVIVED, "ptrace falls"),
        ({"tty.sti"}, found(), {"tty.sti"}, {"tty.sti", "ptrace"}, Fate.SURVIVED, "a probe of ptrace"),
        (set(), found(), {"tty.sti"}, {"tty.sti"}, Fate.SURVIVED, "does not aim"),
    ],
    ids=[
        "both",
        "proof-blind",
        "probe-blind",
        "replayed",
        "unconfirmed",
        "proof-astray",
        "probe-astray",
        "aimless",
    ],
)
def test_only_a_mutant_on_which_all_readings_agree_is_killed(
    aims: set[str], flipped: dict[str, Proof], held: set[str], opened: set[str], fate: Fate, why: str
) -> None:
    got = judge_mutant(Kind.ALLOWED, aims, flipped, held=held, opened=opened, unproven=set())
    assert got[0] is fate
    assert why in got[1]


def test_an_architecture_may_open_acts_there_but_not_in_the_machines_own_abi() -> None:
    aims = {"abi.i386"}
    there = found("abi.i386", abi=Abi.I386) | found("sock.family", abi=Abi.I386)
    kept = {"held": aims, "opened": aims, "unproven": set[str]()}
    assert judge_mutant(Kind.ARCHITECTURE, aims, there, **kept)[0] is Fate.KILLED
    here = there | found("sock.family")
    assert judge_mutant(Kind.ARCHITECTURE, aims, here, **kept)[0] is Fate.SURVIVED


def test_no_mutant_is_no_score_and_a_survivor_lowers_it() -> None:
    assert Score(()).percent is None
    killed, survived = (Judged(MUTANTS[0], fate, "") for fate in (Fate.KILLED, Fate.SURVIVED))
    aside = Judged(MUTANTS[0], Fate.ASIDE, "")
    assert Score((aside,)).percent is None
    assert Score((killed, killed, aside)).percent == 100
    assert Score((killed, survived)).percent == 50


def test_a_sample_has_one_of_each_kind_and_is_the_same_for_the_same_seed() -> None:
    first = choose(STANDARD, sample=9, seed=3)
    assert len(first) == 9
    assert {m.kind for m in first} == set(Kind)
    assert first == choose(STANDARD, sample=9, seed=3)
    assert len(choose(STANDARD, sample=None, seed=0)) == len(MUTANTS)


@on_x86_64
def test_a_sample_of_our_strict_profile_is_killed_on_the_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = _main(["mutate", "strict", "--sample", "7", "--seed", "5", "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "mutation score: 100.0 %" in said
    document = json.loads((tmp_path / "MUTATION_strict.json").read_text())
    validate_document(document)
    assert len(document["mutants"]) == 7
    assert document["aimed"] >= 3
    assert document["counts"]["survived"] == 0


@pytest.mark.parametrize(
    "arguments",
    [["no-such-profile"], ["strict", "--sample", "0"], ["strict", "--sample", "x"], ["strict", "extra"]],
    ids=["profile", "zero", "word", "extra"],
)
def test_bad_usage_of_mutate_is_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["mutate", *arguments]) == 64
    assert "Traceback" not in capsys.readouterr().err


def test_without_the_solver_no_score_is_given_and_the_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['z3'] = None\n"
        "from holdfast.harness.cli import _main\n"
        f"sys.exit(_main(['mutate', 'strict', '--sample', '1', '--results', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no mutant can be judged: proofs need the package z3-solver" in done.stderr
    assert "holdfast[prove]" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
