"""The control of what no sandbox should be handed: a descriptor that leaks into the control arm on purpose.

No launch of ours passes a socket on, so without this a search for leaked descriptors would find nothing in
either arm, and its finding nothing inside would show nothing.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.probes.probe import Probe

__all__ = ["leak_on_purpose"]

LEAKED = 9
"""Its number inside; out of the way of those that the agent is handed."""

ACTS = frozenset({"sock.inherited", "state.descriptors"})


@contextmanager
def leak_on_purpose(isolation: AnyIsolation, probes: Sequence[Probe]) -> Iterator[Mapping[int, int]]:
    """A TCP listener on loopback for the control arm of probes that look for one; nothing for any other arm."""
    if isolation is not Isolation.NONE or not any(probe.act in ACTS for probe in probes):
        yield {}
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield {LEAKED: listener.fileno()}
