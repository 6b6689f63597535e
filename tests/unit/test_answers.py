"""Answers as dicts: all that an answer holds, in types that JSON has, and never a key."""

from __future__ import annotations

import base64
import importlib
import json
import pkgutil
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

import keyfold
from keyfold import models
from keyfold.models.answer import Answer
from served import served

SECRET: Final = b"an unwrapped key of 32 bytes !!!"


def answers() -> list[type[Any]]:
    """Returns every class of `keyfold.models` that is an answer, and reads a message."""
    for module in pkgutil.iter_modules(models.__path__, "keyfold.models."):
        importlib.import_module(module.name)

    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    found = {kind.__name__: kind for kind in below(Answer) if not kind.__name__.startswith("_")}
    return [kind for _, kind in sorted(found.items())]


def filled(message: Any, depth: int = 0) -> Any:
    """Sets every field of a message."""
    if isinstance(message, Timestamp):
        message.seconds = 1_800_000_000
        return message
    taken: set[str] = set()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and field.containing_oneof.name in taken:
            continue
        if field.containing_oneof is not None:
            taken.add(field.containing_oneof.name)
        here = getattr(message, field.name)
        if field.message_type is not None:
            if depth > 4 or field.message_type.full_name.startswith("google.protobuf.Struct"):
                continue
            if field.message_type.GetOptions().map_entry:
                here["name"] = "value"
            else:
                filled(here.add() if field.is_repeated else here, depth + 1)
                if not field.is_repeated:
                    here.SetInParent()
            continue
        value: Any = {
            FieldDescriptor.CPPTYPE_STRING: SECRET if field.type == field.TYPE_BYTES else "text",
            FieldDescriptor.CPPTYPE_BOOL: True,
            FieldDescriptor.CPPTYPE_ENUM: 1,
        }.get(field.cpp_type, 7)
        if field.is_repeated:
            here.append(value)
        else:
            setattr(message, field.name, value)
    return message


@pytest.mark.parametrize("kind", answers(), ids=lambda kind: kind.__name__)
def test_an_answer_becomes_json(kind: type[Any]) -> None:
    """Every attribute is in the dict, in a type that JSON has."""
    if not hasattr(kind, "from_message"):
        return
    hint = next(iter(typing.get_type_hints(kind.from_message).values()))
    message = (typing.get_args(hint) or (hint,))[0]
    answer = kind.from_message(filled(message()))
    shown = answer.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    hidden = {"plaintext"} & {field.name for field in fields(kind)}
    assert shown.keys() == {field.name for field in fields(kind)} - hidden
    assert bool(hidden) == (kind in (keyfold.DataKey, keyfold.Unwrapped))


def test_a_plaintext_is_not_in_it() -> None:
    """A dict that is logged holds no key, however it is written."""
    answers = (
        keyfold.DataKey(keyfold.Plaintext(SECRET), b"wrapped", 1, timedelta(seconds=60)),
        keyfold.Unwrapped(keyfold.Plaintext(SECRET), "eu", 1),
    )
    for answer in answers:
        text = json.dumps(answer.to_dict())
        for form in (SECRET.decode(), base64.b64encode(SECRET).decode(), SECRET.hex()):
            assert form not in text


def test_forms() -> None:
    """Values have the forms of `keyfold --json`."""
    key = keyfold.DataKey(keyfold.Plaintext(SECRET), b"\xfbwrapped", 1, timedelta(seconds=1.5))
    assert key.to_dict() == {
        "wrapped_key": "+3dyYXBwZWQ=",
        "generation": 1,
        "max_cache_age": "1.5s",
    }
    error = keyfold.RevokedError("no", code="FAILED_PRECONDITION", metadata={"region": "eu"})
    assert keyfold.NotRestored("eu", error).to_dict() == {
        "region": "eu",
        "error": {
            "reason": "REVOKED",
            "message": "no",
            "code": "FAILED_PRECONDITION",
            "source": "keyfold",
            "metadata": {"region": "eu"},
        },
    }
    pending = keyfold.PendingReplica("r", datetime(2027, 1, 15, 8, tzinfo=UTC), timedelta())
    assert pending.to_dict() == {
        "replica": "r",
        "stops_by": "2027-01-15T08:00:00Z",
        "stops_within": "0s",
    }


def test_every_answer_of_a_method_has_it() -> None:
    """What the client's methods return has `to_dict`."""
    for name in dir(keyfold.Client):
        method = getattr(keyfold.Client, name)
        if name.startswith("_") or name in ("explained", "failure", "line", "send", "stream"):
            continue
        returned = typing.get_type_hints(method).get("return")
        for kind in _leaves(returned):
            if isinstance(kind, type) and is_dataclass(kind):
                assert issubclass(kind, Answer), f"{name} returns {kind.__name__}"


def _leaves(hint: Any) -> Iterator[Any]:
    parts = typing.get_args(hint)
    if not parts:
        yield hint
    for part in parts:
        yield from _leaves(part)


def test_a_status_of_a_server(tmp_path: Path) -> None:
    """A real answer reads as its attributes do."""
    with served(tmp_path) as server, keyfold.Client(server.target) as client:
        status = client.get_status("prod")
    shown = status.to_dict()
    assert shown["cluster"] == "prod"
    assert shown["create_time"] == "2027-01-15T08:00:00Z"
    assert [one["state"] for one in shown["regions"]] == ["ENABLED", "ENABLED"]
    assert shown["regions"][0]["key_spec"]["uri"] == "local:acme"
    assert (
        shown["regions"][0]["generations"][0]["kek_id"]
        == base64.b64encode(status.regions[0].generations[0].kek_id).decode()
    )
