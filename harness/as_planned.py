"""Is the sandbox what was intended? The kernel's own view of the agent, from outside, against the plan.

    look(agent_pid) -> View          reads /proc
    judge_as_planned(view, ...)      pure: every operation of the intended plan shows

Probes try what an attacker would; this looks at what no attempt shows, such as a capability that is kept, a
root that can be written to, a launcher that ignores its arguments.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.harness.identity import Observed, Sight, observe, unplanned
from holdfast.sandbox.plan import Bind, Devices, Hide, NewSession, Op, Plan, Processes, Tmpfs

__all__ = ["Mount", "View", "judge_as_planned", "look"]

_OCTAL = re.compile(r"\\([0-7]{3})")


@final
@dataclass(frozen=True, slots=True)
class Mount:
    """One line of `/proc/PID/mountinfo`."""

    kind: str
    options: frozenset[str]


@final
@dataclass(frozen=True, slots=True)
class View:
    """What `/proc` shows of the host's own process and of the agent."""

    host: Observed
    agent: Observed
    mounts: Mapping[str, Mount]
    """By mount point, as the agent's root has it; the uppermost of several."""
    terminal: int
    """The agent's controlling terminal, as a device number; 0 for none."""


def look(agent_pid: int, beside: int | None = None) -> View | None:
    """Read it; None when the agent is gone or not ours to look at.

    `beside` is a process on the same stage and outside the sandbox: the stage has namespaces of its own, and
    only what differs from those is the sandbox's doing.
    """
    try:
        host = observe(beside or os.getpid())
        agent = observe(agent_pid)
        mounts = dict(_mounts(Path(f"/proc/{agent_pid}/mountinfo").read_text(encoding="utf-8")))
        stat = Path(f"/proc/{agent_pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return View(host, agent, mounts, int(stat[4]))


def _mounts(text: str) -> Iterator[tuple[str, Mount]]:
    """man proc_pid_mountinfo: fields 5 and 6 are mount point and options; the kind stands behind the hyphen."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        point = _OCTAL.sub(lambda m: chr(int(m[1], 8)), fields[4])
        yield point, Mount(after.split()[0], frozenset(fields[5].split(",")))


def judge_as_planned(view: View | None, intended: Plan | None, skipped: Sequence[str]) -> Judgement:
    """Every operation of the intended plan shows in the kernel's view."""
    if view is None or intended is None:
        return cannot_tell("the agent could not be looked at from outside")
    sight = Sight(view.host, view.agent, (), intended, tuple(skipped))
    wrong = [*unplanned(sight), *(text for op in intended.ops for text in _unseen(op, view))]
    return (
        failed(*wrong[:8])
        if wrong
        else passed(f"all {len(intended.ops)} operations of the plan, as far as /proc shows them")
    )


def _unseen(op: Op, view: View) -> Iterator[str]:  # noqa: C901, PLR0912 - one case an operation
    """What one operation should have left behind and did not."""
    match op:
        case Bind(path, writable):
            mount = view.mounts.get(path)
            if mount is None or ("rw" if writable else "ro") not in mount.options:
                yield f"the plan binds {path} {'read-write' if writable else 'read-only'} and the mount table does not show it"
        case Tmpfs(path):
            if path not in view.mounts or view.mounts[path].kind != "tmpfs":
                yield f"the plan empties {path} and nothing covers it"
        case Hide(path):
            if path not in view.mounts:
                yield f"the plan hides {path} and nothing covers it"
        case Processes():
            if "/proc" not in view.mounts:
                yield "the plan has a /proc of its own and the mount table does not show it"
        case Devices():
            if view.mounts.get("/dev", Mount("", frozenset())).kind != "tmpfs":
                yield "the plan has a minimal /dev and the mount table does not show it"
        case NewSession():
            if view.terminal:
                yield "the plan starts a session without a terminal and the agent has one"
        case _:
            return
