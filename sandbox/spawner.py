"""The process that starts and supervises sandboxes: `python -I -S spawner.py FD native|fork [DIR]`; standard library only.

    harness ──socket──> spawner ──fork──> command             one socket a sandbox, from harness to spawner
                           └──fork──> stage ──fork──> command    where both arms of a comparison share a stage

Why a process of its own: filters, Landlock domains and namespaces are per thread, and forking a threaded
parent to run Python in the child can deadlock. The spawner has one thread and little memory, so it may fork
and run Python before the exec, from whatever thread the request came.

It is a child subreaper, and so is each command (the kernel keeps that across exec): an orphan inside, also
one that called setsid, stays below its command while that lives and becomes the spawner's own child when it
ends. So what is a child of the spawner and no command is a leftover, and is killed. A sandbox ends when its
command ends, when the harness asks, and when the harness's end of the socket closes, however that comes
about; never by the parent's death signal, which fires when the starting *thread* ends. That signal is only
a second line here, where the parent has one thread: should the spawner be killed, its commands go with it.
Under `none` and `seccomp` a tree that kills the spawner can leave others of its processes behind; under
`bwrap` the pid namespace dies as a whole.

Requests and events are JSON; the words of a request are those of `Launch` in `spawn.py`.
"""

import array
import base64
import ctypes
import errno
import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), *sys.argv[3:4]]
import kernel_calls as kernel  # type: ignore[import-not-found,unused-ignore]  # noqa: E402 - the line above finds it
import native  # type: ignore[import-not-found,unused-ignore]  # noqa: E402 - the line above finds it

MAX_MESSAGE = 1 << 16
MAX_DESCRIPTORS = 64
FIRST_SAFE_DESCRIPTOR = 512
"""Descriptors are parked from here up while they are moved to the numbers that the command expects."""

IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""A terminal's Ctrl-C reaches the whole process group; what it means, the harness decides."""


RESET = (*IGNORED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
"""What this process ignores or handles and a command must find as a shell would give it."""


def main(descriptor: int, *, natively: bool) -> None:
    """Serve requests until the harness is gone."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    supervisor = Supervisor(kernel.read_status(), natively=natively)
    gc.freeze()  # no collection in children, so that they copy few pages
    os.set_inheritable(descriptor, False)  # it had to be, to get here; no command may have it
    supervisor.serve(socket.socket(fileno=descriptor))


def _receive(sock: socket.socket) -> list[int]:
    """The descriptors of one request; none when the other end is gone."""
    room = socket.CMSG_LEN(MAX_DESCRIPTORS * array.array("i").itemsize)
    _, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return list(descriptors)


class Sandbox:
    """One command: its process, the harness's socket, and what has been heard of it."""

    def __init__(self, request: dict[str, Any], events: socket.socket) -> None:
        self.request, self.events = request, events
        self.pid = 0
        self.notes = self.status = -1
        self.notes_text = self.status_text = b""
        self.failed = False
        self.names: tuple[str, ...] = ()
        """The step of each call of a native program; empty when a forked child takes the steps."""

    def read_notes(self) -> list[dict[str, Any]]:
        """What the steps had to say, each step once."""
        if not self.names:
            return [json.loads(line) for line in self.notes_text.splitlines()]
        pairs = [struct.unpack_from("<II", self.notes_text, at) for at in range(0, len(self.notes_text), 8)]
        return [_note(name, code) for name, code in dict.fromkeys((self.names[i], code) for i, code in pairs)]

    def tell(self, **event: Any) -> None:
        """Send one event; a harness that is gone no longer needs it."""
        _quietly(lambda: self.events.send(json.dumps(event).encode()))

    def signalled(self) -> int:
        """Who gets a forwarded signal: the command itself, inside bwrap two processes further down."""
        target = self.pid
        if self.request.get("status_target") is not None:
            for _ in range(2):
                target = next(iter(_children(target)), target)
        return target


class Supervisor:
    """Starts commands, hears what becomes of them, ends what is left; one loop, no threads."""

    def __init__(self, credentials: dict[str, str], *, natively: bool) -> None:
        self.credentials, self.natively = credentials, natively
        self.sandboxes: dict[int, Sandbox] = {}
        self.kept: set[int] = set()
        """Children that are neither commands nor leftovers: stages, a neighbour."""
        self.handlers: dict[int, Callable[[], None]] = {}
        self.poll = select.poll()
        self.serving = False
        self.last_capability = _last_capability()
        self.last_program: tuple[object, native.Image | None] | None = None
        kernel.set_subreaper()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.on(reader, lambda: self.woken(reader))

    def woken(self, reader: int) -> None:
        """A child has ended: empty the pipe that the signal wrote to, then collect."""
        _quietly(lambda: os.read(reader, MAX_MESSAGE))
        self.reap()

    def on(self, descriptor: int, handler: Callable[[], object]) -> None:
        self.handlers[descriptor] = handler  # type: ignore[assignment]
        self.poll.register(descriptor, select.POLLIN)

    def off(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        del self.handlers[descriptor]

    def serve(self, control: socket.socket) -> None:
        """The spawner's life: requests from the harness until its end closes."""
        self.serving = True
        self.on(control.fileno(), lambda: self.accept(control))
        self.run()

    def run(self) -> None:
        """Handle what happens until there is nothing left to wait for."""
        while self.serving or self.sandboxes:
            for descriptor, _ in self.poll.poll():
                if handler := self.handlers.get(descriptor):
                    handler()
        self.end_leftovers()

    def accept(self, control: socket.socket) -> None:
        """Take one request; a staged one gets a process of its own, since a stage cannot be left again."""
        if not (descriptors := _receive(control)):
            self.serving = False
            for sandbox in list(self.sandboxes.values()):
                self.end(sandbox)
            return
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            request = json.load(file)
        events = socket.socket(fileno=descriptors[1])
        if request["stage"] is None:
            self.start(Sandbox(request, events), descriptors[2:])
        elif pid := os.fork():
            self.kept.add(pid)
            events.close()
            _close_all(descriptors[2:])
        else:
            control.close()
            _stage_and_exit(Sandbox(request, events), descriptors[2:], natively=self.natively)

    def start(self, sandbox: Sandbox, descriptors: list[int]) -> None:
        """Fork the command; what its steps have to say comes over a pipe that the exec closes."""
        sandbox.notes, writer = os.pipe2(os.O_CLOEXEC)
        status_writer = -1
        if sandbox.request["status_target"] is not None:
            sandbox.status, status_writer = os.pipe2(os.O_CLOEXEC)
        targets = {
            int(target): descriptors[index] for target, index in sandbox.request["descriptors"].items()
        }
        if status_writer >= 0:
            targets[sandbox.request["status_target"]] = status_writer
        sandbox.pid = self.spawn(sandbox, targets, writer) or os.fork()
        if sandbox.pid == 0:
            _be_command(sandbox.request["steps"], targets, writer)
        _close_all([*descriptors, writer, *([status_writer] if status_writer >= 0 else [])])
        self.sandboxes[sandbox.pid] = sandbox
        self.on(sandbox.notes, lambda: self.hear(sandbox))
        self.on(sandbox.events.fileno(), lambda: self.obey(sandbox))

    def spawn(self, sandbox: Sandbox, targets: dict[int, int], notes: int) -> int:
        """Start the steps as a native program; 0 where that cannot be done, and a fork must do."""
        if not self.natively or os.uname().machine != "x86_64" or max(targets, default=0) >= native.NOTES:
            return 0
        steps = sandbox.request["steps"]
        if len(steps) == 1 and sandbox.request["status_target"] is not None:
            return _spawn_launcher(steps[0], targets)
        program = self.program(steps, targets)
        if program is None:
            return 0
        actions = _dup_actions({**targets, native.NOTES: notes})
        file = os.memfd_create("steps", os.MFD_CLOEXEC)
        try:
            os.write(file, program.elf)
            pid = os.posix_spawn(
                f"/proc/self/fd/{file}",
                ["holdfast"],
                {},
                file_actions=actions,
                setsigdef=RESET,
                setsigmask=[],
            )
        except OSError:  # no exec from anonymous files here (vm.memfd_noexec), or no room for one
            return 0
        finally:
            os.close(file)
        sandbox.names = program.names
        return pid

    def program(self, steps: list[list[Any]], targets: dict[int, int]) -> native.Image | None:
        """The native program for these steps; the last one is kept, for a harness starts the same over and over."""
        wanted = (steps, set(targets))
        if self.last_program is None or self.last_program[0] != wanted:
            filters = {i: base64.b64decode(step[1]) for i, step in enumerate(steps) if step[0] == "filter"}
            made = native.image(
                steps, filters=filters, taken=set(targets), last_capability=self.last_capability
            )
            self.last_program = (wanted, made)
        return self.last_program[1]

    def hear(self, sandbox: Sandbox) -> None:
        """Notes of the steps; their end means that the command runs, or never will."""
        if more := os.read(sandbox.notes, MAX_MESSAGE):
            sandbox.notes_text += more
            return
        self.off(sandbox.notes)
        os.close(sandbox.notes)
        sandbox.notes = -1  # INVARIANT: a closed number is forgotten, for the next sandbox may be given it
        for note in sandbox.read_notes():
            sandbox.failed |= note["event"] == "failed"
            sandbox.tell(**note)
        if not sandbox.failed:
            sandbox.tell(event="started", pid=sandbox.pid, credentials=self.credentials)

    def obey(self, sandbox: Sandbox) -> None:
        """Carry out one wish of the harness; its end is the sandbox's end."""
        try:
            message = sandbox.events.recv(MAX_MESSAGE)
        except OSError:
            message = b""
        if message:
            _quietly(lambda: os.kill(sandbox.signalled(), int(json.loads(message)["signal"])))
        else:
            self.end(sandbox)

    def end(self, sandbox: Sandbox) -> None:
        """Kill the command; everything below it then becomes ours and goes the same way."""
        _quietly(lambda: os.kill(sandbox.pid, signal.SIGKILL))
        _, status = os.waitpid(sandbox.pid, 0)
        self.ended(sandbox, status)

    def reap(self) -> None:
        """Collect what has ended of its own accord."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.kept.discard(pid)
            if sandbox := self.sandboxes.get(pid):
                self.ended(sandbox, status)

    def ended(self, sandbox: Sandbox, status: int) -> None:
        """Tell the harness, once nothing of the sandbox is left."""
        del self.sandboxes[sandbox.pid]
        while sandbox.notes >= 0:  # the pipe's other end is closed, so this comes to its end
            self.hear(sandbox)
        for command in sandbox.request["clean_up"]:
            _clean_up(command)
        self.end_leftovers()
        if sandbox.status >= 0:
            with os.fdopen(sandbox.status, "rb") as file:
                sandbox.status_text = file.read(MAX_MESSAGE)
        self.off(sandbox.events.fileno())
        if not sandbox.failed:
            sandbox.tell(event="exited", status=status, launcher=sandbox.status_text.decode())
        sandbox.events.close()

    def end_leftovers(self) -> None:
        """Kill children that are no command's, until there are none."""
        while leftovers := set(_children(os.getpid())) - self.kept - set(self.sandboxes):
            for pid in leftovers:
                _quietly(partial(os.kill, pid, signal.SIGKILL))
            for pid in leftovers:
                _quietly(partial(os.waitpid, pid, 0))


def _stage_and_exit(sandbox: Sandbox, descriptors: list[int], *, natively: bool) -> NoReturn:
    """Prepare a stage and supervise the one command on it; never return into the spawner's loop."""
    stage = Staging()
    try:
        stage.prepare(sandbox)
        supervisor = Supervisor(kernel.read_status(), natively=natively)
        supervisor.kept |= {stage.neighbour} - {0}
        supervisor.start(sandbox, descriptors)
        supervisor.run()
    except OSError as error:
        sandbox.tell(event="failed", step="stage", errno=error.errno, message=str(error))
    finally:
        stage.strike()
        os._exit(0)


class Staging:
    """What both arms of a comparison are given: namespaces, a key, a neighbour to attack."""

    def __init__(self) -> None:
        self.neighbour = self.key = 0
        self.path = ""

    def prepare(self, sandbox: Sandbox) -> None:
        stage = sandbox.request["stage"]
        problems: dict[str, str] = {}
        told: dict[str, Any] = {"event": "stage", "problems": problems}
        _attempt(problems, "namespaces", lambda: _enter_namespaces(stage["namespaces"]))
        _attempt(problems, "key", lambda: self.plant_key(**stage["key"]))
        _attempt(problems, "neighbour", lambda: told.update(self.plant_neighbour(stage["neighbour"])))
        sandbox.tell(**told, key=self.key, credentials=kernel.read_status())

    def plant_key(self, description: str, payload: str) -> None:
        kernel.join_session_keyring()
        self.key = kernel.add_key(description, payload.encode())

    def plant_neighbour(self, wanted: dict[str, str]) -> dict[str, Any]:
        """Fork a process of the same credentials that keeps a secret in memory and behind three sockets."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.neighbour = os.fork()
        if self.neighbour == 0:
            os.close(reader)
            _be_neighbour(wanted, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            told: dict[str, Any] = json.loads(file.read() or b"{}")
        self.path = told.get("path", "")
        return {"neighbour": told | {"pid": self.neighbour}}

    def strike(self) -> None:
        """Take back what was planted; the namespaces go with this process."""
        if self.key:
            _quietly(lambda: kernel.revoke_key(self.key))
        if self.neighbour:
            _quietly(lambda: os.kill(self.neighbour, signal.SIGKILL))
            _quietly(lambda: os.waitpid(self.neighbour, 0))
        if self.path:
            _quietly(lambda: os.unlink(self.path))


def _enter_namespaces(kind: str) -> None:
    """`private`: mounts, IPC and UTS of one's own, which needs root; `user`: as root of a new user namespace."""
    apart = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if kind == "private":
        kernel.unshare(apart)
    else:
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(kernel.CLONE_NEWUSER | apart)
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
    kernel.make_mounts_private()


def _be_neighbour(wanted: dict[str, str], writer: int) -> NoReturn:
    """Hold the secret until killed; tell where in memory it lies and which sockets could be bound."""
    try:
        kernel.set_parent_death_signal(signal.SIGKILL)  # safe: the supervisor has one thread
        kernel.set_dumpable()
        secret = ctypes.create_string_buffer(wanted["secret"].encode())
        listeners, told = _neighbour_sockets(wanted)
        told["address"] = ctypes.addressof(secret)
        told["length"] = len(wanted["secret"])
        os.write(writer, json.dumps(told).encode())
        os.close(writer)
        while listeners:
            for listener in select.select(listeners, [], [])[0]:
                connection, _ = listener.accept()
                with connection:
                    _quietly(partial(connection.sendall, wanted["secret"].encode()))
        signal.pause()
    finally:
        os._exit(1)


def _neighbour_sockets(wanted: dict[str, str]) -> tuple[list[socket.socket], dict[str, Any]]:
    """A socket by path under `/run`, one by abstract name, and one on the host's loopback."""
    listeners, told = [], dict[str, Any]()
    for name, address in (("path", _socket_path(wanted)), ("abstract", "\0" + wanted["abstract"])):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            listener.listen(8)
        except OSError as error:
            told[f"{name}_problem"] = str(error)
            continue
        listeners.append(listener)
        told[name] = address.lstrip("\0")
    try:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        told["port"] = listeners[-1].getsockname()[1]
    except OSError as error:
        told["port_problem"] = str(error)
    return listeners, told


def _socket_path(wanted: dict[str, str]) -> str:
    """A place under `/run`; where an ordinary user may not write there, one's own tmpfs covers it."""
    if not os.access("/run", os.W_OK):
        _quietly(lambda: kernel.mount_tmpfs("/run"))
    return f"/run/{wanted['abstract']}.sock"


def _spawn_launcher(execute: list[Any], targets: dict[int, int]) -> int:
    """A launcher with no step before it needs no program of ours: bwrap dies with its parent by its own option,
    and has no orphans outside its pid namespace."""
    _, argv, environment = execute
    try:
        return os.posix_spawn(
            argv[0], argv, environment, file_actions=_dup_actions(targets), setsigdef=RESET, setsigmask=[]
        )
    except OSError:  # the fork's way tells why
        return 0


def _dup_actions(targets: dict[int, int]) -> list[tuple[int, ...]]:
    """Move descriptors to their numbers; sources that are targets themselves are parked above them first.

    Everything else of ours closes by itself on exec, as all of it is opened so.
    """
    parked = {t: FIRST_SAFE_DESCRIPTOR + 1000 + i for i, t in enumerate(targets)}
    park = [(os.POSIX_SPAWN_DUP2, source, parked[t]) for t, source in targets.items()]
    place = [(os.POSIX_SPAWN_DUP2, parked[t], t) for t in targets]
    close = [(os.POSIX_SPAWN_CLOSE, parked[t]) for t in targets]
    unasked = [(os.POSIX_SPAWN_CLOSE, number) for number in (0, 1, 2) if number not in targets]
    return [*park, *place, *close, *unasked]


def _last_capability() -> int:
    """The highest capability that this kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 40  # CAP_CHECKPOINT_RESTORE, the last one since Linux 5.9


def _be_command(steps: list[list[Any]], targets: dict[int, int], notes: int) -> NoReturn:
    """Place the descriptors, take the steps of the plan, exec; tell which step failed."""
    try:
        signal.set_wakeup_fd(-1)
        for number in RESET:
            signal.signal(number, signal.SIG_DFL)
        kernel.set_parent_death_signal(signal.SIGKILL)
        kernel.set_subreaper()
        notes = _place_descriptors(targets, notes)
        for step in steps:
            _take(step, notes)
    finally:
        os._exit(127)


def _place_descriptors(targets: dict[int, int], notes: int) -> int:
    """Give each descriptor its number and close all others; `notes` survives until the exec."""
    notes = fcntl.fcntl(notes, fcntl.F_DUPFD_CLOEXEC, FIRST_SAFE_DESCRIPTOR)
    parked = {t: fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, FIRST_SAFE_DESCRIPTOR) for t, d in targets.items()}
    for target, descriptor in parked.items():
        os.dup2(descriptor, target, inheritable=True)
    first = 0
    for kept in sorted([*targets, notes]):
        if first < kept:  # an empty range would wrap round to all of them
            os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    return notes


def _take(step: list[Any], notes: int) -> None:
    """One step of the plan; a failure is told and ends the child, unless the step says it may be skipped."""
    name, arguments = step[0], step[1:]
    try:
        STEPS[name](*arguments)
    except OSError as error:
        note = _note(name, error.errno or 0)
        os.write(notes, json.dumps(note).encode() + b"\n")
        if note["event"] == "failed":
            os._exit(126)


def _note(name: str, code: int) -> dict[str, Any]:
    """What is told of a step that did not work out."""
    skipped = name in SKIPPABLE and code == errno.EPERM
    event = "skipped" if skipped else "failed"
    return {"event": event, "step": name, "errno": code, "message": os.strerror(code)}


def _execute(argv: list[str], environment: dict[str, str]) -> None:
    os.execvpe(argv[0], argv, environment)


STEPS: dict[str, Callable[..., None]] = {
    "session": os.setsid,
    "terminal": kernel.take_terminal,
    "directory": os.chdir,
    "no_new_privs": kernel.set_no_new_privs,
    "bounding_set": kernel.drop_bounding_set,
    "landlock": kernel.restrict_by_landlock,
    "filter": lambda code: kernel.load_filter(base64.b64decode(code)),
    "unified_cgroup": kernel.mount_unified_cgroup,
    "execute": _execute,
}

CLEAN_UP_SECONDS = 20
"""SIGALRM ends a clean-up that hangs; the alarm survives the exec."""


def _clean_up(argv: list[str]) -> None:
    """Run one command silently to its end; what it says is of no use to anyone any more."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number in RESET:
                signal.signal(number, signal.SIG_DFL)
            silence = os.open(os.devnull, os.O_RDWR)
            for target in range(3):
                os.dup2(silence, target, inheritable=True)
            signal.alarm(CLEAN_UP_SECONDS)
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    _quietly(partial(os.waitpid, pid, 0))


SKIPPABLE = {"bounding_set"}
"""An ordinary user may not empty the bounding set, and has none of it either: skipped, and said so."""


def _children(pid: int) -> list[int]:
    """The children of a process, of all its threads; this one has a single thread."""
    found: list[int] = []
    try:
        for thread in [str(pid)] if pid == os.getpid() else os.listdir(f"/proc/{pid}/task"):
            descriptor = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
            try:
                while more := os.read(descriptor, MAX_MESSAGE):
                    found += map(int, more.split())
            finally:
                os.close(descriptor)
    except OSError:
        return found
    return found


def _attempt(problems: dict[str, str], name: str, action: Callable[[], None]) -> None:
    """What cannot be planted is told, and its probes will say so; the rest goes on."""
    try:
        action()
    except OSError as error:
        problems[name] = str(error)


def _quietly(action: Callable[[], object]) -> None:
    """For ends that may be gone already."""
    try:
        action()
    except OSError:
        return


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]), natively=sys.argv[2] == "native")
