"""Is the service really inside? `/proc` of the process that owns the listening socket, and of the agent, from outside.

    observe(pid) -> Observed          reads /proc
    judge_identity(...)               pure: they agree, thread by thread, and differ from the host where the plan says so

Probes that pass beside an unconfined service are the worst false green that there is.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.sandbox.bpf.live import CannotReadError, read_live
from holdfast.sandbox.kernel_calls import read_status
from holdfast.sandbox.plan import (
    DropBoundingSet,
    DropCapabilities,
    Filter,
    NoNewPrivileges,
    Plan,
    Unshare,
)
from holdfast.sandbox.refusal import BadInputError

__all__ = ["Observed", "Sight", "judge_identity", "listening_owners", "observe", "see", "unplanned"]

COMPARED = ("NoNewPrivs", "CapEff", "CapBnd", "Seccomp", "Seccomp_filters")
NAMESPACES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "net": "net",
}
"""The plan's word for a namespace -> the name of its link under /proc/PID/ns."""

TCP_LISTEN = "0A"


@final
@dataclass(frozen=True, slots=True)
class Observed:
    """What the kernel says of one process; one row a thread."""

    pid: int
    command: str
    threads: tuple[Mapping[str, str], ...]
    """`COMPARED` of `/proc/PID/task/TID/status`, and the links of `/proc/PID/task/TID/ns` by their names."""


@final
@dataclass(frozen=True, slots=True)
class Sight:
    """All that the gate looks at."""

    host: Observed
    agent: Observed | None
    owners: tuple[Observed, ...]
    """The processes that hold the service's listening socket."""
    plan: Plan | None
    skipped: tuple[str, ...]
    filters: Mapping[int, tuple[tuple[bytes, ...], ...]] = field(default_factory=dict)
    """By process, of the agent and the owners: the distinct stacks of filters among its threads, as the
    kernel handed them out; empty where it would not."""
    unread: str = ""
    """Why filters could not be read."""


def observe(pid: int) -> Observed:
    """Read one process; raises `OSError` when it is gone or not ours to look at."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return Observed(pid, command, tuple(_thread(pid, task.name) for task in tasks))


def _thread(pid: int, tid: str) -> Mapping[str, str]:
    status = read_status(f"{pid}/task/{tid}")
    links = {name: os.readlink(f"/proc/{pid}/task/{tid}/ns/{name}") for name in NAMESPACES.values()}  # noqa: PTH115
    return {name: status.get(name, "?") for name in COMPARED} | links


def listening_owners(port: int, namespace_of: int) -> tuple[int, ...]:
    """The processes with a descriptor of the socket that listens on `port`, in that process's network namespace."""
    inodes = set(_listening_inodes(port, namespace_of))
    return tuple(sorted(pid for pid in _pids() if inodes & set(_socket_inodes(pid))))


def _listening_inodes(port: int, pid: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == TCP_LISTEN and int(fields[1].rsplit(":", maxsplit=1)[1], 16) == port:
                yield fields[9]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _socket_inodes(pid: int) -> Iterator[str]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def see(agent_pid: int, port: int | None, plan: Plan | None, skipped: Sequence[str]) -> Sight:
    """Look at host, agent and owners now; what cannot be read is missing from the sight, and the gate sees that."""
    agent, owners = None, list[Observed]()
    try:
        agent = observe(agent_pid)
        if port is not None:
            owners = [observe(pid) for pid in listening_owners(port, agent_pid)]
    except OSError:
        pass  # gone while it was looked at: the gate finds it missing
    pids = [observed.pid for observed in (agent, *owners) if observed]
    filters, unread = _filters(pids)
    return Sight(observe(os.getpid()), agent, tuple(owners), plan, tuple(skipped), filters, unread)


def _filters(pids: Sequence[int]) -> tuple[dict[int, tuple[tuple[bytes, ...], ...]], str]:
    """Each process's filters, out of the kernel; the reason where it does not hand them out."""
    found = {}
    for pid in pids:
        try:
            found[pid] = read_live(pid)
        except (CannotReadError, BadInputError) as error:
            return {}, str(error)
    return found, ""


def judge_identity(sight: Sight) -> Judgement:
    """Service and agent agree in every thread, and differ from the host as planned; pure."""
    if sight.agent is None or sight.plan is None:
        return cannot_tell("the agent could not be looked at from outside")
    if not sight.owners:
        return cannot_tell("no process owns the service's listening socket")
    wrong = [*_disagreements(sight), *unplanned(sight), *_other_filters(sight)]
    if wrong:
        return failed(*wrong)
    threads = sum(len(owner.threads) for owner in sight.owners)
    facts = len(COMPARED) + len(NAMESPACES)
    if sight.unread or not sight.filters:
        by_bytes = f"their filters' bytes could not be compared: {sight.unread or 'nothing was read'}"
    elif not any(stack for stack in sight.filters[sight.agent.pid]):
        by_bytes = "neither is under a filter"
    else:
        by_bytes = "their filters are the same, byte for byte"
    return passed(
        f"the service ({len(sight.owners)} process(es), {threads} thread(s)) and the agent agree in {facts} facts; "
        f"{by_bytes}"
    )


def _other_filters(sight: Sight) -> Iterator[str]:
    """Bytes, where the kernel handed them out: equal counts of filters do not make equal filters."""
    if sight.agent is None or sight.plan is None or sight.agent.pid not in sight.filters:
        return
    expected = sight.filters[sight.agent.pid]
    planned = [op.code for op in sight.plan.ops if isinstance(op, Filter)]
    if any(code not in stack for code in planned for stack in expected or ((),)):
        yield "the agent is under another filter than the one that was handed over"
    for owner in sight.owners:
        if set(sight.filters.get(owner.pid, ())) != set(expected):
            yield f"the service process {owner.command} is under other filters than the agent beside it"


def _disagreements(sight: Sight) -> Iterator[str]:
    assert sight.agent is not None
    expected = sight.agent.threads[0]
    for observed in (sight.agent, *sight.owners):
        for thread in observed.threads:
            for name in sorted(expected):
                if thread[name] != expected[name]:
                    yield (
                        f"the service process {observed.command} has {name} {thread[name]}, "
                        f"the agent beside it {expected[name]}"
                    )


def unplanned(sight: Sight) -> Iterator[str]:
    """What the plan promised and the kernel does not show."""
    assert sight.agent is not None
    assert sight.plan is not None
    host, inside = sight.host.threads[0], sight.agent.threads[0]
    skipped = {note.partition(":")[0] for note in sight.skipped}
    for op in sight.plan.ops:
        match op:
            case Unshare(name):
                link = NAMESPACES[name]
                if inside[link] == host[link]:
                    yield f"the plan has a new {name} namespace and the agent is in the host's"
            case Filter():
                if inside["Seccomp"] != "2" or int(inside["Seccomp_filters"]) <= int(host["Seccomp_filters"]):
                    yield "the plan loads a filter and the agent runs under none of it"
            case NoNewPrivileges():
                if inside["NoNewPrivs"] != "1":
                    yield "the plan sets no_new_privs and the agent does not have it"
            case DropCapabilities():
                if int(inside["CapEff"], 16) or int(inside["CapBnd"], 16):
                    yield f"the plan drops all capabilities and the agent has CapEff {inside['CapEff']}"
            case DropBoundingSet() if "bounding_set" not in skipped:
                if int(inside["CapBnd"], 16):
                    yield f"the plan empties the bounding set and the agent has CapBnd {inside['CapBnd']}"
            case _:
                continue
