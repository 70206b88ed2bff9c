"""Is the service really inside? `/proc` of the process that owns the listening socket, and of the agent, from outside.

    observe(pid) -> Observed          reads /proc
    judge_identity(...)               pure: they agree, thread by thread, and differ from the host where the plan says so

Probes that pass beside an unconfined service are the worst false green that there is.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.sandbox.kernel_calls import read_status
from holdfast.sandbox.plan import (
    DropBoundingSet,
    DropCapabilities,
    Filter,
    NoNewPrivileges,
    Plan,
    Unshare,
)

__all__ = ["Observed", "Sight", "judge_identity", "listening_owners", "observe", "see"]

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
    return Sight(observe(os.getpid()), agent, tuple(owners), plan, tuple(skipped))


def judge_identity(sight: Sight) -> Judgement:
    """Service and agent agree in every thread, and differ from the host as planned; pure."""
    if sight.agent is None or sight.plan is None:
        return cannot_tell("the agent could not be looked at from outside")
    if not sight.owners:
        return cannot_tell("no process owns the service's listening socket")
    wrong = [*_disagreements(sight), *_unplanned(sight)]
    if wrong:
        return failed(*wrong)
    threads = sum(len(owner.threads) for owner in sight.owners)
    facts = len(COMPARED) + len(NAMESPACES)
    return passed(
        f"the service ({len(sight.owners)} process(es), {threads} thread(s)) and the agent agree in {facts} facts"
    )


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


def _unplanned(sight: Sight) -> Iterator[str]:
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
