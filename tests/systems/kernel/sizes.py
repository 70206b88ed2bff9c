"""How much is tried: a share in every run, all of it in the nightly profile."""

import os

from hypothesis import HealthCheck, settings

NIGHTLY = os.environ.get("HOLDFAST_PROFILE") == "nightly"
law = settings(
    deadline=None,
    max_examples=3000 if NIGHTLY else 100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""For every generated test of this folder."""
