"""The names of the resources in an answer, for `-o name`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from keyfold.cli.output.text import one_line

_NAMES: Final[Mapping[str, Callable[[Any], str]]] = {
    "google.longrunning.Operation": lambda one: one.name,
    "keyfold.v1.ClusterStatus": lambda one: one.cluster,
    "keyfold.v1.Cursor": lambda one: one.name,
    "keyfold.v1.Event": lambda one: str(one.number),
    "keyfold.v1.KeyLink": lambda one: f"{one.organization}/{one.key_link}",
    "keyfold.v1.KeyUse": lambda one: one.cluster,
    "keyfold.v1.Organization": lambda one: one.organization,
    "keyfold.v1.RecheckResult": lambda one: one.cluster,
    "keyfold.v1.StartOperationResponse": lambda one: one.name,
    "keyfold.v1.UsageCount": lambda one: one.cluster,
}
"""The name of the resource that a message is about, by the message's type."""


def names_of(message: Message) -> list[str]:
    """Returns the names of the resources that an answer is about, each once.

    A name is what other commands take: `keyfold clusters -o name | xargs keyfold status`.
    """
    return list(dict.fromkeys(one_line(name) for name in _found(message) if name))


def _found(message: Message) -> Iterator[str]:
    name = _NAMES.get(message.DESCRIPTOR.full_name)
    if name is not None:
        yield name(message)
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.full_name in _NAMES:
            several: Iterable[Message] = [value] if isinstance(value, Message) else value
            for each in several:
                yield from _found(each)
