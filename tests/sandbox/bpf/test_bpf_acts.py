"""The catalogue: every act asks something in every ABI that has it, of a filter that answers both ways."""

import subprocess
from pathlib import Path

import pytest

from holdfast.sandbox.bpf.abi import Abi, host_abis, number_of, parse_abis, syscall_name, syscall_table
from holdfast.sandbox.bpf.acts import ACTS, FIVE, OUT_OF_SIGHT, find_acts
from holdfast.sandbox.bpf.proof import Proof, ReplayOutcome, Verdict
from holdfast.sandbox.bpf.prove import prove_acts
from holdfast.sandbox.bpf.samples import iter_samples
from holdfast.sandbox.refusal import BadInputError

from .filters_of_tests import ALLOWED, DENIED, DOCKER, asks_the_kernel, program

EVERYWHERE = tuple(Abi)
OPEN, SHUT = program(ALLOWED), program(DENIED)
HANDED = program("ret #k 0x7fc00000")

MISSING = {("kernel.io", Abi.AARCH64)}
"""Acts that an ABI has no call for, the `abi` family aside."""


@pytest.fixture(scope="module")
def shut() -> dict[str, Proof]:
    return dict(prove_acts([SHUT], abis=EVERYWHERE))


@pytest.fixture(scope="module")
def open_() -> dict[str, Proof]:
    return dict(prove_acts([OPEN], abis=EVERYWHERE, replayed=True))


@pytest.mark.parametrize("name", ACTS)
def test_each_act_is_proven_of_a_filter_that_denies_all(name: str, shut: dict[str, Proof]) -> None:
    assert shut[name].verdict is Verdict.PROVEN
    for abi, verdict in shut[name].by_abi:
        absent = (name, abi) in MISSING or (ACTS[name].family == "abi" and name != f"abi.{abi.value}")
        assert verdict is (Verdict.NOT_RUN if absent else Verdict.PROVEN), abi


@asks_the_kernel
@pytest.mark.parametrize("name", ACTS)
def test_each_act_is_refuted_of_a_filter_that_allows_all(name: str, open_: dict[str, Proof]) -> None:
    """Every attempt in every ABI; what this machine can make is confirmed, what it cannot says so."""
    proof = open_[name]
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    attempts = [q for a in ACTS[name].attempts for q in a.questions(EVERYWHERE)]
    assert len(proof.counterexamples) == len(attempts)
    for shown in proof.counterexamples:
        foreign = shown.abi not in host_abis()
        assert shown.replay.outcome is (ReplayOutcome.NOT_REPLAYABLE if foreign else ReplayOutcome.CONFIRMED)


@pytest.mark.parametrize("name", ACTS)
def test_each_question_has_members_for_the_second_opinion(name: str) -> None:
    for attempt in ACTS[name].attempts:
        for question in attempt.questions(EVERYWHERE):
            assert len(list(iter_samples(question, ip=0))) >= 3, str(question)


@pytest.mark.parametrize("name", ACTS)
def test_a_call_handed_to_a_supervisor_is_not_proven(name: str) -> None:
    proof = prove_acts([HANDED], [name])[name]
    assert proof.verdict is Verdict.CANNOT_TELL
    assert "another process" in proof.reason


def test_no_act_is_proven_where_no_abi_has_it() -> None:
    proof = prove_acts([SHUT], ["kernel.io"], abis=(Abi.AARCH64,))["kernel.io"]
    assert proof.verdict is Verdict.NOT_RUN
    assert prove_acts([SHUT], ["kernel.io"], abis=())["kernel.io"].verdict is Verdict.NOT_RUN


@pytest.mark.parametrize("name", OUT_OF_SIGHT)
def test_what_no_filter_sees_cannot_be_told(name: str) -> None:
    proof = prove_acts([SHUT], [name])[name]
    assert proof.verdict is Verdict.CANNOT_TELL
    assert proof.reason == OUT_OF_SIGHT[name]


def test_the_five_families_hold_the_acts_that_are_probed() -> None:
    assert [act.id for act in find_acts(FIVE)] == [
        "mount.classic", "mount.newapi", "ns.unshare", "ns.clone", "ns.clone3", "ns.setns", "perf.open", "bpf.cmd",
        "ptrace", "process_vm", "keyring.keyctl", "keyring.add_key", "keyring.request_key", "tty.sti", "tty.linux",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["mounts", "", "mount.", "MOUNT"])
def test_unknown_acts_are_bad_input(word: str) -> None:
    with pytest.raises(BadInputError, match="unknown act"):
        find_acts([word])
    with pytest.raises(BadInputError, match="unknown act"):
        prove_acts([SHUT], [word])


DOCKER_PROVEN = (
    "mount.classic", "mount.newapi", "ns.unshare", "ns.clone", "ns.clone3", "ns.setns", "bpf.cmd", "perf.open",
    "keyring.keyctl", "keyring.add_key", "keyring.request_key", "process_vm", "uffd", "handle.open", "kernel.module",
)  # fmt: skip
DOCKER_OPEN = ("tty.sti", "tty.linux", "ptrace", "uring", "abi.x32", "abi.i386", "sock.family")


@asks_the_kernel
def test_docker_filter_read_live_is_judged_as_it_was_measured() -> None:
    proofs = prove_acts(
        [DOCKER.read_bytes()], [*DOCKER_PROVEN, *DOCKER_OPEN], abis=host_abis("x86_64"), replayed=True
    )
    assert {n for n, p in proofs.items() if p.verdict is Verdict.PROVEN} == set(DOCKER_PROVEN)
    assert {n for n, p in proofs.items() if p.verdict is Verdict.COUNTEREXAMPLE} == set(DOCKER_OPEN)
    shown = [c for n in DOCKER_OPEN for c in proofs[n].counterexamples]
    assert {c.replay.outcome for c in shown} == {ReplayOutcome.CONFIRMED}


def test_socketcall_by_int_0x80_is_open_in_docker() -> None:
    """The address family stands behind a pointer there, so no filter can hold it but by denying the call."""
    proof = prove_acts([DOCKER.read_bytes()], ["sock.family"], abis=(Abi.I386,))["sock.family"]
    assert any(syscall_name(Abi.I386, c.call.nr) == "socketcall" for c in proof.counterexamples)


NUMBERS = {
    ("mount", Abi.X86_64): 165,
    ("mount", Abi.I386): 21,
    ("mount", Abi.X32): 0x4000_0000 | 165,
    ("mount", Abi.AARCH64): 40,
    ("ioctl", Abi.X32): 0x4000_0000 | 514,
    ("ptrace", Abi.X32): 0x4000_0000 | 521,
    ("umount", Abi.X86_64): None,
    ("umount", Abi.I386): 22,
    ("socketcall", Abi.I386): 102,
    ("unshare", Abi.I386): 310,
    ("perf_event_open", Abi.I386): 336,
    ("bpf", Abi.I386): 357,
    ("keyctl", Abi.I386): 288,
    ("clone", Abi.AARCH64): 220,
    ("open_tree_attr", Abi.X86_64): 467,
    ("clone3", Abi.I386): 435,
}


@pytest.mark.parametrize(("key", "number"), NUMBERS.items(), ids=str)
def test_numbers_by_hand(key: tuple[str, Abi], number: int | None) -> None:
    assert number_of(*key) == number


@pytest.mark.parametrize(
    ("abi", "flags"), [(Abi.X86_64, ["-m64"]), (Abi.I386, ["-m32"]), (Abi.X32, ["-mx32"])]
)
def test_the_table_agrees_with_the_kernel_headers_here(abi: Abi, flags: list[str]) -> None:
    includes = [f"-I{path.parent}" for path in Path("/usr/include").glob("x86_64-linux-gnu/asm")]
    if not includes:
        pytest.skip("no x86-64 kernel headers on this machine (linux-libc-dev)")
    named = "\n".join(f"HOLDFAST {name} __NR_{name}" for name in syscall_table())
    source = f"#include <asm/unistd.h>\n{named}\n"
    out = subprocess.run(
        ["gcc", "-E", "-P", *flags, *includes, "-x", "c", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    compared = 0
    for line in out.splitlines():
        if not line.startswith("HOLDFAST "):
            continue
        _, name, *value = line.split(maxsplit=2)
        digits = value[0].strip("()").replace("0x40000000 +", "").strip() if value else ""
        if digits.isdecimal():
            compared += 1
            assert number_of(name, abi) == int(digits) + abi.numbers[0], name
    assert compared > 300


def test_words_for_abis() -> None:
    assert parse_abis("x32, i386,x32") == (Abi.X32, Abi.I386)
    with pytest.raises(BadInputError, match="unknown ABI `arm`"):
        parse_abis("arm")
    with pytest.raises(BadInputError, match="riscv64"):
        host_abis("riscv64")
    with pytest.raises(BadInputError, match="unknown system call `mont`"):
        number_of("mont", Abi.I386)
