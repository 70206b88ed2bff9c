"""Family `reachable`: what of the host can still be found from inside, each a thing that the harness planted."""

import errno
import os
import socket

from holdfast.sandbox.probes.probe import DENIALS, Field, Probe, effect

__all__ = ["ENVIRONMENT_NAME", "FAMILY", "PROBES", "alive"]

FAMILY = "reachable"

ENVIRONMENT_NAME = "HOLDFAST_CANARY"

ABSENT = DENIALS | {errno.ENOENT}
"""Here not being there *is* the denial: the control finds the same name on the same host in the same run."""

UNHEARD = ABSENT | {errno.ECONNREFUSED, errno.EAFNOSUPPORT}


def alive() -> None:
    """A file that must be there can be read, and a socket pair carries a byte."""
    with open(__file__, "rb") as file:
        file.read(1)
    left, right = socket.socketpair()
    os.write(left.fileno(), b"x")
    os.read(right.fileno(), 1)


def _ask(address: str) -> str:
    """Connect to the neighbour, who answers with its secret."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(2)
        asking.connect(address)
        return asking.recv(256).decode()


def _by_path(field: Field) -> str:
    return _ask(field["neighbour"]["path"])


def _by_abstract_name(field: Field) -> str:
    return _ask("\0" + field["neighbour"]["abstract"])


def _home_file(field: Field) -> str:
    with open(field["home_file"], encoding="ascii") as file:
        return file.read()


def _environment(_: Field) -> str:
    try:
        return os.environ[ENVIRONMENT_NAME]
    except KeyError:
        raise OSError(errno.ENOENT, "no such variable") from None


PROBES: tuple[Probe, ...] = (
    effect(FAMILY, "reach.unix", "run-socket", _by_path, denied_by=UNHEARD, planted="neighbour"),
    effect(
        FAMILY, "reach.abstract", "abstract-socket", _by_abstract_name, denied_by=UNHEARD, planted="neighbour"
    ),
    effect(FAMILY, "reach.home", "home-file", _home_file, denied_by=ABSENT, planted="home"),
    effect(FAMILY, "reach.environment", "variable", _environment, denied_by=ABSENT, planted="environment"),
)
