"""An event as a CloudEvent: the attributes, and protobuf's own JSON as its data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import cloudevents
from relay_fakes import STORE, event

DETAIL: dict[str, Any] = {
    "request": {"cluster": "prod", "validate_only": False, "names": ["a", None, 1.5, -3, {}]},
    "decision": {"epoch": 3, "regions": {"eu": {"state": "REVOKED"}, "": []}},
}


def full() -> pb.Event:
    """Returns an event with every field set."""
    made = pb.Event(kind=pb.EVENT_KIND_REFUSAL, regions=["eu", "us"])
    for number, field in enumerate(pb.Event.DESCRIPTOR.fields, 1):
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(made, field.name, f"{field.name} \u00e9\n")
        elif field.type in (field.TYPE_INT64, field.TYPE_UINT64):
            setattr(made, field.name, number * 10**16)
    made.cluster_uid = bytes(range(16))
    made.time.FromJsonString("2026-11-30T12:00:00.123456789Z")
    made.detail.update(DETAIL)
    return made


@pytest.mark.parametrize(
    "made",
    [full(), event(1), pb.Event(), pb.Event(kind=pb.EventKind.ValueType(77))],
    ids=["full", "plain", "empty", "new"],
)
def test_the_data_is_protobufs_json(made: pb.Event) -> None:
    """`data` is the event as `--json` prints it, of every field and of kinds of later releases."""
    expected = MessageToDict(made, preserving_proto_field_name=True)
    expected.setdefault("time", "1970-01-01T00:00:00Z")
    assert json.loads(cloudevents.made(made, STORE).body)["data"] == expected


def test_the_same_event_has_the_same_bytes() -> None:
    """Two copies of one event can be compared, also where its maps were made in another order."""
    one, other = full(), full()
    other.detail.Clear()
    other.detail.update({name: DETAIL[name] for name in ("decision", "request")})
    assert cloudevents.made(one, STORE).body == cloudevents.made(other, STORE).body


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"cluster": "prod", "key_uri": "local:eu", "organization": "acme"}, "prod"),
        ({"key_uri": "local:eu", "organization": "acme"}, "local:eu"),
        ({"organization": "acme"}, "acme"),
    ],
)
def test_the_subject_is_what_the_event_concerns(fields: dict[str, str], subject: str) -> None:
    """The subject is the cluster, else the root key, else the organization."""
    made = cloudevents.made(pb.Event(number=1, id="ab", **fields), STORE)  # type: ignore[arg-type]
    assert json.loads(made.body)["subject"] == subject
    assert "subject" not in json.loads(cloudevents.made(pb.Event(), STORE).body)


def test_an_event_is_one_line() -> None:
    """No text of a caller ends a line of a file early."""
    assert b"\n" not in cloudevents.made(full(), STORE).body
