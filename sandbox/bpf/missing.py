"""What is said when the solver is not installed."""

from typing import final

from holdfast.sandbox.refusal import SandboxError

__all__ = ["MissingSolverError"]


@final
class MissingSolverError(SandboxError):
    """Z3 cannot be imported, so nothing can be proven here; the host's fault."""

    def __init__(self) -> None:
        super().__init__(
            "proofs need the package z3-solver, which is not installed",
            hint="install the extra: pip install 'holdfast[prove]'",
        )
