"""YAML read into plain nodes that know their lines, with everything refused that a policy has no use for.

Anchors, aliases, tags, a second document, duplicate keys, keys that are not text, deep nesting and large
files are errors. Nodes are built from the parser's events without recursion, so neither an alias bomb nor
a wall of brackets costs more than reading it once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import yaml

__all__ = ["MAX_BYTES", "Node", "YamlError", "parse_yaml"]

MAX_BYTES: Final = 2 << 20
MAX_DEPTH: Final = 16
Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is not YAML that is read here; carries the position."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@final
@dataclass(frozen=True, slots=True)
class Node:
    """A scalar (its text), a list or a mapping, and where it starts, from 1."""

    value: "str | tuple[Node, ...] | Mapping[str, tuple[Node, Node]]"
    """A mapping holds for each key the key's node and the value's."""
    line: int
    column: int
    plain: bool = False
    """A scalar without quotes, which YAML could read as null, a number or a boolean."""


@dataclass(slots=True)
class _Open:
    """A collection that is not closed yet."""

    node_line: int
    node_column: int
    mapping: bool
    items: list[Node]


def parse_yaml(text: str) -> Node | None:
    """The one document's root; None for an empty text. Raises `YamlError`."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise YamlError(f"file is larger than {MAX_BYTES >> 20} MiB")
    try:
        return _build(yaml.parse(text, Loader=Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise YamlError(problem, *(_position(mark) if mark else ())) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(str(error).splitlines()[0]) from None


def _position(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _build(events: Iterator[Any]) -> Node | None:
    root: Node | None = None
    documents = 0
    stack: list[_Open] = []
    for event in events:
        line, column = _position(event.start_mark)
        match event:
            case yaml.AliasEvent():
                raise YamlError(f"alias `*{event.anchor}` is not allowed here", line, column)
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise YamlError("a second document is not allowed here", line, column)
            case yaml.ScalarEvent():
                _refuse_dressing(event, line, column)
                root = _place(stack, Node(event.value, line, column, event.implicit[0]), root)
            case yaml.CollectionStartEvent():
                _refuse_dressing(event, line, column)
                if len(stack) >= MAX_DEPTH:
                    raise YamlError(f"nested deeper than {MAX_DEPTH}", line, column)
                stack.append(_Open(line, column, isinstance(event, yaml.MappingStartEvent), []))
            case yaml.CollectionEndEvent():
                root = _place(stack, _close(stack.pop()), root)
            case _:
                pass  # the stream's and the document's ends carry nothing
    return root


def _refuse_dressing(event: Any, line: int, column: int) -> None:
    if event.anchor is not None:
        raise YamlError(f"anchor `&{event.anchor}` is not allowed here", line, column)
    if event.tag is not None:
        raise YamlError(f"tag `{event.tag}` is not allowed here", line, column)


def _place(stack: list[_Open], node: Node, root: Node | None) -> Node | None:
    if not stack:
        return node
    stack[-1].items.append(node)
    return root


def _close(opened: _Open) -> Node:
    if not opened.mapping:
        return Node(tuple(opened.items), opened.node_line, opened.node_column)
    pairs: dict[str, tuple[Node, Node]] = {}
    for key, value in zip(opened.items[::2], opened.items[1::2], strict=True):
        if not isinstance(key.value, str):
            raise YamlError("a key must be text", key.line, key.column)
        if key.value in pairs:
            first = pairs[key.value][0].line
            raise YamlError(f"key `{key.value}` is given twice, first on line {first}", key.line, key.column)
        pairs[key.value] = (key, value)
    return Node(pairs, opened.node_line, opened.node_column)
