"""An event of Keyfold as a CloudEvent 1.0 in JSON.

    id               STORE/NUMBER/ID: names the event for ever, so that receivers drop duplicates
    source           urn:keyfold:STORE
    type             com.keyfold. and the action, such as com.keyfold.rpc.cluster.revoke
    subject          what it concerns: the cluster, else the root key's uri, else the organization
    time             when it happened, by the store's clock
    sequence         the event's number, so that receivers can check the order
    data             the event, with the field names of the contract and without empty fields

The same event always becomes the same bytes, so that a receiver can compare two copies.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Struct, Value

from keyfold.v1 import event_service_pb2 as pb

SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"

SCHEMA: Final = "urn:keyfold:schema:keyfold.v1.Event"
"""Names the form of `data`: the message `Event` of the contract, in the JSON of protobuf."""

CHECK: Final = "com.keyfold.relay.check"
"""The type of the event that `keyfold-relay check` sends."""

USAGE: Final = "com.keyfold.usage"
"""The type of the event with a cluster's counts of use."""

_PREFIX: Final = "com.keyfold."
_dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event, ready to be sent.

    Attributes:
        number: The event's number in the store's log.
        time: When it happened, in Unix seconds.
        body: The CloudEvent as JSON on one line, without a line's end.
        id: Its id.
    """

    number: int
    time: float
    body: bytes = field(repr=False)
    id: str


def made(event: pb.Event, store: str) -> CloudEvent:
    """Returns an event as a CloudEvent.

    Args:
        event: The event.
        store: The uid of the store in whose log it is.
    """
    identity = f"{store}/{event.number}/{event.id}"
    data = {name: write(event) for name, write in _FIELDS if getattr(event, name)}
    data["time"] = event.time.ToJsonString()
    if event.HasField("detail"):
        data["detail"] = _struct(event.detail)
    content = {
        "specversion": "1.0",
        "id": identity,
        "source": f"urn:keyfold:{store}",
        "type": _PREFIX + event.action.replace(":", "."),
        "subject": event.cluster or event.key_uri or event.organization,
        "time": data["time"],
        "datacontenttype": "application/json",
        "dataschema": SCHEMA,
        # Of one length, because the extension's values are compared as text.
        "sequence": f"{event.number:020d}",
        "data": data,
    }
    if not content["subject"]:
        del content["subject"]
    time = event.time.seconds + event.time.nanos / 1e9
    return CloudEvent(event.number, time, _dumps(content).encode(), identity)


def usage(counts: Sequence[pb.UsageCount], start: int, span: int, store: str) -> CloudEvent:
    """Returns the uses of one cluster's keys in a span as a CloudEvent.

    Args:
        counts: The counts, one at least, all of one cluster.
        start: Unix seconds at which the span begins.
        span: Its length in seconds.
        store: The uid of the store.
    """
    cluster = counts[0].cluster
    begin = datetime.fromtimestamp(start, UTC)
    identity = f"{store}/usage/{begin:%Y%m%dT%H%MZ}/{span}/{cluster}"
    data = {
        "cluster": cluster,
        "organization": counts[0].organization,
        "start_time": f"{begin:%Y-%m-%dT%H:%M:%S}Z",
        "span": f"{span}s",
        "counts": [
            {
                "region": each.region,
                "caller": each.caller,
                "method": each.method,
                "outcome": each.outcome,
                "count": str(each.count),
            }
            for each in counts
        ],
    }
    content = {
        "specversion": "1.0",
        "id": identity,
        "source": f"urn:keyfold:{store}",
        "type": USAGE,
        "subject": cluster,
        "time": f"{datetime.fromtimestamp(start + span, UTC):%Y-%m-%dT%H:%M:%S}Z",
        "datacontenttype": "application/json",
        "data": {name: value for name, value in data.items() if value},
    }
    return CloudEvent(0, float(start + span), _dumps(content).encode(), identity)


def check(now: datetime) -> CloudEvent:
    """Returns the event with which `keyfold-relay check` tries a target."""
    identity = f"check/{now:%Y%m%dT%H%M%S%fZ}"
    content = {
        "specversion": "1.0",
        "id": identity,
        "source": "urn:keyfold:relay",
        "type": CHECK,
        "time": f"{now:%Y-%m-%dT%H:%M:%S.%f}Z",
        "datacontenttype": "application/json",
        "data": {"message": "keyfold-relay check"},
    }
    return CloudEvent(0, now.timestamp(), _dumps(content).encode(), identity)


# Protobuf's own conversion to JSON takes several times as long, most of it for `detail`, and each
# event needs one. A test holds the two to one another.


def _struct(message: Struct) -> dict[str, Any]:
    # Sorted, because a map has no order of its own.
    return {name: _value(value) for name, value in sorted(message.fields.items())}


def _value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "struct_value":
            return _struct(value.struct_value)
        case "list_value":
            return [_value(each) for each in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "bool_value":
            return value.bool_value
    return None


def _writer(field: FieldDescriptor) -> Callable[[pb.Event], Any]:
    """Returns what gives a field the form that it has in protobuf's JSON."""
    name = field.name
    if field.is_repeated:
        return lambda event: list(getattr(event, name))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda event: b64encode(getattr(event, name)).decode()
    if field.type in {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}:
        return lambda event: str(getattr(event, name))
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        # A kind that this release does not know stays a number.
        return lambda event: names.get(getattr(event, name), getattr(event, name))
    return lambda event: getattr(event, name)


_FIELDS: Final = tuple(
    (one.name, _writer(one)) for one in pb.Event.DESCRIPTOR.fields if one.message_type is None
)
