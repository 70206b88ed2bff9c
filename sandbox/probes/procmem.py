"""Family `procmem`: the memory of a same-uid process outside, by `/proc/PID/mem`, which no filter can see."""

import errno
import os

from holdfast.sandbox.probes.probe import DENIALS, Field, Probe, effect

__all__ = ["FAMILY", "PROBES", "alive"]

FAMILY = "procmem"

DENIED = DENIALS | {errno.ESRCH}
"""ESRCH is this module's own word for "no process that is visible here has the secret"."""


def alive() -> None:
    """Reading one's own memory by the same path still works; so an empty view is not a missing /proc."""
    mark = b"holdfast-own-memory"
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        first = int(file.readline().split("-", maxsplit=1)[0], 16)
    if len(_peek("self", first, len(mark))) != len(mark):
        raise OSError(errno.EIO, "own memory could not be read")


def _read_neighbour(field: Field) -> str:
    """Try the neighbour by its number, then every process that can be seen: a pid namespace renumbers."""
    told = field["neighbour"]
    last = OSError(errno.ESRCH, "no visible process has the secret")
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    for pid in sorted(pids, key=lambda name: int(name) != told["pid"]):
        try:
            found = _peek(pid, told["address"], told["length"]).decode("ascii", "replace")
        except OSError as error:
            if int(pid) == told["pid"] and error.errno in DENIALS:
                last = error
            continue
        if found.startswith("holdfast-"):
            return found
    raise last


def _peek(pid: str, address: int, length: int) -> bytes:
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(descriptor, length, address)
    finally:
        os.close(descriptor)


PROBES: tuple[Probe, ...] = (
    effect(FAMILY, "procmem.read", "neighbour", _read_neighbour, denied_by=DENIED, planted="neighbour"),
)
