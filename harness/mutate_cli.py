"""`holdfast mutate`: the command line; what it does stands in `mutation_run.py`."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["mutate"]


def mutate(
    profile: Annotated[str, typer.Argument(help="strict, standard, standard-net, or a path.")] = "standard",
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Only so many mutants, one of each kind at least.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 0,
    removals: Annotated[
        bool, typer.Option("--removals", help="Also remove each allow rule and run real programs without it.")
    ] = False,
    results: Annotated[Path, typer.Option("--results", help="Where the results go.")] = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> int:
    """Put each plausible mistake into PROFILE and see whether proofs and probes find it."""
    # The solver, the catalogue and the programs are for this command alone; the others do not pay for them.
    from holdfast.harness.mutation_run import run_mutation

    return run_mutation(profile, sample=sample, seed=seed, removals=removals, results=results, quiet=quiet)
