"""`--workers N`: one process a core, one port. A parent that only starts, restarts and ends them.

TCP: each worker listens for itself with SO_REUSEPORT, and the kernel spreads connections. Unix socket: it
is bound once, before the fork. Each worker counts for itself; the usage log is one, under its lock.
"""

import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import final

from holdfast.clock import monotonic
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.listen import Listen, bind_unix

__all__ = ["run_workers"]

_RESTARTS = 5
_WITHIN_SECONDS = 10.0


def run_workers(count: int, listen: Listen, work: Callable[[Listen], int]) -> int:
    """Run `work` in `count` processes until a signal; answers the worst status of any of them."""
    reserved = _reserve(listen)
    if listen.uds:
        where = replace(listen, bound=reserved)
    else:
        where = replace(listen, port=reserved.getsockname()[1], shared_port=True)
    status = _Workers(where, work).run(count)
    reserved.close()
    if listen.uds:
        Path(listen.uds).unlink(missing_ok=True)
    return status


@final
class _Workers:
    """The parent's state."""

    def __init__(self, where: Listen, work: Callable[[Listen], int]) -> None:
        self._where = where
        self._work = work
        self._running: set[int] = set()
        self._ending = False
        self._deaths: deque[float] = deque(maxlen=_RESTARTS)

    def run(self, count: int) -> int:
        """Until the last worker is gone."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        for index in range(count):
            self._running.add(_start(replace(self._where, quiet=index > 0), self._work))
        worst = 0
        while self._running:
            pid, status = os.wait()
            self._running.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._ending:
                worst = max(worst, abs(code))
            elif code == 64 or self._hopeless():
                # What is wrong with the surroundings is wrong for every worker.
                worst = code if code == 64 else 70
                self._end()
            else:
                sys.stderr.write(f"ccp: a worker ended (status {code}); starting another\n")
                self._running.add(_start(replace(self._where, quiet=True), self._work))
        return worst

    def _pass_on(self, number: int, _: object) -> None:
        self._ending = self._ending or number != signal.SIGHUP
        for worker in tuple(self._running):
            os.kill(worker, number)

    def _end(self) -> None:
        self._ending = True
        for worker in tuple(self._running):
            os.kill(worker, signal.SIGTERM)

    def _hopeless(self) -> bool:
        """Workers die faster than starting more could help."""
        self._deaths.append(monotonic())
        return len(self._deaths) == _RESTARTS and self._deaths[-1] - self._deaths[0] < _WITHIN_SECONDS


def _reserve(listen: Listen) -> socket.socket:
    """Holds the port for the workers' whole life, and tells which one it is when 0 was asked for."""
    if listen.uds:
        return bind_unix(Path(listen.uds))
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((listen.host, listen.port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on `{listen.host}:{listen.port}`: {error.strerror}; give another --port"
        ) from error
    return sock


def _start(listen: Listen, work: Callable[[Listen], int]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        status = work(listen)
    except ConfigError as error:
        sys.stderr.write(f"ccp: {error}\n")
        status = 64
    except Exception as error:  # noqa: BLE001 - the worker's last line of defence
        sys.stderr.write(f"ccp: internal error ({type(error).__name__}); please report it\n")
    finally:
        sys.stdout.flush()
        os._exit(status)
