"""Requests and replies as JSON, by protobuf's own mapping, for callers without stubs.

What protobuf's reader would let pass in silence is refused here: bytes that are not base64, and
names that stand twice. Invariant: no error repeats a value of the request, which may be a secret.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401  so that errors in replies are readable

from keyfold_server.domain.errors import MalformedRequestError
from keyfold_server.rpc.messages.sizes import MAX_JSON

_MOST_VALUES: Final = 25_000
"""Most values in a request. A batch of 1,000 items with all context that they may have has fewer.
Without this bound a megabyte of empty objects would take seconds to read."""

_VALUES_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 16 * 1024
"""What is read on the event loop, in about a millisecond; a thread reads what is more."""

_REPLY_AT_ONCE: Final = 4 * 1024
"""Bytes of a reply that is converted on the event loop, in about as long."""

_LONGEST_NAME: Final = 64
"""Characters of a field's name; an error repeats no longer one."""


class _Types(NamedTuple):
    request: type[Message]
    reply: type[Message]


class JsonForm:
    """Converts between JSON and the bytes that handlers take and return."""

    def __init__(self) -> None:
        """Makes a converter for one event loop."""
        # A thread that converts competes with the event loop for the interpreter. Several of them
        # would hold it up several times as long.
        self._one_at_a_time = asyncio.Lock()

    async def request(self, path: str, text: bytes) -> bytes:
        """Returns the bytes of a request in JSON.

        Args:
            path: The method's path, `/package.Service/Method`.
            text: The JSON in UTF-8.

        Raises:
            MalformedRequestError: It is not the JSON of this method's request.
        """
        if len(text) > MAX_JSON:
            raise MalformedRequestError(
                f"the request has {len(text):,} bytes of JSON, and at most {MAX_JSON:,} are "
                "allowed; send larger ones as application/proto"
            )
        # Each value but the first of a list or object has a comma before it.
        values = text.count(b",") + text.count(b"{") + text.count(b"[")
        if values > _MOST_VALUES:
            raise MalformedRequestError(
                f"the request has more than {_MOST_VALUES:,} values, which is too many for JSON; "
                "send it as application/proto"
            )
        kind = _types(path).request
        if values <= _VALUES_AT_ONCE and len(text) <= _BYTES_AT_ONCE:
            return _to_bytes(kind, text)
        async with self._one_at_a_time:
            return await asyncio.to_thread(_to_bytes, kind, text)

    async def reply(self, path: str, data: bytes) -> bytes:
        """Returns the JSON of a reply's bytes."""
        kind = _types(path).reply
        if len(data) <= _REPLY_AT_ONCE:
            return _to_json(kind, data)
        async with self._one_at_a_time:
            return await asyncio.to_thread(_to_json, kind, data)


@lru_cache(maxsize=256)
def _types(path: str) -> _Types:
    service, _, name = path.removeprefix("/").partition("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    return _Types(
        message_factory.GetMessageClass(found.input_type),
        message_factory.GetMessageClass(found.output_type),
    )


def _to_json(kind: type[Message], data: bytes) -> bytes:
    shown = json_format.MessageToDict(kind.FromString(data))
    return json.dumps(shown, separators=(",", ":")).encode()


def _to_bytes(kind: type[Message], text: bytes) -> bytes:
    try:
        given = json.loads(
            text.decode(), object_pairs_hook=_once_each, parse_constant=_no_such_number
        )
    except MalformedRequestError:
        raise
    except (ValueError, RecursionError):
        raise MalformedRequestError(
            "the request is not JSON; write a request without fields as {}"
        ) from None
    _check(given, _descriptor(kind), "")
    message = kind()
    try:
        json_format.ParseDict(given, message)
        return message.SerializeToString()
    except Exception:  # noqa: BLE001  protobuf's text would repeat the value
        raise _bad_value(_first_bad(given, kind, "")) from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) != len(pairs):
        raise MalformedRequestError("the request has an object in which a name stands twice")
    return given


def _no_such_number(_: str) -> None:
    raise MalformedRequestError("the request has a number that JSON does not have")


def _check(given: Any, kind: Descriptor, path: str) -> None:
    """Checks the names of all fields, and that bytes are base64.

    Raises:
        MalformedRequestError: They are not.
    """
    for field, value, where in _fields(given, kind, path):
        if field.type == FieldDescriptor.TYPE_BYTES:
            for one, place in _each(field, value, where):
                if not _is_base64(one):
                    raise MalformedRequestError(f"{place} must be base64", field=place)
        elif (inner := _our_message(field)) is not None:
            for one, place in _each(field, value, where):
                _check(one, inner, place)


def _fields(given: Any, kind: Descriptor, path: str) -> Iterator[tuple[FieldDescriptor, Any, str]]:
    """Yields each field of an object that is not null, with its value and its path."""
    if not isinstance(given, Mapping):
        raise MalformedRequestError(
            f"{path or 'the request'} must be an object", field=path or None
        )
    names = _names(kind)
    seen = set()
    for name, value in given.items():
        field = names.get(name)
        inside = f" in {path}" if path else ""
        if field is None:
            shown = name if name.isidentifier() and len(name) <= _LONGEST_NAME else ""
            raise MalformedRequestError(
                f"there is no field {shown}{inside} in this method's request"
                if shown
                else f"there is a field{inside} that this method's request does not have",
                field=_joined(path, shown) if shown else path or None,
            )
        if field.name in seen:
            raise MalformedRequestError(f"the field {field.name}{inside} stands twice")
        seen.add(field.name)
        if value is not None:
            yield field, value, _joined(path, field.name)


@lru_cache(maxsize=256)
def _names(kind: Descriptor) -> Mapping[str, FieldDescriptor]:
    """Returns the fields of a message by both names that each may have."""
    return {field.json_name: field for field in kind.fields} | dict(kind.fields_by_name)


def _each(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Yields the value of a field, or each value of a repeated one, with its path."""
    if not field.is_repeated:
        yield value, path
        return
    if not isinstance(value, list):
        raise MalformedRequestError(f"{path} must be a list", field=path)
    for index, one in enumerate(value):
        yield one, f"{path}[{index}]"


def _our_message(field: FieldDescriptor) -> Descriptor | None:
    """Returns the message that a field holds if JSON has it as an object with its fields."""
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry or kind.file.package == "google.protobuf":
        return None
    return kind


def _descriptor(kind: type[Message]) -> Descriptor:
    found: Any = kind.DESCRIPTOR  # Its type stubs name two classes for one.
    described: Descriptor = found
    return described


def _is_base64(value: Any) -> bool:
    """Says whether a value is base64, or base64url, with or without padding."""
    if not isinstance(value, str):
        return False
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _first_bad(given: Any, kind: type[Message], path: str) -> str:
    """Returns the path of the first field whose value protobuf's reader does not take."""
    for field, value, where in _fields(given, _descriptor(kind), path):
        if _takes(kind, {field.name: value}):
            continue
        described = _our_message(field)
        if described is None:
            return where
        inner = message_factory.GetMessageClass(described)
        for one, place in _each(field, value, where):
            if not _takes(inner, one):
                return _first_bad(one, inner, place)
    return path


def _takes(kind: type[Message], given: Any) -> bool:
    try:
        json_format.ParseDict(given, kind())
    except Exception:  # noqa: BLE001  whatever it says repeats the value
        return False
    return True


def _bad_value(path: str) -> MalformedRequestError:
    if not path:
        return MalformedRequestError("the request has fields that exclude each other")
    return MalformedRequestError(f"{path} has not the form that its type has in JSON", field=path)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
