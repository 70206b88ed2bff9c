"""The kernel's view of the agent against the intended plan: each operation that got lost fails the gate."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.harness.gate import Outcome
from holdfast.sandbox import Isolation, Plan
from holdfast.sandbox.plan import (
    Bind,
    DropBoundingSet,
    DropCapabilities,
    Hide,
    NewSession,
    NoNewPrivileges,
    Tmpfs,
    Unshare,
)
from tests.running import report_of, run

pytestmark = pytest.mark.planted

BWRAP, SECCOMP = Isolation.BWRAP, Isolation.SECCOMP


def writable_root(plan: Plan) -> Plan:
    return replace(
        plan, ops=tuple(replace(op, writable=True) if isinstance(op, Bind) else op for op in plan.ops)
    )


def lost_namespaces(plan: Plan) -> Plan:
    lost = {Unshare("ipc"), Unshare("uts"), Unshare("cgroup")}
    return replace(plan, ops=tuple(op for op in plan.ops if op not in lost))


LOST: dict[str, tuple[Isolation, Callable[[Plan], Plan], str]] = {
    "capabilities-kept": (BWRAP, lambda p: p.without(DropCapabilities), "drops all capabilities"),
    "session-kept": (BWRAP, lambda p: p.without(NewSession), "without a terminal"),
    "namespaces-kept": (BWRAP, lost_namespaces, "new ipc namespace"),
    "root-writable": (BWRAP, writable_root, "read-only and the mount table does not show it"),
    "shadow-to-be-read": (BWRAP, lambda p: p.without(Hide), "hides /etc/"),
    "home-not-covered": (BWRAP, lambda p: p.without(Tmpfs), "nothing covers it"),
    "privileges-to-be-gained": (SECCOMP, lambda p: p.without(NoNewPrivileges), "no_new_privs"),
    "bounding-set-kept": (SECCOMP, lambda p: p.without(DropBoundingSet), "bounding set"),
}


@pytest.mark.parametrize(("isolation", "lose", "says"), LOST.values(), ids=LOST)
def test_an_operation_that_got_lost_on_the_way_fails_and_is_named(
    isolation: Isolation, lose: Callable[[Plan], Plan], says: str, tmp_path: Path
) -> None:
    concluded = run(tmp_path, isolation, alter={isolation: lose})
    assert concluded.overall["as_planned"].outcome is Outcome.FAIL
    assert concluded.code == 1
    assert says in report_of(concluded)
