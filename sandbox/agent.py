"""The process inside: `python -I -S agent.py FD|PATH`; standard library only.

It is the service's parent, so what holds for it holds for the service, and it forks one child a probe, so
that no attempt can change the sandbox that the next one meets. It speaks JSON over the descriptor that it
inherits, or over the socket that it is told the path of, never on stdout.

    {"do": "probe", "id": ..., "field": {...}, "seconds": 2}   -> {"id": ..., "ended": "errno", "errno": 1, ...}
    {"do": "alive", "family": ...}                             -> the same, for the liveness sibling
    {"do": "serve", "argv": [...], "environment": {...}}       -> {"service": pid}; descriptors 1 and 2 travel along
    {"do": "status"}                                           -> {"status": {...}, "namespaces": {...}}
"""

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn


def _mount_packages() -> None:
    """Make `holdfast.sandbox` importable without running either `__init__`: only the probes are wanted here,
    and a distribution's folder may have any name (a checkout's has)."""
    sandbox = PurePosixPath(__file__).parent
    for name, folder in (("holdfast", sandbox.parent), ("holdfast.sandbox", sandbox)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)


if __name__ == "__main__":
    _mount_packages()

from holdfast.sandbox.kernel_calls import read_status  # noqa: E402 - importable from here on
from holdfast.sandbox.probes import Probe, catalogue, liveness_of, probe_by_id  # noqa: E402

MAX_MESSAGE = 1 << 16
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

Answer = dict[str, Any]


def main(channel: str) -> None:
    """Answer until the harness closes its end."""
    control = _open_channel(channel)
    control.set_inheritable(False)
    gc.freeze()  # no collection in the children, so that they copy few pages
    agent = Agent(control)
    _tell(control, {"hello": agent.status()})
    agent.run()


def _open_channel(word: str) -> socket.socket:
    """The conversation: an inherited descriptor by its number, or a socket by its path."""
    if not word.isdigit():
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.connect(word)
        return control
    number = int(word)
    if number > 2:
        return _socket_at(number)
    control = _socket_at(os.dup(number))
    os.dup2(
        1, number
    )  # a launcher that passes nothing else on lent one of the three: the terminal goes back there
    return control


def _socket_at(descriptor: int) -> socket.socket:
    """Its kind is named, not asked for: there are sandboxes that deny getsockopt on any socket."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=descriptor)


def _tell(control: socket.socket, told: Answer) -> None:
    """By write(2), since there are sandboxes that deny sendto on any socket."""
    os.write(control.fileno(), json.dumps(told).encode())


class Agent:
    """One loop over the harness's wishes and the service's end."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.service = 0
        self.probes = dict(probe_by_id())
        self.wake, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.wake:
                    os.read(self.wake, MAX_MESSAGE)
                    self.look_after_service()
                else:
                    message, descriptors = _receive(self.control)
                    if not message:
                        return
                    _tell(self.control, self.obey(json.loads(message), descriptors))

    def obey(self, wish: Mapping[str, Any], descriptors: list[int]) -> Answer:
        match wish["do"]:
            case "probe":
                probe = self.find(wish["id"])
                return {"id": probe.id} | in_child(lambda: probe.attempt(wish["field"]), wish["seconds"])
            case "alive":
                alive = liveness_of(wish["family"])
                return {"id": wish["family"]} | in_child(lambda: _told(alive), wish["seconds"])
            case "serve":
                return self.serve(wish, descriptors)
            case "signal":
                if self.service:
                    os.kill(self.service, wish["signal"])
                return {"signalled": self.service}
            case "status":
                return self.status()
            case other:
                return {"refused": f"unknown wish {other!r}"}

    def find(self, probe_id: str) -> Probe:
        """A probe by id; the rest of the catalogue is read the first time that one of it is asked for."""
        if probe_id not in self.probes:
            self.probes = {probe.id: probe for probe in catalogue()}
        return self.probes[probe_id]

    def status(self) -> Answer:
        """What the kernel says of this process, from inside."""
        links = {}
        for name in NAMESPACES:
            with contextlib.suppress(OSError):
                links[name] = os.readlink(f"/proc/self/ns/{name}")
        return {"status": read_status(), "namespaces": links, "pid": os.getpid()}

    def serve(self, wish: Mapping[str, Any], descriptors: list[int]) -> Answer:
        """Start the service as a child, with only its three descriptors."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.service = os.fork()
        if self.service == 0:
            _be_service(wish, descriptors, writer)
        os.close(writer)
        for received in descriptors:
            os.close(received)
        with os.fdopen(reader, "rb") as file:
            problem = file.read().decode()
        if problem:
            os.waitpid(self.service, 0)
            self.service = 0
            return {"refused": problem}
        return {"service": self.service}

    def look_after_service(self) -> None:
        """Tell once when the service has ended; children of probes are waited for by their own code."""
        if not self.service:
            return
        pid, status = os.waitpid(self.service, os.WNOHANG)
        if pid:
            self.service = 0
            _tell(self.control, {"service_ended": os.waitstatus_to_exitcode(status)})


def _told(alive: Callable[[], None]) -> str:
    alive()
    return "alive"


def in_child(attempt: Callable[[], str], seconds: float) -> Answer:
    """Run an attempt in a forked child with a deadline; say how it ended, in the kernel's words."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_attempt(attempt, writer)
    os.close(writer)
    text = _read_until_end(reader, start + seconds)
    os.close(reader)
    if text is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    answer: Answer = {"elapsed_us": int((time.monotonic() - start) * 1e6)}
    if text is None:
        return answer | {"ended": "timeout"}
    if os.WIFSIGNALED(status):
        return answer | {"ended": "signal", "signal": os.WTERMSIG(status)}
    if not text:
        return answer | {"ended": "silent"}
    told: Answer = json.loads(text)
    return answer | told


def _be_attempt(attempt: Callable[[], str], writer: int) -> NoReturn:
    """The child: try, and write down what came of it in one piece."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        try:
            answer: Answer = {"ended": "reached", "evidence": attempt()}
        except OSError as error:
            answer = {"ended": "errno", "errno": error.errno, "evidence": str(error)}
        except Exception as error:  # noqa: BLE001 - a broken probe is a finding, told as one
            answer = {"ended": "broken", "evidence": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _read_until_end(reader: int, deadline: float) -> bytes | None:
    """All that the child writes until it closes; None past the deadline."""
    text = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        if not (more := os.read(reader, MAX_MESSAGE)):
            return text
        text += more


def _be_service(wish: Mapping[str, Any], descriptors: list[int], writer: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for target, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *descriptors[:2])):
            os.dup2(descriptor, target, inheritable=True)
        environment = {**os.environ, **wish["environment"]} if wish["inherits"] else wish["environment"]
        for name in wish["withheld"]:
            environment.pop(name, None)
        os.chdir(wish["cwd"])
        os.execvpe(wish["argv"][0], wish["argv"], environment)
    except OSError as error:
        os.write(writer, f"{wish['argv'][0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it."""
    message, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


if __name__ == "__main__":
    main(sys.argv[1])
