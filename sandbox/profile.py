"""Seccomp profiles: the OCI runtime-spec JSON (`linux.seccomp`), turned into types.

    {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
     "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                   "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}

docker, podman and runc load the same file. What libseccomp would drop or merge without a word is refused
here: the policy that a person reads must be the policy that the kernel runs.
Source: opencontainers/runtime-spec, config-linux.md, section Seccomp.
"""

import errno
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, final

from holdfast.sandbox.json_position import line_of, reject_duplicate_keys
from holdfast.sandbox.refusal import BadInputError

__all__ = ["Action", "Condition", "Operator", "Profile", "Rule", "load_profile", "parse_profile"]

BUILT_IN = Path(__file__).resolve().parent.parent / "profiles"
"""Where `standard` and the like are looked up when a profile is named without a path."""

MAX_BYTES = 1 << 20
"""A profile larger than this is not one; moby's default is 13 KiB."""


@final
class Action(Enum):
    """What the kernel does with a call; the OCI's words."""

    ALLOW = "SCMP_ACT_ALLOW"
    ERRNO = "SCMP_ACT_ERRNO"
    KILL = "SCMP_ACT_KILL"
    KILL_THREAD = "SCMP_ACT_KILL_THREAD"
    KILL_PROCESS = "SCMP_ACT_KILL_PROCESS"
    TRAP = "SCMP_ACT_TRAP"
    LOG = "SCMP_ACT_LOG"


@final
class Operator(Enum):
    """How an argument is compared, over all 64 bits; the OCI's words."""

    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    EQ = "SCMP_CMP_EQ"
    GE = "SCMP_CMP_GE"
    GT = "SCMP_CMP_GT"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of one argument. For MASKED_EQ `value` is the mask and `value_two` the wanted bits."""

    index: int
    operator: Operator
    value: int
    value_two: int = 0

    def holds_for(self, argument: int) -> bool:
        """Whether a 64-bit argument meets this condition."""
        match self.operator:
            case Operator.NE:
                return argument != self.value
            case Operator.LT:
                return argument < self.value
            case Operator.LE:
                return argument <= self.value
            case Operator.EQ:
                return argument == self.value
            case Operator.GE:
                return argument >= self.value
            case Operator.GT:
                return argument > self.value
            case Operator.MASKED_EQ:
                return argument & self.value == self.value_two


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """Calls by name, an action, and conditions that must all hold."""

    names: tuple[str, ...]
    action: Action
    errno: int | None = None
    conditions: tuple[Condition, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """A whole policy. Rules for one call are ORed; what no rule matches gets the default."""

    default_action: Action
    default_errno: int
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    path: str
    """As the user gave it; for messages and reports."""
    sha256: str
    """Of the file's bytes."""

    def rules_for(self, name: str) -> tuple[Rule, ...]:
        """The rules that speak of a call, in the file's order."""
        return tuple(rule for rule in self.rules if name in rule.names)

    @property
    def allows_inet(self) -> bool:
        """Whether `socket(AF_INET, ...)` may pass: the mark of a profile for network services."""
        if self.default_action is Action.ALLOW and not self.rules_for("socket"):
            return True
        return any(
            rule.action is Action.ALLOW and all(c.holds_for(AF_INET) for c in rule.conditions if c.index == 0)
            for rule in self.rules_for("socket")
        )


AF_INET = 2

_FIELDS = {"defaultAction", "defaultErrnoRet", "architectures", "syscalls", "flags"}
_RULE_FIELDS = {"names", "action", "errnoRet", "args", "comment"}
_CONDITION_FIELDS = {"index", "value", "valueTwo", "op"}
_DOCKER_FIELDS = {"archMap", "includes", "excludes", "minKernel"}


def load_profile(name: str) -> Profile:
    """Read a profile by path, or one of ours by name (`standard`); raises `BadInputError`."""
    path = Path(name)
    if "/" not in name and not path.exists() and (BUILT_IN / f"{name}.json").is_file():
        path, name = BUILT_IN / f"{name}.json", f"profiles/{name}.json"
    try:
        if path.exists() and not path.is_file():  # a named pipe would wait for a writer for ever
            raise IsADirectoryError(errno.EISDIR, "not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        ours = ", ".join(f"`{name}`" for name in sorted(p.stem for p in BUILT_IN.glob("*.json")))
        raise BadInputError(
            f"cannot read profile `{name}`: {error.strerror}", hint=f"give a path, or one of {ours}"
        ) from None
    if len(raw) > MAX_BYTES:
        raise BadInputError(f"profile `{name}` is larger than {MAX_BYTES} bytes")
    return parse_profile(raw, path=name)


def parse_profile(raw: bytes, *, path: str) -> Profile:
    """Turn the bytes of a profile into types; raises `BadInputError` with file, line and field."""
    try:
        text = raw.decode("utf-8")
        document = json.loads(text, object_pairs_hook=reject_duplicate_keys)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path}:{error.lineno}: not JSON: {error.msg.lower()}") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not usable JSON: {error}") from None
    return _Reader(text, path).profile(document, hashlib.sha256(raw).hexdigest())


@final
class _Reader:
    """Walks a parsed document; knows the path to where it is, so that every refusal names line and field."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path

    def refuse(self, where: tuple[str | int, ...], what: str, hint: str = "") -> BadInputError:
        field = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in where).lstrip(".") or "document"
        return BadInputError(f"{self.path}:{line_of(self.text, where)}: `{field}` {what}", hint=hint)

    def profile(self, document: Any, sha256: str) -> Profile:
        self.fields(document, (), _FIELDS, required={"defaultAction"})
        entries = self.array(document.get("syscalls", []), ("syscalls",))
        rules = tuple(self.rule(entry, ("syscalls", i)) for i, entry in enumerate(entries))
        default = self.word(Action, document["defaultAction"], ("defaultAction",))
        self.consistent(rules, default)
        return Profile(
            default_action=default,
            default_errno=self.number(
                document.get("defaultErrnoRet", errno.EPERM), ("defaultErrnoRet",), 4095
            ),
            architectures=tuple(
                self.string(a, ("architectures", i))
                for i, a in enumerate(self.array(document.get("architectures", []), ("architectures",)))
            ),
            rules=rules,
            path=self.path,
            sha256=sha256,
        )

    def rule(self, entry: Any, where: tuple[str | int, ...]) -> Rule:
        self.fields(entry, where, _RULE_FIELDS, required={"names", "action"})
        names = self.array(entry["names"], (*where, "names"))
        if not names:
            raise self.refuse((*where, "names"), "is empty", "name at least one call, or remove the rule")
        arguments = self.array(entry.get("args") or [], (*where, "args"))
        code = entry.get("errnoRet")
        rule = Rule(
            names=tuple(self.string(n, (*where, "names", i)) for i, n in enumerate(names)),
            action=self.word(Action, entry["action"], (*where, "action")),
            errno=None if code is None else self.number(code, (*where, "errnoRet"), 4095),
            conditions=tuple(self.condition(a, (*where, "args", i)) for i, a in enumerate(arguments)),
        )
        indices = [c.index for c in rule.conditions]
        if len(set(indices)) != len(indices):
            raise self.refuse(
                (*where, "args"),
                "has several conditions on one argument, which libseccomp refuses",
                "write one rule a condition, remembering that rules are ORed",
            )
        return rule

    def condition(self, entry: Any, where: tuple[str | int, ...]) -> Condition:
        self.fields(entry, where, _CONDITION_FIELDS, required={"index", "value", "op"})
        wide = (1 << 64) - 1
        return Condition(
            index=self.number(entry["index"], (*where, "index"), 5),
            operator=self.word(Operator, entry["op"], (*where, "op")),
            value=self.number(entry["value"], (*where, "value"), wide),
            value_two=self.number(entry.get("valueTwo", 0), (*where, "valueTwo"), wide),
        )

    def consistent(self, rules: tuple[Rule, ...], default: Action) -> None:
        """Refuse what libseccomp resolves silently: the file would say one thing and the kernel do another."""
        free: dict[str, int] = {}
        bound: dict[str, int] = {}
        actions: dict[str, set[tuple[Action, int | None]]] = defaultdict(set)
        for index, rule in enumerate(rules):
            for name in rule.names:
                (bound if rule.conditions else free).setdefault(name, index)
                if not rule.conditions:
                    actions[name].add((rule.action, rule.errno))
            if rule.action is default and rule.errno is None and default is not Action.ALLOW:
                raise self.refuse(
                    ("syscalls", index),
                    "has the default's own action, which libseccomp refuses and runc drops silently",
                    "remove the rule",
                )
        for name in sorted(set(free) & set(bound)):
            raise self.refuse(
                ("syscalls", max(free[name], bound[name])),
                f"gives `{name}` a rule with conditions beside one without (line "
                f"{line_of(self.text, ('syscalls', min(free[name], bound[name])))})",
                "libseccomp would drop the conditions without a word; keep one of the two",
            )
        for name, seen in sorted(actions.items()):
            if len(seen) > 1:
                raise self.refuse(("syscalls", free[name]), f"gives `{name}` two actions without conditions")

    def fields(
        self, value: Any, where: tuple[str | int, ...], known: set[str], *, required: Iterable[str]
    ) -> None:
        if not isinstance(value, dict):
            raise self.refuse(where, "must be an object")
        for key in value:
            if key in _DOCKER_FIELDS:
                raise self.refuse(
                    (*where, key), "is docker's own, not the OCI's", "resolve it for your architecture first"
                )
            if key not in known:
                raise self.refuse((*where, key), "is not a field of an OCI seccomp profile")
        for key in required:
            if key not in value:
                raise self.refuse(where, f"lacks `{key}`")

    def array(self, value: Any, where: tuple[str | int, ...]) -> list[Any]:
        if not isinstance(value, list):
            raise self.refuse(where, "must be an array")
        return value

    def string(self, value: Any, where: tuple[str | int, ...]) -> str:
        if not isinstance(value, str) or not value:
            raise self.refuse(where, "must be a non-empty string")
        return value

    def number(self, value: Any, where: tuple[str | int, ...], most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.refuse(where, f"must be a whole number from 0 to {most}")
        return value

    def word(self, kind: type[Any], value: Any, where: tuple[str | int, ...]) -> Any:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(f"`{member.value}`" for member in kind)
            raise self.refuse(where, f"is `{value}`, which is not known", f"one of {known}") from None


def iter_names(profile: Profile) -> Iterator[str]:
    """Each call that any rule names, once, in the file's order."""
    yield from dict.fromkeys(name for rule in profile.rules for name in rule.names)
