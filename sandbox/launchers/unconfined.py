"""`none`: the command as it is; the control arm of every comparison."""

from collections.abc import Mapping

from holdfast.sandbox.plan import Chdir, Execute, Plan
from holdfast.sandbox.spawn import Launch, Step

__all__ = ["lower"]


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """Change directory, execute."""
    steps: list[Step] = []
    for op in plan.ops:
        match op:
            case Chdir(path):
                steps.append(("directory", path))
            case Execute(argv, environment):
                steps.append(("execute", list(argv), dict(environment)))
            case _:
                raise AssertionError(f"a plan for `none` has no {op}")
    return Launch(tuple(steps), dict(descriptors))
