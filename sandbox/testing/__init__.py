"""The conformance suite for launchers, ours and anybody's: one entry point, a factory, a list of known deviations.

check_launcher(make, deviations={...}) -> Conformance      `make(spawner)` gives a Start

deviations.py   what foreign launchers are known to do differently, with the reason; strict
hold.py         a harness to be killed
"""

from holdfast.sandbox.testing.conformance import (
    CHECKS,
    Conformance,
    Make,
    Result,
    Start,
    check_launcher,
    starter_for,
)
from holdfast.sandbox.testing.deviations import DEVIATIONS

__all__ = ["CHECKS", "DEVIATIONS", "Conformance", "Make", "Result", "Start", "check_launcher", "starter_for"]
