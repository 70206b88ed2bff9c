"""Which allow rules are needed? Each removed in turn, and real programs run without it.

    removals_of(profile) -> Removal(what, profile)        pure
    try_removals(...)    -> Noticed(removal, by)          `by` None: nothing here missed it

A rule that nothing misses is *unneeded as far as these programs can tell*: a reason to look, no proof.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from holdfast.harness.workload import Program
from holdfast.sandbox.confine import confine
from holdfast.sandbox.isolation import Isolation
from holdfast.sandbox.plan import Command
from holdfast.sandbox.profile import Action, Profile
from holdfast.sandbox.refusal import BadInputError, CannotConfineError
from holdfast.sandbox.spawn import Spawner

__all__ = ["Noticed", "Removal", "removals_of", "try_removals"]

PROGRAM_SECONDS = 20.0

Outcome = tuple[int, bytes]
"""Exit status, and what was printed."""


@final
@dataclass(frozen=True, slots=True)
class Removal:
    """One call, or one rule with conditions, no longer allowed."""

    what: str
    profile: Profile


@final
@dataclass(frozen=True, slots=True)
class Noticed:
    """Who missed it: a program by name, None when nobody did."""

    removal: Removal
    by: str | None


def removals_of(profile: Profile) -> Iterator[Removal]:
    """Each name of an unconditional allow rule; each allow rule with conditions."""
    for index, rule in enumerate(profile.rules):
        if rule.action is not Action.ALLOW:
            continue
        if rule.conditions:
            bounds = ", ".join(
                f"arg{c.index} {c.operator.name} 0x{c.value:x}/0x{c.value_two:x}" for c in rule.conditions
            )
            rest = (*profile.rules[:index], *profile.rules[index + 1 :])
            yield Removal(f"{', '.join(rule.names)}({bounds})", replace(profile, rules=rest))
            continue
        for name in rule.names:
            kept = replace(rule, names=tuple(n for n in rule.names if n != name))
            own = (kept,) if kept.names else ()
            rest = (*profile.rules[:index], *own, *profile.rules[index + 1 :])
            yield Removal(name, replace(profile, rules=rest))


def try_removals(
    spawner: Spawner,
    profile: Profile,
    removals: Iterable[Removal],
    programs: tuple[Program, ...],
    environment: Mapping[str, str],
    *,
    told: Callable[[Noticed], None] = lambda _: None,
) -> tuple[Noticed, ...]:
    """Run the programs without each; raises `CannotConfineError` when none runs under the profile as it is."""
    expected = {p: _run(spawner, profile, p, environment) for p in programs}
    sound = {p: outcome for p, outcome in expected.items() if outcome[0] == 0}
    if not sound:
        raise CannotConfineError(
            "no program runs under the profile as it is, so none would miss a rule",
            hint="holdfast run --isolation seccomp -- python3 -c pass",
        )
    found = []
    for removal in removals:
        by = next(
            (
                program.name
                for program, outcome in sound.items()
                if _run(spawner, removal.profile, program, environment) != outcome
            ),
            None,
        )
        found.append(Noticed(removal, by))
        told(found[-1])
    return tuple(found)


def _run(spawner: Spawner, profile: Profile, program: Program, environment: Mapping[str, str]) -> Outcome:
    """One program in a fresh folder under the profile's filter; what could not be started has failed too."""
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-") as folder,
        tempfile.TemporaryFile() as output,
        Path("/dev/null").open("rb") as nothing,
        Path("/dev/null").open("wb") as errors,
    ):
        command = Command(program.argv, cwd=folder, inherited=environment)
        handed = {0: nothing.fileno(), 1: output.fileno(), 2: errors.fileno()}
        try:
            with confine(
                spawner, Isolation.SECCOMP, command, profile=profile, descriptors=handed
            ) as confined:
                status = confined.wait(PROGRAM_SECONDS)
        except (BadInputError, CannotConfineError, TimeoutError) as error:
            return 255, str(error).encode()
        output.seek(0)
        return status, output.read()
