"""Where filters come from, and how a person reads them."""

import json
from pathlib import Path

import pytest

from holdfast.sandbox.bpf.disassemble import disassemble
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.source import load_source
from holdfast.sandbox.refusal import BadInputError

from .filters_of_tests import ALLOWED, DENIED, DOCKER, program

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
}


def test_one_policy_by_three_ways_is_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps(PROFILE))
    (tmp_path / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", "linux": {"seccomp": PROFILE}}))
    compiled_stack = load_source(str(tmp_path / "policy.json")).stacks
    (tmp_path / "policy.bpf").write_bytes(compiled_stack[0][0])
    assert load_source(str(tmp_path / "config.json")).stacks == compiled_stack
    assert load_source(str(tmp_path / "policy.bpf")).stacks == compiled_stack


def test_our_profiles_are_found_by_name() -> None:
    ((raw,),) = load_source("strict").stacks
    assert len(decode(raw)) > 100


def test_digests_tell_filters_apart() -> None:
    (strict,), (standard,) = load_source("strict").digests, load_source("standard").digests
    assert strict != standard
    assert len(strict[0]) == 64


REFUSED_FILES = {
    "truncated.bpf": (program(ALLOWED)[:5], "is not a seccomp filter: the filter is truncated"),
    "empty.bpf": (b"", "is not a seccomp filter: the filter is empty"),
    "large.bpf": (b"\0" * (4096 * 8 + 1), "is larger than 32768 bytes"),
    "elf.bpf": (b"\x7fELF" + bytes(60), "opcode `0x457f` is not admitted"),
    "broken.json": (b"{", "not JSON"),
    "no-seccomp.json": (b'{"ociVersion": "1.0.2", "linux": {}}', "without `linux.seccomp`"),
    "docker.json": (b'{"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}', "docker's own"),
    "unknown-arch.json": (
        json.dumps(PROFILE | {"architectures": ["SCMP_ARCH_VAX"]}).encode(),
        "architecture `SCMP_ARCH_VAX` is not known",
    ),
    "deep.json": (b"[" * 100_000, "not usable JSON"),
}


@pytest.mark.parametrize(
    ("name", "raw", "why"), [(n, *v) for n, v in REFUSED_FILES.items()], ids=REFUSED_FILES
)
def test_a_file_that_is_no_filter_is_refused(tmp_path: Path, name: str, raw: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(BadInputError) as caught:
        load_source(str(tmp_path / name))
    assert why in str(caught.value)


@pytest.mark.parametrize("pid", ["", "0", "-1", "x", "1e3", "99999999", "\uff11"])
def test_what_is_no_process_id_is_refused(pid: str) -> None:
    with pytest.raises(BadInputError, match="is not a process id"):
        load_source(f"pid:{pid}")


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"cannot read `/nowhere/x\.bpf`"):
        load_source("/nowhere/x.bpf")


LISTING = """\
0000  ld    arch
0001  jeq   #0xc000003e x86_64      -> 2 else 8
0002  ld    nr
0003  jge   #0x40000000             -> 8 else 4
0004  jeq   #16 ioctl               -> 5 else 9
0005  ld    args[1].low
0006  jeq   #0x5412                 -> 7 else 9
0007  ret   ERRNO(1)
0008  ret   KILL_THREAD
0009  ret   ALLOW"""


def test_a_filter_reads_as_a_listing() -> None:
    raw = program(
        "ld [k] 4", "jeq #k 0xc000003e 0 6", "ld [k] 0", "jge #k 0x40000000 4 0", "jeq #k 16 0 4", "ld [k] 24",
        "jeq #k 0x5412 0 2", DENIED, "ret #k 0", ALLOWED,
    )  # fmt: skip
    assert "\n".join(disassemble(decode(raw))) == LISTING


def test_every_opcode_has_a_line() -> None:
    lines = (
        "ld #len", "ldx #len", "ldx #k 1", "st M[k] 2", "stx M[k] 3", "ld M[k] 2", "ldx M[k] 3", "add #k 1", "sub x",
        "neg", "tax", "txa", "jset x 0 0 0", "ja 0", "ld [k] 60", "ret a",
    )  # fmt: skip
    listed = [line.split(maxsplit=1)[1] for line in disassemble(decode(program(*lines)))]
    assert listed == [
        "ld    #len", "ldx   #len", "ldx   #0x1", "st    M[2]", "stx   M[3]", "ld    M[2]", "ldx   M[3]", "add   #0x1",
        "sub   x", "neg", "tax", "txa", "jset  x                       -> 13 else 13", "ja                            -> 14",
        "ld    args[5].high", "ret   a",
    ]  # fmt: skip


def test_docker_filter_names_each_i386_number_as_i386_does() -> None:
    listing = "\n".join(disassemble(decode(DOCKER.read_bytes())))
    assert "#102 socketcall" in listing
    assert len(listing.splitlines()) == 974
