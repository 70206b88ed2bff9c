"""A harness to be killed: start the command that comes pickled on stdin, and wait for it to end.

Only ever started by `conformance.py`, over a pipe of its own.
"""

import os
import pickle
import sys

from holdfast.sandbox.spawn import Spawner


def main() -> None:
    """Hold a sandbox up until somebody kills this process."""
    make, command = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one, by a pipe
    nothing = os.open(os.devnull, os.O_RDWR)
    with Spawner() as spawner, make(spawner)(command, {0: nothing, 1: 1, 2: nothing}) as confined:
        confined.wait()


if __name__ == "__main__":
    main()
