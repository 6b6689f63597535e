"""YAML as a tree of texts, lists and mappings, each with the line that it stands on.

What a text means is the contract's business and not YAML's: a region may be called `no`, and a
key `1e3`. So nothing is turned into a number, a truth value or a date here.

Files come from others. A parser that follows tags can be made to build any object, and one that
follows aliases to build billions of them from a few lines; both are refused, as are files without
end and trees without bottom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from keyfold.cli.errors import InputError

MAX_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of a file, which are those of about 80,000 clusters."""

_MAX_DEPTH: Final = 16
"""Most lists and mappings inside one another; the contract needs six."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
"""The ways to write nothing, unless they stand in quotes."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser; the one in C is eight times as fast, where there is one."""


@dataclass(slots=True)
class Text:
    """A text.

    Attributes:
        line: Its line, from 1.
        text: The text.
        is_null: Whether it stands for nothing.
    """

    line: int
    text: str
    is_null: bool = False


@dataclass(slots=True)
class Items:
    """A list.

    Attributes:
        line: The line on which it begins.
        items: What it has.
    """

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Fields:
    """A mapping.

    Attributes:
        line: The line on which it begins.
        fields: The values, by name.
        lines: The lines of the names.
    """

    line: int
    fields: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


Node = Text | Items | Fields
"""A part of a document."""


def documents(data: bytes) -> list[Node]:
    """Reads the documents of a file; those without content are left out.

    Raises:
        InputError: It is not YAML, or has a tag, an anchor, an alias, a name twice, or too much.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES // 1024 // 1024} MiB; split it into several")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("is not YAML: it is not text in UTF-8") from None
    tree = _Tree()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            tree.take(event)
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        at = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{at}is not YAML: {wrong.problem or wrong.context}") from None
    except yaml.YAMLError as wrong:
        why = getattr(wrong, "reason", "it has characters that YAML does not allow")
        raise InputError(f"is not YAML: {why}") from None
    found = [one for one in tree.roots if not (isinstance(one, Text) and one.is_null)]
    if not found:
        raise InputError("is empty")
    return found


class _Tree:
    """Puts the parts of documents together. It keeps a stack of its own, which no depth overflows.

    Attributes:
        roots: The documents so far.
    """

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self._open: list[Items | Fields] = []
        self._name: list[tuple[str, int] | None] = []

    def take(self, event: Any) -> None:
        """Takes the parser's next event."""
        _check(event)
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._open.pop()
            self._name.pop()
        elif isinstance(event, yaml.ScalarEvent):
            parent = self._open[-1] if self._open else None
            if isinstance(parent, Fields) and self._name[-1] is None:
                self._name[-1] = _new_name(event, parent, line)
            else:
                self._put(Text(line, event.value, not event.style and event.value in _NULLS))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(Items(line))
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(Fields(line))

    def _begin(self, node: Items | Fields) -> None:
        self._put(node)
        if len(self._open) == _MAX_DEPTH:
            raise InputError(f"line {node.line}: more than {_MAX_DEPTH} levels inside one another")
        self._open.append(node)
        self._name.append(None)

    def _put(self, node: Node) -> None:
        if not self._open:
            self.roots.append(node)
            return
        parent, name = self._open[-1], self._name[-1]
        if isinstance(parent, Items):
            parent.items.append(node)
        elif name is None:
            raise InputError(f"line {node.line}: the name of a field must be text")
        else:
            parent.fields[name[0]], parent.lines[name[0]] = node, name[1]
            self._name[-1] = None


def _new_name(event: yaml.ScalarEvent, fields: Fields, line: int) -> tuple[str, int]:
    name: str = event.value
    if name == "<<" and not event.style:
        raise InputError(f"line {line}: `<<` merges are not supported; write the fields out")
    if name in fields.fields:
        raise InputError(
            f"line {line}: {name} stands there twice, first on line {fields.lines[name]}"
        )
    return name, line


def _check(event: Any) -> None:
    """Refuses what makes YAML more than a tree.

    Raises:
        InputError: The event has a tag or an anchor, or is an alias.
    """
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent):
        raise InputError(f"line {line}: aliases (*{event.anchor}) are not supported; write it out")
    if getattr(event, "anchor", None):
        raise InputError(f"line {line}: anchors (&{event.anchor}) are not supported")
    if getattr(event, "tag", None):
        raise InputError(f"line {line}: tags ({event.tag}) are not supported")
