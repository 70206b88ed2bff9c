"""Is the bait still there? What was planted to be found is looked at again from outside, once the battery is over.

Not being there counts as a denial for some probes, so a neighbour that died on the way, or a file that
somebody removed, would make a sandbox look tight. What is gone takes its probes' answers with it.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.harness.run_id import Canaries
from holdfast.sandbox.spawn import Neighbour, Planted

__all__ = ["BAITS", "missing_baits"]

BAITS: Mapping[str, str] = {
    "reach.unix": "run-socket",
    "reach.abstract": "abstract-socket",
    "reach.home": "home-file",
    "procmem.read": "memory",
}
"""Act -> the bait that it must be able to find."""

ASK_SECONDS = 2.0


def missing_baits(planted: Planted, canaries: Canaries, home_file: Path | None) -> Mapping[str, str]:
    """By act, why its bait can no longer be found from outside; empty when all is as it was planted."""
    found = dict(_looked_at(planted.neighbour, canaries, home_file))
    return {act: found[bait] for act, bait in BAITS.items() if found.get(bait)}


def _looked_at(
    neighbour: Neighbour | None, canaries: Canaries, home_file: Path | None
) -> Iterator[tuple[str, str]]:
    """Each bait that was planted, with what is wrong with it now."""
    if home_file is not None:
        yield "home-file", _same(_read(home_file), canaries.home, "the file in the home is gone")
    if neighbour is None:
        return
    memory = _peek(neighbour)
    yield "memory", _same(memory, canaries.neighbour, "the neighbour or its secret is gone")
    if neighbour.path:
        # Its /run may be one of its own; the kernel shows it to whoever may look at the process.
        seen = f"/proc/{neighbour.pid}/root{neighbour.path}"
        yield "run-socket", _same(_ask(seen), canaries.neighbour, "the neighbour's socket does not answer")
    if neighbour.abstract:
        told = _ask("\0" + neighbour.abstract)
        yield (
            "abstract-socket",
            _same(told, canaries.neighbour, "the neighbour's abstract socket does not answer"),
        )


def _same(found: str, wanted: str, otherwise: str) -> str:
    return "" if found == wanted else otherwise


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _peek(neighbour: Neighbour) -> str:
    try:
        with Path(f"/proc/{neighbour.pid}/mem").open("rb", buffering=0) as file:
            file.seek(neighbour.address)
            return file.read(neighbour.length).decode("ascii", "replace")
    except OSError:
        return ""


def _ask(address: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
        asking.settimeout(ASK_SECONDS)
        asking.connect(address)
        return asking.recv(256).decode("ascii", "replace")
    return ""
