"""`bwrap`: the plan as a command line of bubblewrap, with the filter by descriptor.

The environment goes by bwrap's own environment, never by `--setenv`: a command line can be read by anyone.
"""

from collections.abc import Iterator, Mapping

from holdfast.sandbox.host import read_host
from holdfast.sandbox.launchers import seccomp
from holdfast.sandbox.plan import (
    Bind,
    Chdir,
    Devices,
    DieWithParent,
    DropCapabilities,
    Execute,
    Extra,
    Filter,
    Hide,
    HostRoot,
    LandlockDomain,
    Link,
    NewSession,
    Op,
    Plan,
    Processes,
    Tmpfs,
    Unshare,
)
from holdfast.sandbox.refusal import CannotConfineError
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["lower", "render_argv"]

FILTER_TARGET, STATUS_TARGET = 60, 61
"""Descriptor numbers inside, out of the way of those that a command is handed."""


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """Steps that the process takes on itself first, then the exec of bwrap."""
    found = read_host().bubblewrap
    if found is None:
        raise CannotConfineError("bwrap is not on PATH", hint="apt-get install bubblewrap")
    if found.problem:
        raise CannotConfineError(f"bwrap cannot start here: {found.problem}", hint=_advice(found.problem))
    code = next((op.code for op in plan.ops if isinstance(op, Filter)), None)
    contents = {} if code is None else {FILTER_TARGET: code}
    first: list[Step] = [seccomp.step_for(op) for op in plan.ops if isinstance(op, LandlockDomain)]
    environment = next(dict(op.environment) for op in plan.ops if isinstance(op, Execute))
    argv = [found.path, *render_argv(plan, disable_userns=found.disables_userns)]
    steps = (*first, ("execute", argv, environment))
    return Launch(steps, dict(descriptors), contents, status_target=STATUS_TARGET)


def render_argv(plan: Plan, *, disable_userns: bool) -> list[str]:
    """The arguments of bwrap; `disable_userns` where this bwrap knows it: no further user namespace inside."""
    argv = ["--json-status-fd", str(STATUS_TARGET)]
    for op in plan.ops:
        argv += _arguments(op)
        if op == Unshare("user") and disable_userns:
            argv.append("--disable-userns")
    return argv


def _arguments(op: Op) -> Iterator[str]:  # noqa: C901, PLR0912 - one case an operation, and no logic in any
    match op:
        case LandlockDomain():
            yield from ()
        case Unshare("mount"):
            yield from ()  # bwrap has always one of its own
        case Unshare(namespace):
            yield f"--unshare-{namespace}" if namespace != "cgroup" else "--unshare-cgroup-try"
        case Bind(path, writable):
            yield from ("--bind" if writable else "--ro-bind", path, path)
        case Hide(path):
            yield from ("--ro-bind", "/dev/null", path)
        case Link(path, target):
            yield from ("--symlink", target, path)
        case Tmpfs(path):
            yield from ("--tmpfs", path)
        case Processes():
            yield from ("--proc", "/proc")
        case HostRoot():
            yield from ("--dev-bind", "/", "/")
        case Devices():
            yield from ("--dev", "/dev")
        case DropCapabilities():
            yield from ("--cap-drop", "ALL")
        case NewSession():
            yield "--new-session"
        case DieWithParent():
            yield "--die-with-parent"
        case Chdir(path):
            yield from ("--chdir", path)
        case Filter():
            yield from ("--seccomp", str(FILTER_TARGET))
        case Extra(words):
            yield from words
        case Execute(argv, _):
            yield from ("--", *argv)
        case _:
            raise AssertionError(f"bwrap has no argument for {op}")


def _advice(problem: str) -> str:
    """What to do about bwrap's own words."""
    if "No permissions to creat" in problem or "uid map" in problem or "Operation not permitted" in problem:
        return (
            "user namespaces are denied to this user: on Ubuntu see "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns`, in a container its seccomp profile"
        )
    if "Can't mount proc" in problem:
        return "this container masks /proc; run on the host, or unmask it"
    return "run `bwrap --unshare-all --ro-bind / / true` to see it fail"
