"""The contract's messages in a document: their fields as protobuf's JSON has them.

A text means what the contract's field says. Protobuf's own parser would name neither the line nor
the nearest known field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from keyfold.cli.errors import InputError
from keyfold.cli.input.values import seconds
from keyfold.cli.input.yaml_tree import Fields, Items, Node, Text

_LONGEST: Final = 1e9
"""Seconds, more than any span of the contract, so that the server refuses a longer one."""

_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_MOST: Final = 2**32 - 1
"""The largest number of the contract's fields of numbers."""


def fields_of(node: Node, path: str, known: Iterable[str]) -> Iterator[tuple[str, Node]]:
    """Yields the fields of a mapping.

    Raises:
        InputError: It is not a mapping, or has a field that is not known.
    """
    if not isinstance(node, Fields):
        raise wrong(node, path, f"must have fields, and is {kind_of(node)}")
    names = list(known)
    for name, value in node.fields.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(names)}"
            place = f"{path}.{name}" if path else name
            raise InputError(f"line {node.lines[name]}: {place}: unknown field; {hint}")
        yield name, value


def message_of(
    node: Node, kind: Descriptor, path: str, known: Iterable[str] | None = None
) -> dict[str, Any]:
    """Returns the fields of a message in protobuf's JSON form.

    Args:
        node: The message.
        kind: Its type.
        path: Its path, for errors.
        known: The names of the fields that a caller sets; None: all of the type.
    """
    names = [each.name for each in kind.fields] if known is None else list(known)
    if isinstance(node, Fields):
        for name in node.fields:
            if name in kind.fields_by_name and name not in names:
                place = f"{path}.{name}"
                line = node.lines[name]
                raise InputError(f"line {line}: {place}: the server sets it; leave it out")
    return {
        name: _value(value, kind.fields_by_name[name], f"{path}.{name}")
        for name, value in fields_of(node, path, names)
    }


def _value(node: Node, kind: FieldDescriptor, path: str) -> Any:
    nested = kind.message_type
    if nested is not None and nested.GetOptions().map_entry:
        if not isinstance(node, Fields):
            raise wrong(node, path, f"must have fields, and is {kind_of(node)}")
        return {name: _text(one, f"{path}.{name}") for name, one in node.fields.items()}
    if not kind.is_repeated:
        return _single(node, kind, path)
    if not isinstance(node, Items):
        raise wrong(node, path, f"must be a list, not {kind_of(node)}")
    return [_single(one, kind, f"{path}[{at}]") for at, one in enumerate(node.items)]


def _single(node: Node, kind: FieldDescriptor, path: str) -> Any:
    if kind.message_type is None:
        text = _text(node, path)
        if kind.enum_type is not None:
            return _enum(node, text, kind.enum_type, path)
        if kind.type == kind.TYPE_BOOL:
            if text.lower() not in ("true", "false"):
                raise wrong(node, path, f"must be true or false, not {text!r}")
            return text.lower() == "true"
        if kind.type == kind.TYPE_UINT32:
            if _NUMBER.fullmatch(text) is None or int(text) > _MOST:
                raise wrong(node, path, f"must be a number from 0 to {_MOST}, not {text[:40]!r}")
            return int(text)
        return text
    if kind.message_type.full_name != "google.protobuf.Duration":
        return message_of(node, kind.message_type, path)
    try:
        span = seconds(_text(node, path), path)
    except InputError as problem:
        raise InputError(f"line {node.line}: {problem}") from None
    return f"{min(span, _LONGEST):.9f}s"


def _enum(node: Node, text: str, kind: EnumDescriptor, path: str) -> str:
    """Returns the name of an enum's value, which may stand there without the enum's own name."""
    names = [one.name for one in kind.values if one.number]
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    for name in (text, prefix + text):
        if name in names:
            return name
    short = ", ".join(name.removeprefix(prefix) for name in names)
    raise wrong(node, path, f"must be one of {short}, not {text!r}")


def _text(node: Node, path: str) -> str:
    if not isinstance(node, Text):
        raise wrong(node, path, f"must be text, not {kind_of(node)}")
    if node.is_null:
        raise wrong(node, path, 'has no value; leave the field out, or write "" for an empty text')
    return node.text


def kind_of(node: Node) -> str:
    """Says what a part of a document is, for errors."""
    if isinstance(node, Text):
        return "empty" if node.is_null else f"the text {node.text[:40]!r}"
    return "a list" if isinstance(node, Items) else "fields"


def wrong(node: Node, path: str, problem: str) -> InputError:
    """Returns the error about a part of a document, with its line and path."""
    return InputError(
        f"line {node.line}: {path}: {problem}" if path else f"line {node.line}: {problem}"
    )
