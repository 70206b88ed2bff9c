"""`holdfast prove` as a user runs it: exit codes, one clear line for bad input, JSON that its schema describes."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from holdfast.harness.prove_cli import app
from holdfast.harness.prove_report import exit_code
from holdfast.sandbox.bpf.acts import ACTS, FIVE, find_acts
from holdfast.sandbox.bpf.proof import Verdict

ROOT = Path(__file__).resolve().parents[2]
DOCKER = str(ROOT / "tests/sandbox/bpf/filters/docker-20.10.24.bpf")
SCHEMA = json.loads((ROOT / "docs/schemas/proof-1.json").read_text(encoding="utf-8"))
X86 = ["--abi", "x86_64,i386,x32"]


def holdfast_prove(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def prove_json(*arguments: str) -> dict[str, Any]:
    result = holdfast_prove(*arguments, "--json")
    document: dict[str, Any] = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["exit_code"] == result.exit_code
    return document


@pytest.mark.parametrize("profile", ["strict", "standard", "standard-net"])
def test_our_profiles_are_proven_for_the_five_families(profile: str) -> None:
    document = prove_json("--profile", profile, *X86)
    assert document["acts"] == {act.id: "proven" for act in find_acts(FIVE)}
    assert document["exit_code"] == 0


LEFT_OPEN = {
    "strict": {"sock.inherited"},
    "standard": {"sock.inherited", "tty.sctty"},
    "standard-net": {"sock.inherited", "tty.sctty"},
}
"""What our filters leave to other layers: no listener crosses into the sandbox, and a job needs its terminal."""


@pytest.mark.parametrize("profile", LEFT_OPEN)
def test_the_whole_catalogue_names_what_a_profile_leaves_open(profile: str) -> None:
    document = prove_json("--profile", profile, "--all", *X86)
    assert len(document["acts"]) == len(ACTS)
    assert {name for name, word in document["acts"].items() if word != "proven"} == LEFT_OPEN[profile]
    assert document["exit_code"] == 1


def test_a_counterexample_is_exit_1_and_shows_registers() -> None:
    result = holdfast_prove("--bpf", DOCKER, "--act", "tty.sti", *X86)
    assert result.exit_code == 1
    assert "x86_64 ioctl(0x0, 0x5412" in result.stdout
    assert "replay confirmed" in result.stdout


def test_replay_can_be_left_out() -> None:
    document = prove_json("--bpf", DOCKER, "--act", "tty.sti", "--no-replay", *X86)
    (stack,) = document["stacks"]
    shown = stack["acts"]["tty.sti"]["counterexamples"]
    assert {c["replay"]["outcome"] for c in shown} == {"not_run"}


def test_a_question_is_answered_for_a_live_process() -> None:
    """Ourselves: under no filter in most places, under docker's in a container; TIOCSTI passes in both."""
    arguments = ["--can", "ioctl(TIOCSTI)", "--pid", str(os.getpid()), "--json", *X86]
    result = holdfast_prove(*arguments)
    if result.exit_code == 2:
        assert result.stderr.startswith("holdfast: ")
    else:
        assert result.exit_code == 1
        assert json.loads(result.stdout)["acts"] == {"ioctl(TIOCSTI)": "counterexample"}


def test_a_call_that_cannot_pass_is_exit_0() -> None:
    result = holdfast_prove("--can", "ioctl(TIOCSTI)", "--can", "bpf", "--profile", "standard", *X86)
    assert result.exit_code == 0
    assert "2 proven" in result.stdout


def test_foreign_machines_are_proven_but_not_replayed() -> None:
    document = prove_json("--bpf", DOCKER, "--act", "abi", "--abi", "aarch64")
    assert set(document["acts"].values()) == {"not_run"}
    assert document["exit_code"] == 2
    assert prove_json("--bpf", DOCKER, "--act", "mount", "--abi", "aarch64")["exit_code"] == 0


def test_relations_between_two_sources() -> None:
    assert holdfast_prove("--equivalent", "strict", "strict").exit_code == 0
    refuted = holdfast_prove("--stricter", "standard", "strict", *X86)
    assert refuted.exit_code == 1
    assert "`standard` is at least as strict as `strict`: refuted" in refuted.stdout
    assert "first ALLOW, second ERRNO(1)" in refuted.stdout
    assert holdfast_prove("--stricter", "strict", "standard").exit_code == 0


def test_a_listing() -> None:
    result = holdfast_prove("--bpf", DOCKER, "--disassemble")
    assert result.exit_code == 0
    assert "0000  ld    arch" in result.stdout


BAD = {
    "unknown profile": (["--profile", "nope"], "cannot read profile `nope`"),
    "unknown act": (["--act", "mounts"], "unknown act or family `mounts`"),
    "act out of sight": (["--act", "procmem.read"], "no filter can hold `procmem.read`"),
    "unknown call": (["--can", "mont"], "unknown system call `mont`"),
    "unknown ABI": (["--abi", "vax"], "unknown ABI `vax`"),
    "gone": (["--pid", "4194303"], "no process 4194303"),
    "two sources": (["--pid", "1", "--profile", "strict"], "exclude each other"),
    "relation beside a question": (["--equivalent", "strict", "strict", "--can", "bpf"], "stand alone"),
    "relation as JSON": (["--equivalent", "strict", "strict", "--json"], "stand alone"),
    "both relations": (
        ["--equivalent", "strict", "strict", "--stricter", "strict", "strict"],
        "exclude each other",
    ),
    "listing beside a question": (["--disassemble", "--can", "bpf"], "stands alone"),
}


@pytest.mark.parametrize(("arguments", "why"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_exit_64_with_one_line(arguments: list[str], why: str) -> None:
    result = holdfast_prove(*arguments)
    assert result.exit_code == 64
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("holdfast: ")
    assert why in result.stderr


def test_a_relation_of_a_process_that_is_gone_is_bad_input() -> None:
    assert holdfast_prove("--equivalent", "pid:4194303", "strict").exit_code == 64


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((), 2),
        ((Verdict.PROVEN,), 0),
        ((Verdict.PROVEN, Verdict.NOT_RUN), 2),
        ((Verdict.PROVEN, Verdict.CANNOT_TELL), 2),
        ((Verdict.CANNOT_TELL, Verdict.COUNTEREXAMPLE), 1),
    ],
)
def test_only_proofs_alone_are_exit_0(verdicts: tuple[Verdict, ...], code: int) -> None:
    assert exit_code(verdicts) == code
