"""Mutation score of a profile: does each mistake in it show, in the proof and on the kernel, where it should?

    survey(profile, ...) -> Survey(base)                 the profile itself: proofs, and what its filter alone holds
    judge_mutant(...)    -> Judged(mutant, fate, ...)    pure: aims, proofs and probes held against each other

*killed*: the proofs of exactly the aimed acts flip, and so do probes of each of them and of no other act; an act
that this kernel lacks is shown by its counterexample, replayed. A mutant that lets no forbidden act through is
told apart by proof: the same filter, a tighter one, or one that opens only calls that no act names.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

from holdfast.harness.ablation import bare, layers_of, only_layer, with_filter
from holdfast.harness.attribute import run_altered
from holdfast.harness.battery import ArmRun
from holdfast.harness.mutant import Kind, Mutant, mutants_of
from holdfast.harness.stage import Ground
from holdfast.sandbox.bpf.abi import host_abis
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.bpf.proof import Proof, ReplayOutcome, Verdict
from holdfast.sandbox.bpf.prove import prove_acts
from holdfast.sandbox.bpf.relation import Relation, compare
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.plan import Plan
from holdfast.sandbox.probes.probe import Probe
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.refusal import BadInputError, CannotConfineError
from holdfast.sandbox.verdict import ArmOutcome

__all__ = ["Fate", "Judged", "Score", "choose", "judge_mutant", "try_mutants"]


@final
class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SAME = "same filter"
    """It compiles to the same bytes: there is nothing to find."""
    TIGHTENS = "tightens"
    """Proven: whatever it lets pass, the profile lets pass."""
    ASIDE = "opens no forbidden act"
    """Proven for each act of the touched calls; what it opens is named, and belongs to none."""
    REFUSED = "refused"
    """It cannot be compiled, so it cannot be loaded."""
    SURVIVED = "survived"


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """A mutant, its fate, and on what that rests."""

    mutant: Mutant
    fate: Fate
    why: str


@final
@dataclass(frozen=True, slots=True)
class Score:
    """Over all mutants that were tried."""

    judged: tuple[Judged, ...]

    def count(self, fate: Fate) -> int:
        """How many had this fate."""
        return sum(j.fate is fate for j in self.judged)

    @property
    def aimed(self) -> int:
        """Mutants that let a forbidden act through, or were found to."""
        return self.count(Fate.KILLED) + self.count(Fate.SURVIVED)

    @property
    def percent(self) -> float | None:
        """Killed of aimed; None when nothing was tried, which is no score."""
        return 100 * self.count(Fate.KILLED) / self.aimed if self.aimed else None


@final
@dataclass(frozen=True, slots=True)
class _Base:
    """The profile as it is."""

    code: bytes
    proofs: Mapping[str, Proof]
    held: frozenset[str]
    """Probes that its filter alone denies, and that reach without any."""


def choose(profile: Profile, *, sample: int | None, seed: int) -> tuple[Mutant, ...]:
    """All mutants, or a seeded sample that has one of each kind at least."""
    mutants = tuple(mutants_of(profile))
    if sample is None or sample >= len(mutants):
        return mutants
    order = random.Random(seed).sample(mutants, len(mutants))  # noqa: S311 - a sample, no secret
    first = {mutant.kind: mutant for mutant in reversed(order)}
    chosen = [*first.values(), *(m for m in order if m is not first[m.kind])]
    return tuple(chosen[: max(sample, len(first))])


def try_mutants(
    ground: Ground,
    profile: Profile,
    mutants: Iterable[Mutant],
    probes: Sequence[Probe],
    *,
    told: Callable[[Judged], None] = lambda _: None,
) -> Score:
    """Compile, prove and probe each; raises `CannotConfineError` when the profile itself cannot be tried."""
    base = _survey(ground, profile, probes)
    seen: dict[tuple[bytes, tuple[str, ...]], tuple[Fate, str]] = {}
    judged = []
    for mutant in mutants:
        try:
            code = assemble(mutant.profile).code
        except (OSError, BadInputError) as refused:
            judged.append(Judged(mutant, Fate.REFUSED, f"libseccomp refuses it: {refused}"))
        else:
            key = (code, mutant.aims)
            if key not in seen:
                seen[key] = _try(ground, base, mutant, code, probes)
            judged.append(Judged(mutant, *seen[key]))
        told(judged[-1])
    return Score(tuple(judged))


def _survey(ground: Ground, profile: Profile, probes: Sequence[Probe]) -> _Base:
    code = assemble(profile).code
    proofs = prove_acts([code])
    if all(proof.verdict is Verdict.NOT_RUN for proof in proofs.values()):
        raise CannotConfineError(f"no mutant can be judged: {next(iter(proofs.values())).reason}")
    open_arm = _reached(run_altered(ground, Isolation.SECCOMP, probes, lambda p: bare(p, ground.environment)))
    held = open_arm - _reached(_run(ground, code, probes))
    return _Base(code, proofs, frozenset(held))


def _run(ground: Ground, code: bytes, probes: Sequence[Probe]) -> ArmRun | str:
    """The probes under this filter and nothing else, so that no other layer hides what it lets through."""

    def alter(plan: Plan) -> Plan:
        layer = next(layer for layer in layers_of(plan) if layer.name == "filter")
        return with_filter(only_layer(plan, layer, ground.environment), code)

    return run_altered(ground, Isolation.SECCOMP, probes, alter)


def _reached(run: ArmRun | str) -> set[str]:
    if isinstance(run, str):
        raise CannotConfineError(f"the probes could not be run: {run}")
    return {name for name, arm in run.arms.items() if arm.outcome is ArmOutcome.REACHED}


def _try(
    ground: Ground, base: _Base, mutant: Mutant, code: bytes, probes: Sequence[Probe]
) -> tuple[Fate, str]:
    if code == base.code:
        return Fate.SAME, "it compiles to the same bytes"
    acts = _acts_of(mutant)
    proofs = prove_acts([code], acts, replayed=bool(mutant.aims))
    flipped = {act for act in acts if _flips(base.proofs[act], proofs[act])}
    aims = {act for act in mutant.aims if base.proofs[act].verdict is Verdict.PROVEN}
    if not flipped and not aims:
        return _aside(
            base, code, closed={act for act, proof in proofs.items() if proof.verdict is Verdict.PROVEN}
        )
    run = _run(ground, code, probes)
    # A mistake can also keep the agent from starting: that is seen by itself, and the kernel's word is the replay's.
    starts = not isinstance(run, str)
    found = base.held & _reached(run) if starts else frozenset[str]()
    by_act = {probe.id: probe.act for probe in probes}
    fate, why = judge_mutant(
        mutant.kind,
        aims,
        {act: proofs[act] for act in flipped},
        held={by_act[name] for name in base.held} if starts else set(),
        opened={by_act[name] for name in found},
        unproven={act for act, proof in base.proofs.items() if proof.verdict is not Verdict.PROVEN},
    )
    return fate, why if starts else f"{why}; no program starts under it"


def _acts_of(mutant: Mutant) -> tuple[str, ...]:
    """The acts that may change: those of the touched calls, and those of any call; all for an architecture."""
    if not mutant.calls:
        return tuple(ACTS)
    touched = {*mutant.calls, ""}
    return tuple(act.id for act in ACTS.values() if any(a.name in touched for a in act.attempts))


def _flips(before: Proof, after: Proof) -> bool:
    return before.verdict is Verdict.PROVEN and after.verdict is not Verdict.PROVEN


def _aside(base: _Base, code: bytes, closed: set[str]) -> tuple[Fate, str]:
    # An ABI of which no call passes at all has nothing to compare.
    abis = tuple(abi for abi in host_abis() if f"abi.{abi.value}" not in closed)
    comparison = compare(Relation.STRICTER, [code], [base.code], abis=abis)
    if comparison.verdict is Verdict.PROVEN:
        return Fate.TIGHTENS, "proven: whatever it lets pass, the profile lets pass"
    if comparison.verdict is Verdict.COUNTEREXAMPLE:
        return (
            Fate.ASIDE,
            f"it opens {comparison.differences[0]}; every act of the touched calls stays proven",
        )
    return Fate.SURVIVED, f"no act flips, and its relation to the profile cannot be told: {comparison.reason}"


def judge_mutant(
    kind: Kind,
    aims: set[str],
    flipped: Mapping[str, Proof],
    *,
    held: set[str],
    opened: set[str],
    unproven: set[str],
) -> tuple[Fate, str]:
    """Hold the three readings against each other; pure.

    `held` are acts with a probe that the profile's filter denies here, `opened` those of which one now reaches.
    """
    wrong = list(_disagreements(kind, aims, flipped, held=held, opened=opened - unproven))
    if wrong:
        return Fate.SURVIVED, "; ".join(wrong)
    by_probe, by_replay = sorted(aims & opened), sorted(aims - opened)
    shown = [f"{', '.join(by_probe)} by proof and probe"] if by_probe else []
    shown += [f"{', '.join(by_replay)} by proof and replay"] if by_replay else []
    return Fate.KILLED, "; ".join(shown)


def _disagreements(
    kind: Kind, aims: set[str], flipped: Mapping[str, Proof], *, held: set[str], opened: set[str]
) -> Iterator[str]:
    for act in sorted(aims - set(flipped)):
        yield f"{act} is let through and its proof stands"
    for act in sorted(set(flipped) - aims):
        # Another architecture opens there what its rules allow there; in the machine's own nothing may change.
        native = any(abi.value == "x86_64" and v is not Verdict.PROVEN for abi, v in flipped[act].by_abi)
        if kind is not Kind.ARCHITECTURE or native:
            yield f"the proof of {act} falls, at which it does not aim"
    for act in sorted(aims - opened):
        if act in held:
            yield f"no probe of {act} reaches"
        elif act in flipped and not _is_confirmed(flipped[act]):
            yield f"{act} has no probe that works on this kernel, and its counterexample was not confirmed"
    for act in sorted(opened - aims - set(flipped)):
        yield f"a probe of {act} reaches, at which it does not aim"


def _is_confirmed(proof: Proof) -> bool:
    return any(c.replay.outcome is ReplayOutcome.CONFIRMED for c in proof.counterexamples)
