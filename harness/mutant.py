"""Mutants of a profile: each is the profile with one plausible mistake in it; pure.

    mutants_of(profile) -> Mutant(kind, what, profile, aims)

`aims` are the acts that the mistake lets through, found by a second, tiny reading of the profile itself (rules
as they are written, concrete calls), so that the compiler, the prover and the probes are all held against it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import product
from typing import final

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.bpf.attempt import Attempt
from holdfast.sandbox.profile import Action, Condition, Operator, Profile, Rule

__all__ = ["Kind", "Mutant", "aims_of", "allows", "mutants_of", "names_of"]

WIDE = (1 << 64) - 1
FOREIGN: Mapping[str, str] = {"SCMP_ARCH_X86": "abi.i386", "SCMP_ARCH_X32": "abi.x32"}
"""Architectures that an x86-64 kernel answers too, and the act that adding one lets through."""


@final
class Kind(Enum):
    """The mistakes."""

    ALLOWED = "a forbidden call allowed"
    CONDITION_DROPPED = "a condition dropped"
    COMPARED_WHOLE = "a condition made a 64-bit EQ"
    NEGATED = "a condition made a 64-bit NE"
    MASK_BIT = "one mask bit cleared"
    ARCHITECTURE = "a foreign architecture added"
    ERRNO_ALLOWED = "a call that is answered with an errno, allowed"


@final
@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake."""

    kind: Kind
    what: str
    profile: Profile
    aims: tuple[str, ...]
    calls: tuple[str, ...]
    """The calls whose rules were touched; empty when all are (an architecture)."""


def mutants_of(profile: Profile) -> Iterator[Mutant]:
    """Every mutant, in a stable order."""
    for name in names_of(ACTS):
        if not _is_free(profile, name):
            yield _mutant(profile, Kind.ALLOWED, name, _allowing(profile, name), (name,))
    for index, rule in enumerate(profile.rules):
        if rule.action is Action.ERRNO:
            allowed = _with_rule(profile, index, replace(rule, action=Action.ALLOW, errno=None))
            yield _mutant(profile, Kind.ERRNO_ALLOWED, ", ".join(rule.names), allowed, rule.names)
        for condition in rule.conditions:
            yield from _loosened(profile, index, rule, condition)
    for name, act in FOREIGN.items():
        if name not in profile.architectures:
            changed = replace(profile, architectures=(*profile.architectures, name))
            yield Mutant(Kind.ARCHITECTURE, name, changed, (act,), ())


def names_of(acts: Mapping[str, object]) -> tuple[str, ...]:
    """The calls that forbidden acts are made of, once each, in the catalogue's order."""
    attempts = (attempt for name in acts for attempt in ACTS[name].attempts)
    return tuple(dict.fromkeys(a.name for a in attempts if a.name))


def _is_free(profile: Profile, name: str) -> bool:
    return any(rule.action is Action.ALLOW and not rule.conditions for rule in profile.rules_for(name))


def _allowing(profile: Profile, name: str) -> Profile:
    """The call allowed without conditions; what else is said of it goes."""
    rules = tuple(
        replace(rule, names=kept)
        for rule in profile.rules
        if (kept := tuple(n for n in rule.names if n != name))
    )
    return replace(profile, rules=(*rules, *_unless_default(profile, Rule((name,), Action.ALLOW))))


def _unless_default(profile: Profile, rule: Rule) -> tuple[Rule, ...]:
    """A rule with the default's own action is one that libseccomp refuses, and says nothing."""
    return () if rule.action is profile.default_action is Action.ALLOW else (rule,)


def _with_rule(profile: Profile, index: int, rule: Rule) -> Profile:
    changed = _unless_default(profile, rule)
    return replace(profile, rules=(*profile.rules[:index], *changed, *profile.rules[index + 1 :]))


def _loosened(profile: Profile, index: int, rule: Rule, condition: Condition) -> Iterator[Mutant]:
    others = tuple(c for c in rule.conditions if c is not condition)
    wanted = condition.value_two if condition.operator is Operator.MASKED_EQ else condition.value
    where = f"{', '.join(rule.names)} argument {condition.index} {condition.operator.name} 0x{condition.value:x}/0x{wanted:x}"

    def mutant(kind: Kind, what: str, *changed: Condition) -> Mutant:
        after = _with_rule(profile, index, replace(rule, conditions=(*others, *changed)))
        return _mutant(profile, kind, what, after, rule.names)

    yield mutant(Kind.CONDITION_DROPPED, where)
    if condition.operator is not Operator.EQ:
        yield mutant(Kind.COMPARED_WHOLE, where, Condition(condition.index, Operator.EQ, wanted))
    if condition.operator is not Operator.NE:
        yield mutant(Kind.NEGATED, where, Condition(condition.index, Operator.NE, wanted))
    if condition.operator is Operator.MASKED_EQ:
        for bit in _bits_of(condition.value):
            cleared = replace(condition, value=condition.value & ~bit, value_two=condition.value_two & ~bit)
            yield mutant(Kind.MASK_BIT, f"{where}, bit 0x{bit:x}", cleared)


def _bits_of(value: int) -> Iterator[int]:
    return (1 << i for i in range(64) if value >> i & 1)


def _mutant(before: Profile, kind: Kind, what: str, after: Profile, calls: tuple[str, ...]) -> Mutant:
    return Mutant(kind, what, after, aims_of(before, after, calls), calls)


def aims_of(before: Profile, after: Profile, calls: Iterable[str]) -> tuple[str, ...]:
    """The acts of which some call passes `after` and not `before`, by the rules as they are written.

    Every act that is named was opened by a concrete call; one that no candidate opens may be missed, and
    then shows as a proof or a probe that flips outside the aims.
    """
    touched = set(calls)
    return tuple(
        act.id
        for act in ACTS.values()
        if any(
            attempt.name in touched and attempt.only is None and _opens(before, after, attempt)
            for attempt in act.attempts
        )
    )


def _opens(before: Profile, after: Profile, attempt: Attempt) -> bool:
    bits = tuple(b.narrowed(Abi.X86_64) for b in attempt.bits)
    return any(
        all(b.holds_for(args) for b in bits)
        and allows(after, attempt.name, args)
        and not allows(before, attempt.name, args)
        for args in _candidates(before, after, attempt)
    )


def allows(profile: Profile, name: str, args: tuple[int, ...]) -> bool:
    """What the profile says of one call, read as a person reads it."""
    for rule in profile.rules_for(name):
        if all(c.holds_for(args[c.index]) for c in rule.conditions):
            return rule.action in {Action.ALLOW, Action.LOG}
    return profile.default_action in {Action.ALLOW, Action.LOG}


def _candidates(before: Profile, after: Profile, attempt: Attempt) -> Iterator[tuple[int, ...]]:
    """Arguments worth trying: the act's own values, each flag of its masks, the rules' values and neighbours."""
    conditions = [c for p in (before, after) for rule in p.rules_for(attempt.name) for c in rule.conditions]
    values: list[list[int]] = []
    for index in range(6):
        own = [b for b in attempt.bits if b.index == index]
        seeds = {0} | {b.value for b in own} | {bit for b in own if b.differ for bit in _bits_of(b.mask)}
        rules = [c for c in conditions if c.index == index]
        if own and rules:
            seeds |= {seed | 1 << 32 for seed in set(seeds)}
            seeds |= {c.value for c in rules} | {c.value_two for c in rules}
        elif rules:
            seeds |= {c.value for c in rules} | {c.value_two for c in rules} | {WIDE}
        values.append(sorted(seeds))
    return product(*values)
