"""A policy file into rules: every mistake named with file, line and the offending text.

    capabilities:
      - name: allow-src
        match: {syscall: [fs.read, fs.write], path_glob: ["src/**", "!src/secret/**"], caller_tag: core_plugin}
        action: allow
        except: [{state: frozen}]
        reason: plugins may work on sources
        constraints: {max_size: 10MiB, max_time: 30s}

`load_rules` is pure; `docs/schemas/kernel-policy.json` says the same to an editor. Warnings do not stop a
load: they name rules that can never fire and words that the kernel does not know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

from holdfast.systems.kernel.glob import GlobError, PathSet
from holdfast.systems.kernel.request import SYSCALLS, CallerTag
from holdfast.systems.kernel.rules import ANY, Action, Match, Rule
from holdfast.systems.kernel.units import UnitError, parse_size, parse_time_ms
from holdfast.systems.kernel.yaml_nodes import Node, YamlError, parse_yaml

__all__ = ["Loaded", "PolicyFileError", "Warned", "load_rules"]

RULE_KEYS: Final = ("name", "match", "action", "except", "reason", "constraints")
MATCH_KEYS: Final = ("syscall", "caller_tag", "path_glob", "state")
UNITS: Final[dict[str, Callable[[str], int]]] = {"max_size": parse_size, "max_time": parse_time_ms}
MAX_RULES: Final = 20_000
MAX_VALUES: Final = 256
MAX_TEXT: Final = 500
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
TAGS: Final = frozenset(tag.value for tag in CallerTag)


class PolicyFileError(ValueError):
    """The file is no policy; nothing of it was loaded."""

    def __init__(self, file: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{file}:{line}:{column}: {message}")
        self.file = file
        self.line = line
        self.column = column
        self.message = message


@final
@dataclass(frozen=True, slots=True)
class Warned:
    """Something that loads and is probably not meant."""

    line: int
    rule: str
    message: str


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """The rules of one file."""

    rules: tuple[Rule, ...]
    warnings: tuple[Warned, ...]


def load_rules(text: str, file: str) -> Loaded:
    """Read a policy file's text; raises `PolicyFileError`. An empty text holds no rules."""
    try:
        root = parse_yaml(text)
        rules = tuple(_rules(root))
    except YamlError as error:
        raise PolicyFileError(file, error.line, error.column, str(error)) from None
    return Loaded(rules, tuple(_warnings(rules)))


def _rules(root: Node | None) -> Iterator[Rule]:
    if root is None or (isinstance(root.value, str) and root.plain and root.value in NULLS):
        return
    top = _fields(root, ("capabilities",), "the file")
    if "capabilities" not in top:
        return
    listed = top["capabilities"]
    if isinstance(listed.value, str) and listed.plain and listed.value in NULLS:
        return
    if not isinstance(listed.value, tuple):
        raise _wrong(listed, "`capabilities` must be a list of rules")
    if len(listed.value) > MAX_RULES:
        raise _wrong(listed, f"{len(listed.value)} rules; at most {MAX_RULES}")
    for node in listed.value:
        yield _rule(node)


def _rule(node: Node) -> Rule:
    fields = _fields(node, RULE_KEYS, "a rule")
    for key in ("name", "match", "action"):
        if key not in fields:
            raise _wrong(node, f"rule without `{key}`")
    name = _text(fields["name"], "name")
    excepts = fields.get("except")
    return Rule(
        name=name,
        match=_match(fields["match"]),
        action=_action(fields["action"]),
        excepts=() if excepts is None else tuple(_match(item) for item in _items(excepts, "except")),
        reason=_text(fields["reason"], "reason") if "reason" in fields else "",
        limits=tuple(sorted(_limits(fields["constraints"]))) if "constraints" in fields else (),
        line=node.line,
    )


def _action(node: Node) -> Action:
    text = _text(node, "action")
    try:
        return Action(text)
    except ValueError:
        accepted = ", ".join(action.value for action in Action)
        raise _wrong(node, f"unknown action `{text}`; expected one of {accepted}") from None


def _match(node: Node) -> Match:
    fields = _fields(node, MATCH_KEYS, "a match")
    values = {key: _values(fields[key], key) for key in fields}
    syscalls = values.get("syscall")
    globs = values.get("path_glob")
    try:
        paths = None if globs is None else PathSet.parse(globs)
    except GlobError as error:
        raise _wrong(fields["path_glob"], str(error)) from None
    return Match(
        syscalls=None if syscalls is None or ANY in syscalls else frozenset(syscalls),
        caller_tags=_set(values.get("caller_tag")),
        paths=paths,
        states=_set(values.get("state")),
    )


def _set(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _limits(node: Node) -> Iterator[tuple[str, int]]:
    for key, value in _fields(node, tuple(UNITS), "constraints").items():
        try:
            yield key, UNITS[key](_text(value, key))
        except UnitError as error:
            raise _wrong(value, str(error)) from None


def _fields(node: Node, known: tuple[str, ...], where: str) -> dict[str, Node]:
    if isinstance(node.value, str | tuple):
        raise _wrong(node, f"{where} must be a mapping with keys among {', '.join(known)}")
    for key, (at, _) in node.value.items():
        if key not in known:
            raise _wrong(at, f"unknown key `{key[:80]}` in {where}; expected {', '.join(known)}")
    return {key: value for key, (_, value) in node.value.items()}


def _items(node: Node, key: str) -> tuple[Node, ...]:
    if not isinstance(node.value, tuple):
        raise _wrong(node, f"`{key}` must be a list")
    if len(node.value) > MAX_VALUES:
        raise _wrong(node, f"`{key}` has {len(node.value)} entries; at most {MAX_VALUES}")
    return node.value


def _values(node: Node, key: str) -> tuple[str, ...]:
    if isinstance(node.value, str):
        return (_text(node, key),)
    return tuple(_text(item, key) for item in _items(node, key))


def _text(node: Node, key: str) -> str:
    if not isinstance(node.value, str) or (node.plain and node.value in NULLS) or not node.value:
        raise _wrong(node, f"`{key}` must be a text")
    if len(node.value) > MAX_TEXT and key != "path_glob":
        raise _wrong(node, f"`{key}` of {len(node.value)} characters; at most {MAX_TEXT}")
    if not node.value.isprintable():
        raise _wrong(node, f"`{key}` holds a character that cannot be printed")
    return node.value


def _wrong(node: Node, message: str) -> YamlError:
    return YamlError(message, node.line, node.column)


def _warnings(rules: tuple[Rule, ...]) -> Iterator[Warned]:
    seen: dict[str, Rule] = {}
    for rule in rules:
        for message in _doubts(rule):
            yield Warned(rule.line, rule.name, message)
        other = seen.setdefault(rule.name, rule)
        if other is not rule:
            yield Warned(rule.line, rule.name, f"a rule of this name stands on line {other.line} too")


def _doubts(rule: Rule) -> Iterator[str]:
    for match in (rule.match, *rule.excepts):
        if match.paths is not None and not match.paths.plain:
            yield "`path_glob` has no entry that can match: it matches nothing"
        yield from (
            f"unknown syscall `{name}`" for name in sorted((match.syscalls or set()) - SYSCALLS.keys())
        )
        yield from (f"unknown caller tag `{tag}`" for tag in sorted((match.caller_tags or set()) - TAGS))
    if rule.match in rule.excepts:
        yield "the match is identical to an except: the rule can never fire"
