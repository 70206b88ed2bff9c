"""`holdfast mutate`, done: the score, the removals, a JSON file, an exit code."""

import os
from pathlib import Path
from typing import Any

import typer

from holdfast.harness.battery import canary_environment, plant_home, stage_for
from holdfast.harness.mutate import Fate, Judged, Score, choose, try_mutants
from holdfast.harness.removals import Noticed, removals_of, try_removals
from holdfast.harness.results import write_document
from holdfast.harness.run_id import Canaries, begin_run
from holdfast.harness.stage import Ground
from holdfast.harness.workload import programs_for
from holdfast.sandbox import Profile, Spawner, load_profile, read_host
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.probes import Probe, catalogue
from holdfast.sandbox.refusal import BadInputError

__all__ = ["mutation_document", "mutation_probes", "run_mutation"]

PASS, FAIL, CANNOT_TELL = 0, 1, 2


def mutation_probes() -> tuple[Probe, ...]:
    """Of acts that a filter can forbid, in the machine's own ABI; and whether the other ABIs answer at all."""
    native = os.uname().machine
    return tuple(
        p for p in catalogue() if p.act in ACTS and (p.variant == native or p.act.startswith("abi."))
    )


def run_mutation(
    profile: str, *, sample: int | None, seed: int, removals: bool, results: Path, quiet: bool
) -> int:
    """Try the mutants, write the document, say the score; 0 none survives, 1 one does, 2 none was aimed."""
    policy = load_profile(profile)
    score = _score(policy, sample=sample, seed=seed, quiet=quiet)
    noticed = _removals(policy, quiet=quiet) if removals else None
    name = f"MUTATION_{Path(profile).stem}.json"
    write_document(results / name, mutation_document(policy, score, noticed, sample=sample, seed=seed))
    _tell(score, noticed)
    typer.echo(f"Results: {results / name}")
    code = CANNOT_TELL if score.percent is None else FAIL if score.count(Fate.SURVIVED) else PASS
    typer.echo(
        f"holdfast: exit {code} ({('every aimed mutant is killed', 'a mutant survives', 'cannot tell')[code]})"
    )
    return code


def _score(policy: Profile, *, sample: int | None, seed: int, quiet: bool) -> Score:
    host, canaries = read_host(), Canaries.fresh()
    mutants = choose(policy, sample=sample, seed=seed)
    if not mutants:
        raise BadInputError(f"{policy.path} allows everything, so there is no mistake to put in")

    def told(judged: Judged) -> None:
        if not quiet and judged.fate in {Fate.KILLED, Fate.SURVIVED}:
            mutant = judged.mutant
            typer.echo(f"{judged.fate.value}: {mutant.kind.value}: {mutant.what} ({judged.why})")

    with Spawner() as spawner, plant_home(host, canaries) as home:
        environment = canary_environment(os.environ, canaries)
        probes = mutation_probes()
        ground = Ground(spawner, host, policy, probes, canaries, stage_for(host, canaries), home, environment)
        return try_mutants(ground, policy, mutants, probes, told=told)


def _removals(policy: Profile, *, quiet: bool) -> tuple[Noticed, ...]:
    def told(noticed: Noticed) -> None:
        if not quiet:
            typer.echo(f"without {noticed.removal.what}: {noticed.by or 'nothing misses it'}")

    with Spawner() as spawner:
        return try_removals(
            spawner, policy, removals_of(policy), programs_for(policy), dict(os.environ), told=told
        )


def _tell(score: Score, noticed: tuple[Noticed, ...] | None) -> None:
    for fate in Fate:
        typer.echo(f"{fate.value}: {score.count(fate)}")
    percent = "cannot tell" if score.percent is None else f"{score.percent:.1f} %"
    typer.echo(
        f"mutation score: {percent} ({score.count(Fate.KILLED)} of {score.aimed} that let a forbidden act through)"
    )
    if noticed is not None:
        unneeded = [n.removal.what for n in noticed if n.by is None]
        typer.echo(f"rules whose removal these programs do not notice: {', '.join(unneeded) or 'none'}")


def mutation_document(
    policy: Profile, score: Score, noticed: tuple[Noticed, ...] | None, *, sample: int | None, seed: int
) -> dict[str, Any]:
    """`results/MUTATION_<profile>.json`."""
    run = begin_run()
    return {
        "schema": "holdfast.mutation/1",
        "run": {"id": run.id, "started": run.started, "commit": run.commit},
        "profile": {"path": policy.path, "sha256": policy.sha256},
        "sample": sample,
        "seed": seed,
        "score_percent": score.percent,
        "aimed": score.aimed,
        "counts": {fate.value: score.count(fate) for fate in Fate},
        "mutants": [
            {
                "kind": j.mutant.kind.value,
                "what": j.mutant.what,
                "aims": list(j.mutant.aims),
                "fate": j.fate.value,
                "why": j.why,
            }
            for j in score.judged
        ],
        "removals": None
        if noticed is None
        else [{"what": n.removal.what, "noticed_by": n.by} for n in noticed],
    }
