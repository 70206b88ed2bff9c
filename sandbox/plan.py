"""The plan: the ordered operations that an isolation and a profile compile to, for one command on one host.

    plan_for(isolation, profile, command, host) -> Plan(ops)       pure; it can be printed and compared

A launcher interprets the plan and adds nothing to it, after the model of bubblewrap's own list of operations.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never, final

from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.host import Host
from holdfast.sandbox.isolation import AnyIsolation, Isolation

__all__ = [
    "Bind",
    "Chdir",
    "Command",
    "Devices",
    "DieWithParent",
    "DropBoundingSet",
    "DropCapabilities",
    "Execute",
    "Extra",
    "Filter",
    "Hide",
    "HostRoot",
    "LandlockDomain",
    "Link",
    "NewSession",
    "NoNewPrivileges",
    "Op",
    "Plan",
    "Processes",
    "Through",
    "Tmpfs",
    "Unshare",
    "describe",
    "plan_for",
]


@final
@dataclass(frozen=True, slots=True)
class Command:
    """What is to run, and what it needs from the host."""

    argv: tuple[str, ...]
    cwd: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set inside, under each isolation."""
    inherited: Mapping[str, str] = field(default_factory=dict)
    """The caller's own environment: passed on whole by `none` and `seccomp`, by name only under `bwrap`."""
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    """Folders that a put-together root must have, at the same path."""


@final
@dataclass(frozen=True, slots=True)
class Unshare:
    """A new namespace: `user`, `mount`, `pid`, `ipc`, `uts`, `cgroup`, `net`."""

    namespace: str


@final
@dataclass(frozen=True, slots=True)
class Bind:
    """A host path at the same path inside."""

    path: str
    writable: bool = False


@final
@dataclass(frozen=True, slots=True)
class HostRoot:
    """The host's whole root with its devices; no plan of ours has it, an ablation has."""


@final
@dataclass(frozen=True, slots=True)
class Hide:
    """A file that stays there by name and can no longer be read."""

    path: str


@final
@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, as a merged /usr has them."""

    path: str
    target: str


@final
@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty folder in memory."""

    path: str


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """A /proc of the new pid namespace."""


@final
@dataclass(frozen=True, slots=True)
class Devices:
    """A minimal /dev."""


@final
@dataclass(frozen=True, slots=True)
class DropCapabilities:
    """All capabilities, from every set."""


@final
@dataclass(frozen=True, slots=True)
class NewSession:
    """A session without a controlling terminal."""


@final
@dataclass(frozen=True, slots=True)
class DieWithParent:
    """A second line: the sandbox dies with the single-threaded process that started it."""


@final
@dataclass(frozen=True, slots=True)
class NoNewPrivileges:
    """No exec from here on gains a privilege."""


@final
@dataclass(frozen=True, slots=True)
class DropBoundingSet:
    """An empty capability bounding set; an ordinary user may not, and it is said when skipped."""


@final
@dataclass(frozen=True, slots=True)
class LandlockDomain:
    """A Landlock domain: no ptrace or /proc/PID/mem outside it; from ABI 6 no signals, no abstract sockets."""

    abi: int


@final
@dataclass(frozen=True, slots=True)
class Filter:
    """The profile's seccomp filter, as bytes; the last thing before the command."""

    profile: str
    code: bytes = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class Through:
    """Hand over to a launcher that is not ours; what it applies beyond this plan is its own default."""

    launcher: str
    prefix: tuple[str, ...] = ()
    """The user's own command line; empty for a launcher known by name."""
    passed: tuple[str, ...] = ()
    """Names of variables that must be set inside, with the values that the launcher's own environment has."""
    loosened: tuple[str, ...] = ()
    """Its switches that are turned off: an ablation."""


@final
@dataclass(frozen=True, slots=True)
class Extra:
    """Further arguments that a person gave bwrap; after the plan's own, so that they have the last word."""

    words: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Chdir:
    """The working directory."""

    path: str


@final
@dataclass(frozen=True, slots=True)
class Execute:
    """The command, with exactly this environment."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = field(repr=False)


Op = (
    Unshare
    | Bind
    | Hide
    | Link
    | Tmpfs
    | Processes
    | Devices
    | HostRoot
    | DropCapabilities
    | NewSession
    | DieWithParent
    | NoNewPrivileges
    | DropBoundingSet
    | LandlockDomain
    | Filter
    | Through
    | Extra
    | Chdir
    | Execute
)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """Operations in the order in which they are carried out."""

    isolation: AnyIsolation
    ops: tuple[Op, ...]

    def without(self, *kinds: type[Op]) -> "Plan":
        """The same plan with operations left out: an ablation, or a fault planted on purpose."""
        return Plan(self.isolation, tuple(op for op in self.ops if not isinstance(op, kinds)))

    def with_further(self, words: tuple[str, ...]) -> "Plan":
        """The same plan with a person's own arguments of bwrap, in front of the command."""
        if not words:
            return self
        at = next(index for index, op in enumerate(self.ops) if isinstance(op, Execute))
        return Plan(self.isolation, (*self.ops[:at], Extra(words), *self.ops[at:]))

    def words(self) -> tuple[str, ...]:
        """Each operation as a person reads it."""
        return tuple(describe(op) for op in self.ops)

    def has(self, kind: type[Op]) -> bool:
        """Whether any operation is of this kind."""
        return any(isinstance(op, kind) for op in self.ops)

    def unshares(self, namespace: str) -> bool:
        """Whether the command gets a namespace of its own."""
        return Unshare(namespace) in self.ops


PASSED_BY_NAME = ("LANG", "LC_ALL", "TERM", "TZ")
"""What bwrap's emptied environment keeps of the caller's; PATH and HOME are set anew."""

INSIDE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

OTHER_NAMESPACES = ("user", "mount", "pid", "ipc", "uts", "cgroup")

EMPTY_FOLDERS = ("/run", "/var", "/tmp", "/home", "/root")  # noqa: S108 - covered, not used


def plan_for(
    isolation: AnyIsolation,
    command: Command,
    host: Host,
    *,
    filter_code: bytes | None,
    profile: str | None,
    shares_network: bool,
) -> Plan:
    """Compile; `filter_code` and `profile` are None for a plan without a filter (under `none`)."""
    match isolation:
        case Isolation.NONE:
            ops: tuple[Op, ...] = (Chdir(command.cwd), _execute(command, command.inherited))
        case Isolation.SECCOMP:
            ops = tuple(_seccomp_ops(command, host, filter_code, profile))
        case Isolation.BWRAP:
            ops = tuple(_bwrap_ops(command, host, filter_code, profile, shares_network=shares_network))
        case Foreign():
            ops = tuple(_foreign_ops(isolation, command, host))
        case _:
            assert_never(isolation)
    return Plan(isolation, ops)


def _seccomp_ops(
    command: Command, host: Host, filter_code: bytes | None, profile: str | None
) -> Iterator[Op]:
    yield Chdir(command.cwd)
    yield NoNewPrivileges()
    yield DropBoundingSet()
    if host.landlock:
        yield LandlockDomain(host.landlock)
    if filter_code is not None:
        yield Filter(profile or "", filter_code)
    yield _execute(command, command.inherited)


def _bwrap_ops(
    command: Command, host: Host, filter_code: bytes | None, profile: str | None, *, shares_network: bool
) -> Iterator[Op]:
    if shares_network and host.landlock >= SCOPE_ABI:
        # With the host's network come its abstract sockets, which no mount hides: scope them away. A domain
        # that only scopes leaves mounting to bwrap, which enters it first.
        yield LandlockDomain(host.landlock)
    yield from (Unshare(name) for name in OTHER_NAMESPACES)
    if not shares_network:
        yield Unshare("net")
    yield from _root_ops(command, host)
    yield DropCapabilities()
    yield NewSession()
    yield DieWithParent()
    yield Chdir(command.cwd)
    if filter_code is not None:
        yield Filter(profile or "", filter_code)
    named = {name: command.inherited[name] for name in PASSED_BY_NAME if name in command.inherited}
    yield _execute(command, {"PATH": INSIDE_PATH, "HOME": host.home, **named})


def _foreign_ops(isolation: Foreign, command: Command, host: Host) -> Iterator[Op]:
    """What a container's root must have; a launcher that shows the host's root needs no bind of it."""
    yield Through(isolation.value, isolation.prefix, tuple(sorted(command.environment)))
    yield from (Bind(path) for path in host.root_folders)
    yield from (Link(path, target) for path, target in host.root_links)
    needed = (*host.interpreter, host.project, *command.readable)
    yield from (Bind(path) for path in dict.fromkeys(needed) if not _is_in_system(path, host))
    yield from (Bind(path, writable=True) for path in dict.fromkeys(command.writable))
    yield Chdir(command.cwd)
    yield _execute(command, command.inherited)


SCOPE_ABI = 6


def _root_ops(command: Command, host: Host) -> Iterator[Op]:
    """A root put together from what is needed; covers come before what is bound into them."""
    yield from (Bind(path) for path in host.root_folders)
    yield from (Link(path, target) for path, target in host.root_links)
    yield Bind("/etc")
    yield from (Hide(path) for path in host.secret_files)
    yield from (Tmpfs(path) for path in host.secret_folders)
    yield Processes()
    yield Devices()
    yield from (Tmpfs(path) for path in dict.fromkeys((*EMPTY_FOLDERS, host.home)))
    needed = (*host.interpreter, host.project, *command.readable)
    yield from (Bind(path) for path in dict.fromkeys(needed) if not _is_in_system(path, host))
    yield from (Bind(path, writable=True) for path in dict.fromkeys(command.writable))


def _is_in_system(path: str, host: Host) -> bool:
    """Whether a system folder that is bound anyway holds the path."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in host.root_folders)


def _execute(command: Command, environment: Mapping[str, str]) -> Execute:
    return Execute(command.argv, tuple(sorted({**environment, **command.environment}.items())))


def describe(op: Op) -> str:
    """One operation as a person reads it; the environment by name only, for its values may be secrets."""
    match op:
        case Unshare(namespace):
            text = f"new {namespace} namespace"
        case Bind(path, writable):
            text = f"bind {path} {'read-write' if writable else 'read-only'}"
        case Hide(path):
            text = f"hide {path}"
        case Link(path, target):
            text = f"link {path} -> {target}"
        case Tmpfs(path):
            text = f"empty {path}"
        case LandlockDomain(abi):
            text = f"enter a landlock domain (abi {abi})"
        case Through(launcher, prefix, _, loosened):
            text = f"hand over to {' '.join(prefix) or launcher}"
            text += f" with {', '.join(loosened)} off" if loosened else ""
        case Filter(profile, code):
            text = f"load the filter of {profile} ({len(code) // 8} instructions)"
        case Extra(words):
            text = f"further arguments of bwrap: {' '.join(words)}"
        case Chdir(path):
            text = f"change to {path}"
        case Execute(argv, environment):
            names = ", ".join(name for name, _ in environment) or "nothing"
            text = f"execute {' '.join(argv)} with {names} in its environment"
        case _:
            text = _PLAIN[type(op)]
    return text


_PLAIN: Mapping[type, str] = {
    HostRoot: "bind the host's whole root, devices and all",
    Processes: "mount a new /proc",
    Devices: "mount a minimal /dev",
    DropCapabilities: "drop all capabilities",
    NewSession: "start a session without a terminal",
    DieWithParent: "die with the supervisor",
    NoNewPrivileges: "set no_new_privs",
    DropBoundingSet: "empty the capability bounding set",
}
