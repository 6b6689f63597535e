"""One line of `rewrap --batch`: a wrapped key on its way from the input to the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyfold.cli.errors import InputError, error_object
from keyfold.cli.input.json_lines import JsonObject, Line
from keyfold.cli.input.line_fields import bytes_of, context_of, known, text_of
from keyfold.cli.input.values import to_base64
from keyfold.errors import KeyfoldError
from keyfold.models.results import Rewrapped
from keyfold.models.specs import Destination, RewrapItem


@dataclass(frozen=True, slots=True)
class Move:
    """The options of `rewrap` that move wrapped keys elsewhere.

    Attributes:
        cluster: The new cluster, or empty to keep it.
        region: The new region, or empty to keep it.
        context: The new context, or None to keep each key's own.
    """

    cluster: str
    region: str
    context: Mapping[str, str] | None

    def of(self, context: Mapping[str, str]) -> Destination:
        """Returns the destination of a wrapped key whose present context this is."""
        kept = context if self.context is None else self.context
        return Destination(self.cluster, self.region, kept)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say otherwise.

    Attributes:
        cluster: The cluster; empty if each line names its own.
        context: The context.
        move: Where wrapped keys go; None moves them to the newest generation only.
    """

    cluster: str
    context: Mapping[str, str]
    move: Move | None

    def __str__(self) -> str:
        """Returns them as a checkpoint records them."""
        return json.dumps(
            {
                "cluster": self.cluster,
                "context": dict(sorted(self.context.items())),
                "to_cluster": self.move.cluster if self.move else "",
                "to_region": self.move.region if self.move else "",
                "to_context": dict(sorted(self.move.context.items()))
                if self.move and self.move.context is not None
                else None,
            }
        )


@dataclass(slots=True)
class Entry:
    """A line, and what is known of it.

    Attributes:
        line: The line.
        cluster: The cluster of its wrapped key.
        item: What the server is to do; None if the line is not sent.
        error: Why the line is not sent; None if it is, and for an empty line.
        content: The line's object; None if it is not one.
    """

    line: Line
    cluster: str = ""
    item: RewrapItem | None = None
    error: dict[str, Any] | None = None
    content: JsonObject | None = field(default=None, repr=False)

    @classmethod
    def read(cls, line: Line, defaults: Defaults) -> Entry:
        """Reads a line; what is wrong with it becomes its error."""
        entry = cls(line)
        if line.is_empty:
            return entry
        try:
            entry.content = line.to_object()
            entry._take(entry.content.values, defaults)
        except InputError as wrong:
            entry.error = error_object(InputError(f"line {line.number}: {wrong}"))
        return entry

    def _take(self, values: dict[str, Any], defaults: Defaults) -> None:
        if "wrapped_key" not in values and isinstance(values.get("error"), dict):
            # What the command before could not read stays an error, as it was.
            self.error = values["error"]
            return
        wrapped_key = bytes_of(values, "wrapped_key")
        self.cluster = text_of(values, "cluster") or defaults.cluster
        if not self.cluster:
            raise InputError("cluster: is missing; name it in the line or on the command line")
        own = context_of(values)
        destination = _destination(values)
        if destination is None and defaults.move is not None:
            destination = defaults.move.of(own or defaults.context)
        self.item = RewrapItem(wrapped_key, own or defaults.context, destination)

    @property
    def target(self) -> str:
        """The cluster of the wrapped key that comes out."""
        if self.item is not None and self.item.destination is not None:
            return self.item.destination.cluster or self.cluster
        return self.cluster

    def unchanged(self) -> bytes:
        """Returns the line as it was."""
        raw = self.line.raw or b""
        return raw if raw.endswith(b"\n") else raw + b"\n"

    def with_result(self, result: Rewrapped | KeyfoldError) -> bytes:
        """Returns the line with what the server answered.

        The line of a key that is current already stays as it was, byte for byte.
        """
        content = self.content
        if content is None or self.item is None:
            raise AssertionError("only a line that was sent has a result")
        if isinstance(result, KeyfoldError):
            return self.with_error(error_object(result))
        failed_before = isinstance(content.values.get("error"), dict)
        if result.already_current and not failed_before:
            return self.unchanged()
        names_cluster = bool(content.values.get("cluster") or _named_cluster(content))
        if failed_before:
            content.drop("error")
        content.drop("already_current")
        content.drop("destination")
        content.set("wrapped_key", to_base64(result.wrapped_key))
        content.set("generation", result.generation)
        if self.item.destination is not None:
            _move(content, self.item.destination, with_cluster=names_cluster)
        return _line(str(content))

    def with_error(self, error: dict[str, Any]) -> bytes:
        """Returns the line with an error, or an error in place of what is not an object."""
        if self.content is None:
            return _line(json.dumps({"error": error}, ensure_ascii=False))
        if self.content.values.get("error") == error:
            return self.unchanged()
        self.content.set("error", error)
        return _line(str(self.content))


def _line(text: str) -> bytes:
    return text.encode() if text.endswith("\n") else text.encode() + b"\n"


def _named_cluster(content: JsonObject) -> str:
    """Returns the cluster of the line's own destination."""
    destination = content.values.get("destination")
    return destination.get("cluster", "") if isinstance(destination, dict) else ""


def _move(content: JsonObject, destination: Destination, *, with_cluster: bool) -> None:
    """Sets the fields with which the moved key is unwrapped.

    A line that names no cluster belongs to the one of the command line, and --to-cluster says what
    that is from now on.
    """
    if destination.cluster and with_cluster:
        content.set("cluster", destination.cluster)
    if destination.context:
        content.set("context", dict(destination.context))
    else:
        content.drop("context")


def _destination(values: dict[str, Any]) -> Destination | None:
    value = values.get("destination")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError("destination: must be an object")
    try:
        known(value, "cluster", "region", "context")
        return Destination(text_of(value, "cluster"), text_of(value, "region"), context_of(value))
    except InputError as wrong:
        raise InputError(f"destination.{wrong}") from None
