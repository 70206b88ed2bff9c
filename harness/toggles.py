"""Suggested toggles: what to change so that a probe that is not held becomes so; pure.

A toggle that would loosen the sandbox is never counted as a fix; `tightens` says which way it goes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from holdfast.harness.battery import Finding, Findings
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.verdict import ActVerdict, ProbeVerdict

__all__ = ["Toggle", "suggest_toggles"]


@final
@dataclass(frozen=True, slots=True)
class Toggle:
    """One suggestion."""

    probe: str
    layer: str
    """`profile`, `launcher`, `host` or `harness`."""
    change: str
    tightens: bool
    why: str


def suggest_toggles(findings: Findings) -> tuple[Toggle, ...]:
    """At most one suggestion an act and verdict, for acts that are neither held nor open."""
    chosen: dict[tuple[str, ProbeVerdict], Toggle] = {}
    settled = {ActVerdict.HELD, ActVerdict.OPEN}
    doubtful = [f for f in findings.probes if findings.acts[f.probe.act] not in settled]
    for finding in doubtful:
        for toggle in _suggest(finding, findings):
            chosen.setdefault((finding.probe.act, finding.verdict), toggle)
    return tuple(chosen.values())


_CALLS: Mapping[str, str] = {
    "mount.classic": "mount and umount2",
    "mount.newapi": "open_tree, move_mount, fsopen, fsconfig, fsmount, fspick and mount_setattr",
    "ns.unshare": "unshare",
    "ns.clone": "clone with CLONE_NEW* flags (mask 0x7e020000)",
    "ns.clone3": "clone3 (answer ENOSYS, so that libc falls back to clone)",
    "ns.setns": "setns",
    "perf.open": "perf_event_open",
    "bpf.cmd": "bpf",
    "ptrace": "ptrace",
    "process_vm": "process_vm_readv and process_vm_writev",
    "keyring.keyctl": "keyctl",
    "keyring.add_key": "add_key",
    "keyring.request_key": "request_key",
    "tty.sti": "ioctl TIOCSTI on the low 32 bits of the request",
    "tty.linux": "ioctl TIOCLINUX on the low 32 bits of the request",
}

_REACHABLE: Mapping[str, str] = {
    "procmem.read": "use a pid namespace, or a kernel with Landlock",
    "reach.unix": "cover /run with a tmpfs",
    "reach.abstract": "use a network namespace, or a kernel with Landlock ABI 6 (Linux 6.12)",
    "reach.home": "cover the home with a tmpfs",
    "reach.environment": "pass on a named list of variables only",
}


def _suggest(finding: Finding, findings: Findings) -> Iterator[Toggle]:
    probe, act = finding.probe.id, finding.probe.act
    match finding.verdict:
        case ProbeVerdict.BREACHED if act in _REACHABLE:
            change = _REACHABLE[act]
            if findings.isolation is Isolation.SECCOMP:
                change = f"run under bwrap, or {change}"
            yield Toggle(probe, "launcher", change, True, "no filter can see which file or socket is named")
        case ProbeVerdict.BREACHED:
            what = _CALLS.get(act, act)
            yield Toggle(probe, "profile", f"deny {what}", True, "the attempt reached the kernel's code")
        case ProbeVerdict.VACUOUS if act != "tty.linux":
            change = "run where the control can reach: as root, or with user namespaces allowed"
            yield Toggle(probe, "harness", change, False, "it is denied without the sandbox too")
        case ProbeVerdict.INVALID:
            yield Toggle(
                probe, "harness", "mend what kept the probe from answering", False, "an arm is broken"
            )
        case _:
            return
