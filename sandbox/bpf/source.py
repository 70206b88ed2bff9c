"""Where a filter comes from: a word on the command line, turned into bytes once.

source := "pid:" N            the live filters of a process
        | PATH.bpf            raw `struct sock_filter[]`
        | PATH.json | NAME    a profile (OCI JSON, a whole runtime config.json, or one of ours by name)
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.bpf.instruction import MAX_INSTRUCTIONS, decode
from holdfast.sandbox.bpf.live import Stack, read_live
from holdfast.sandbox.profile import MAX_BYTES, load_profile, parse_profile
from holdfast.sandbox.refusal import BadInputError

__all__ = ["Subject", "load_compiled", "load_live", "load_raw", "load_source"]

MAX_RAW = MAX_INSTRUCTIONS * 8
MAX_PID = 1 << 22
"""PID_MAX_LIMIT."""


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """The stacks of filters that a source stands for; more than one where threads differ."""

    source: str
    stacks: tuple[Stack, ...]

    @property
    def digests(self) -> tuple[tuple[str, ...], ...]:
        """SHA-256 of each filter's bytes, stack by stack."""
        return tuple(tuple(hashlib.sha256(raw).hexdigest() for raw in stack) for stack in self.stacks)


def load_source(source: str) -> Subject:
    """Read a source; raises `BadInputError`, `CannotReadError` (live filters that stay hidden)."""
    if source.startswith("pid:"):
        return load_live(source.removeprefix("pid:"))
    return load_raw(source) if source.endswith(".bpf") else load_compiled(source)


def load_live(pid: str) -> Subject:
    """The filters of a running process."""
    if not pid.isascii() or not pid.isdecimal() or not 0 < int(pid) <= MAX_PID:
        raise BadInputError(f"`{pid}` is not a process id")
    return Subject(f"pid:{pid}", read_live(int(pid)))


def load_raw(path: str) -> Subject:
    """A raw filter, found to be one that the kernel would load."""
    raw = _read(path, MAX_RAW)
    try:
        decode(raw)
    except BadInputError as error:
        raise BadInputError(f"`{path}` is not a seccomp filter: {error.what}") from None
    return Subject(path, ((raw,),))


def load_compiled(profile: str) -> Subject:
    """A profile, compiled; a runtime `config.json` carries one under `linux.seccomp`."""
    if profile.endswith(".json") and (inner := _inner_profile(profile)) is not None:
        return Subject(profile, ((assemble(parse_profile(inner, path=f"{profile} (linux.seccomp)")).code,),))
    return Subject(profile, ((assemble(load_profile(profile)).code,),))


def _inner_profile(path: str) -> bytes | None:
    try:
        document = json.loads(_read(path, MAX_BYTES))
    except (ValueError, RecursionError):
        return None  # the profile's own reader says what is wrong, and where
    if not isinstance(document, dict) or "ociVersion" not in document:
        return None
    linux = document.get("linux")
    inner = linux.get("seccomp") if isinstance(linux, dict) else None
    if inner is None:
        raise BadInputError(f"`{path}` is a runtime configuration without `linux.seccomp`")
    return json.dumps(inner).encode()


def _read(path: str, most: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise BadInputError(f"cannot read `{path}`: {error.strerror}") from None
    if len(raw) > most:
        raise BadInputError(f"`{path}` is larger than {most} bytes")
    return raw
