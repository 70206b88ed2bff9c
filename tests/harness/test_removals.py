"""Rules that nothing misses: removed one at a time, with real programs run without each."""

import os
import sys

import pytest

from holdfast.harness.removals import removals_of, try_removals
from holdfast.harness.workload import Program, programs_for
from holdfast.sandbox import CannotConfineError, Spawner, load_profile

STRICT = load_profile("strict")


def test_each_allowed_call_and_each_rule_with_conditions_is_removed_once() -> None:
    removals = tuple(removals_of(STRICT))
    assert len({r.what for r in removals}) == len(removals) > 100
    for removal in removals:
        gone = removal.what.partition("(")[0]
        before, after = len(STRICT.rules_for(gone)), len(removal.profile.rules_for(gone))
        assert after == before - 1, removal.what


def test_a_call_that_python_needs_is_missed_by_name_and_one_it_never_makes_is_not(spawner: Spawner) -> None:
    chosen = [r for r in removals_of(STRICT) if r.what in {"openat", "wait4", "getitimer"}]
    programs = tuple(p for p in programs_for(STRICT) if p.name == "python")
    noticed = {
        n.removal.what: n.by for n in try_removals(spawner, STRICT, chosen, programs, dict(os.environ))
    }
    assert noticed == {"openat": "python", "wait4": "python", "getitimer": None}


@pytest.mark.planted
def test_programs_that_fail_anyway_miss_nothing_and_that_is_no_result(spawner: Spawner) -> None:
    broken = (Program("broken", (sys.executable, "-I", "-c", "raise SystemExit(3)")),)
    with pytest.raises(CannotConfineError, match="no program runs under the profile as it is"):
        try_removals(spawner, STRICT, removals_of(STRICT), broken, dict(os.environ))
