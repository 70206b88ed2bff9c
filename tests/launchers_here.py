"""Which foreign launchers this machine has: a missing one is a counted skip, and a failure in the nightly run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.launchers import foreign_launcher
from holdfast.sandbox.launchers.docker_engine import some_engine


@contextmanager
def present(name: str) -> Iterator[Foreign]:
    """The launcher by name, for docker with an engine that answers."""
    foreign = Foreign(name)
    with some_engine() if name == "docker" else _nothing() as up:
        found = foreign_launcher(foreign).find()
        why = (
            "not installed"
            if found is None
            else found.problem or ("" if up else "no engine could be started")
        )
        if why and os.environ.get("HOLDFAST_PROFILE") == "nightly":
            pytest.fail(f"{name}: {why}; the nightly run needs it (make setup-peers)")
        if why:
            pytest.skip(f"{name}: {why}; make setup-peers brings it")
        yield foreign


@contextmanager
def _nothing() -> Iterator[bool]:
    yield True
