"""Family `tiocsti`: typing into the terminal that the sandbox was started from.

The effect is read back outside, on the pty that the harness owns; a pty opened inside would always succeed
and prove nothing. The kernel looks at the low 32 bits of a request only, so each is tried with high bits too.
"""

import ctypes
import errno
import fcntl
import os
import struct
import termios

from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import DENIALS, Field, Probe, effect, number, reach

__all__ = ["FAMILY", "PROBES", "TYPED", "alive"]

FAMILY = "tiocsti"

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
HIGH_BIT = 1 << 32
TYPED = "typed"
"""The name of the secret whose first byte the harness must see come out of its own pty."""

DENIED = DENIALS | {errno.EIO, errno.ENXIO}
"""EIO: `dev.tty.legacy_tiocsti` is off. ENXIO: there is no controlling terminal."""

REQUESTS = (("low", TIOCSTI), ("high", HIGH_BIT | TIOCSTI))
PLACES = ("0", "1", "2", "/dev/tty")


def alive() -> None:
    """Asking the terminal for its size and settings still works on descriptor 0."""
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
    struct.unpack("HHHH", size)
    termios.tcgetattr(0)


def _type_at(place: str, request: int, field: Field) -> str:
    """Push the byte that the harness chose for this attempt."""
    descriptor = int(place) if place.isdigit() else os.open(place, os.O_RDWR | os.O_NOCTTY)
    byte = ctypes.create_string_buffer(field[TYPED].encode(), 1)
    syscall(number("ioctl"), descriptor, request, byte)
    return TYPED


def _type(place: str, bits: str, request: int) -> Probe:
    name = place.rsplit("/", maxsplit=1)[-1]
    return effect(
        FAMILY,
        "tty.sti",
        f"fd-{name}-{bits}",
        lambda field: _type_at(place, request, field),
        denied_by=DENIED,
        planted=TYPED,
    )


def _linux_console(field: Field) -> str:
    """TIOCLINUX pastes on a virtual console; on a pty it is ENOTTY without any sandbox, and so proves nothing."""
    syscall(number("ioctl"), 0, TIOCLINUX, ctypes.create_string_buffer(b"\x06", 2))
    return "TIOCLINUX answered"


def _bogus(request: int) -> Probe:
    act = "tty.sti" if request % HIGH_BIT == TIOCSTI else "tty.linux"
    return reach(
        FAMILY,
        act,
        "high-bits" if request >= HIGH_BIT else "low-bits",
        lambda: syscall(number("ioctl"), -1, request, 0),
        errno.EBADF,
    )


PROBES: tuple[Probe, ...] = (
    *(_bogus(high | request) for request in (TIOCSTI, TIOCLINUX) for high in (0, HIGH_BIT)),
    *(_type(place, bits, request) for place in PLACES for bits, request in REQUESTS),
    effect(FAMILY, "tty.linux", "subcode", _linux_console, denied_by=DENIALS | {errno.ENOTTY}),
)
