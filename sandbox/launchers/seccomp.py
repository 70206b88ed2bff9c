"""`seccomp`: the process confines itself between fork and exec; nothing stays behind but the kernel's state."""

from collections.abc import Mapping

from holdfast.sandbox.plan import (
    Chdir,
    DropBoundingSet,
    Execute,
    Filter,
    LandlockDomain,
    NewSession,
    NoNewPrivileges,
    Op,
    Plan,
)
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["lower", "step_for"]


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """One step an operation, in the plan's order."""
    return Launch(tuple(step_for(op) for op in plan.ops), dict(descriptors))


def step_for(op: Op) -> Step:
    """The spawner's word for an operation that a process can carry out on itself."""
    match op:
        case Chdir(path):
            return ("directory", path)
        case NoNewPrivileges():
            return ("no_new_privs",)
        case DropBoundingSet():
            return ("bounding_set",)
        case LandlockDomain(abi):
            return ("landlock", abi)
        case NewSession():
            return ("session",)
        case Filter(_, code):
            return ("filter", code)
        case Execute(argv, environment):
            return ("execute", list(argv), dict(environment))
        case _:
            raise AssertionError(f"a process cannot carry out {op} on itself")
