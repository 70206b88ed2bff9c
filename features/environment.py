"""Hooks: one scratch folder a scenario, removed whatever happens."""

import shutil
import tempfile
from pathlib import Path

from behave.model import Scenario
from behave.runner import Context


def before_scenario(context: Context, scenario: Scenario) -> None:
    """A folder of its own for each scenario's results."""
    del scenario
    context.folder = Path(tempfile.mkdtemp(prefix="holdfast-behave-"))


def after_scenario(context: Context, scenario: Scenario) -> None:
    """Remove it."""
    del scenario
    shutil.rmtree(context.folder, ignore_errors=True)
