"""Planted fault: the local tier looks its CCC's name up, and throws the answer away."""

import contextlib
import socket
import sys

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.integrations.local import LocalClient
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.parts import Parts


class CuriousParts(Parts):
    def local_client(self, recorder: Recorder) -> LocalClient:
        with contextlib.suppress(OSError):
            socket.getaddrinfo("ccc.invalid", 443)
        return super().local_client(recorder)


sys.exit(main(with_parts=CuriousParts()))
