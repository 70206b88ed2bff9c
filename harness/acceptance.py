"""Every gate of every suite under each isolation, as cases that a test runner can spread over workers.

    cases(suites)                    -> Case, ...       one a gate; ids read as sentences
    judged(case, folder, run)        -> Judgement       the campaign behind it is run once, whoever comes first
    merge(folder, run, verdicts)     -> the run's METRICS document, nothing lost

Workers share one folder a run. A campaign (one suite under one isolation) is run by the first worker that
needs it, under a lock; the others read what it came to. A document of another run is never read.
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, final

from holdfast.harness.campaign import Wanted, exit_code
from holdfast.harness.conclude import Silent, conclude
from holdfast.harness.gate import Judgement, Outcome, worst
from holdfast.harness.results import metrics_of_merged, write_text
from holdfast.harness.run_id import Run
from holdfast.harness.suite import Suite
from holdfast.sandbox import Isolation, load_profile
from holdfast.sandbox.probes import all_probes

__all__ = ["Case", "NotPassedError", "cases", "judged", "known_suites", "merge", "require_pass"]

OF_EVERY_SUITE: Mapping[str, str] = {
    "denials": "each of the five families is shown to be denied",
    "results": "the results are there, of this run, and keep to their schemas",
}
OF_A_SERVING_SUITE: Mapping[str, str] = {"identity": "the service is really inside, thread by thread"}
PROFILE = "standard-net"


class NotPassedError(AssertionError):
    """A gate that failed or cannot tell; never a skip."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One gate of one suite under one isolation."""

    suite: str
    isolation: str
    gate: str
    claim: str

    @property
    def id(self) -> str:
        """A sentence."""
        return f"{self.suite} under {self.isolation}: {self.claim}"


def known_suites() -> tuple[Suite[Any], ...]:
    """The suites that are accepted by: all that are installed, less those that speak to live upstreams and
    those that another one contains."""
    loaded = (point.load() for point in entry_points(group="holdfast.suites"))
    return tuple(sorted((s for s in loaded if s.accepts), key=lambda suite: suite.name))


def cases(suites: Iterable[Suite[Any]]) -> Iterator[Case]:
    """Suite by suite, isolation by isolation, so that a worker's neighbours share a campaign."""
    for suite in suites:
        for isolation in suite.isolations:
            claims = {gate.name: gate.claim for gate in suite.gates}
            claims = {**OF_EVERY_SUITE, **(OF_A_SERVING_SUITE if suite.serves else {}), **claims}
            for gate, claim in claims.items():
                yield Case(suite.name, isolation, gate, claim)


def judged(case: Case, folder: Path, run: Run) -> Judgement:
    """What the gate came to in this run; runs the campaign if nobody has."""
    own = folder / f"{case.suite}-{case.isolation}"
    own.mkdir(parents=True, exist_ok=True)
    kept = own / "judgements.json"
    with (own / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _read(kept, run)
        if found is None:
            found = _conclude(case, own, run)
            write_text(kept, json.dumps({"run": run.id, "gates": found}))
    told = found.get(case.gate)
    if told is None:
        return Judgement(Outcome.CANNOT_TELL, (f"the campaign judged no gate `{case.gate}`",))
    return Judgement(Outcome(told["outcome"]), tuple(told["reasons"]))


def _read(path: Path, run: Run) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return dict(document["gates"]) if document["run"] == run.id else None


def _conclude(case: Case, folder: Path, run: Run) -> dict[str, Any]:
    suite = next(suite for suite in known_suites() if suite.name == case.suite)
    wanted = Wanted(run, (Isolation(case.isolation),), load_profile(PROFILE), all_probes(), (suite,))
    concluded = conclude(
        wanted,
        Silent(),
        results=folder,
        name="acceptance",
        command=f"pytest -m acceptance -k '{case.suite}'",
    )
    return {
        name: {"outcome": j.outcome.value, "reasons": list(j.reasons)}
        for name, j in concluded.overall.items()
    }


def require_pass(judgement: Judgement) -> None:
    """Raise unless it passes; the message names the verdict and every reason."""
    if judgement.outcome is not Outcome.PASS:
        word = judgement.outcome.value.replace("_", " ")
        raise NotPassedError("\n".join((f"{word}:", *(f"  {reason}" for reason in judgement.reasons))))


def merge(folder: Path, run: Run, verdicts: Mapping[str, Mapping[str, Judgement]]) -> dict[str, Any]:
    """`METRICS_acceptance.json` of all campaigns of this run under `folder`; judgements come from the tests.

    `verdicts`: by `"<suite> under <isolation>"`, then by gate. A campaign whose metrics are of another run
    is left out, and its gates stand all the same.
    """
    documents = []
    for path in sorted(folder.glob("*/METRICS_acceptance.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["run"]["id"] == run.id:
            documents.append(document)
    gates: dict[str, list[Judgement]] = {}
    for where, own in verdicts.items():
        suite = where.partition(" under ")[0]
        for gate, judgement in own.items():
            said = Judgement(judgement.outcome, tuple(f"{where}: {reason}" for reason in judgement.reasons))
            gates.setdefault(f"{suite}.{gate}", []).append(said)
    merged = {name: worst(judgements) for name, judgements in gates.items()}
    return metrics_of_merged(
        run, name="acceptance", code=exit_code(list(merged.values())), documents=documents, gates=merged
    )
