"""Converts events and their filters between the contract's messages and plain values."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.v1 import event_service_pb2 as pb
from keyfold_server.domain.errors import InvalidPageError
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.usage import MINUTE, UsageFilter
from keyfold_server.rpc.messages import requests
from keyfold_server.rpc.messages.replies import time_of
from keyfold_server.service.events.anchors import AnchorCheck, AnchorOutcome
from keyfold_server.service.events.listing import VisibleEvent
from keyfold_server.service.events.log_checks import VerifiedResult
from keyfold_server.service.events.usage import UsageCount

_MOST: Final = 1 << 61
"""A number that no event has."""

_KINDS: Final = {kind: pb.EventKind.Value(f"EVENT_KIND_{kind.value}") for kind in EntryKind}
_ANCHORS: Final = {o: pb.AnchorOutcome.Value(f"ANCHOR_OUTCOME_{o.name}") for o in AnchorOutcome}
_OF: Final = {number: kind for kind, number in _KINDS.items()}


def event(shown: VisibleEvent) -> pb.Event:
    """Returns an event as a caller may see it."""
    told = shown.event
    message = pb.Event(
        number=told.number,
        id=told.entry_id.hex(),
        time=time_of(told.time),
        kind=_KINDS[told.kind],
        action=told.action,
        outcome=told.outcome,
        cluster=told.cluster or "",
        cluster_uid=(told.uid or b"") if told.cluster is not None else b"",
        organization=told.organization or "",
        regions=shown.regions,
        caller=told.caller,
        proof=told.proof,
        address=told.address,
        on_behalf_of=told.on_behalf_of,
        reason=told.reason,
        request_id=told.request_id,
        trace_id=told.trace_id,
        replica=told.replica,
        epoch=told.epoch or 0,
    )
    if not shown.whole:
        return message
    message.message, message.kms_request_id = told.message, told.kms_request_id
    if told.key is not None:
        message.key_type, message.key_uri = told.key.type, told.key.uri
        message.key_principal = told.key.principal
    detail = {"request": told.request, "decision": told.decision}
    message.detail.CopyFrom(_struct({name: each for name, each in detail.items() if each}))
    return message


def _struct(values: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


def verified(result: VerifiedResult) -> pb.VerifyEventsResponse:
    """Returns the response of VerifyEvents."""
    check = result.check
    reply = pb.VerifyEventsResponse(
        pruned_number=check.pruned,
        first_number=check.first,
        last_number=check.last.number,
        newest_number=check.newest,
        next_page_token=result.next_token,
        anchors=[_anchor_check(each) for each in result.anchors],
    )
    if check.broken is not None:
        reply.broken.number, reply.broken.message = check.broken, result.message
    return reply


def _anchor_check(held: AnchorCheck) -> pb.AnchorCheck:
    message = pb.AnchorCheck(outcome=_ANCHORS[held.outcome], message=held.message)
    if held.anchor is not None:
        message.number = held.anchor.number
        message.time.CopyFrom(time_of(held.anchor.time))
    return message


def event_filter(message: pb.EventFilter) -> EventFilter:
    """Returns the filter of ListEvents.

    Raises:
        InvalidPageError: A kind is a number that the contract does not list, or a time is not
            one that the contract allows.
        MalformedRequestError: A text holds a NUL.
    """
    unknown = [number for number in message.kinds if number not in _OF]
    if unknown:
        raise InvalidPageError(
            "the contract does not list this kind of event; leave it out", field="filter.kinds"
        )
    return EventFilter(
        cluster=requests.sought(message.cluster, "filter.cluster"),
        organization=requests.sought(message.organization, "filter.organization"),
        key_uri=requests.sought(message.key_uri, "filter.key_uri"),
        caller=requests.sought(message.caller, "filter.caller"),
        kinds=frozenset(_OF[number] for number in message.kinds),
        outcome=requests.sought(message.outcome, "filter.outcome"),
        only_refused=message.only_refused,
        start=_milliseconds(message, "start_time"),
        end=_milliseconds(message, "end_time"),
        action=requests.sought(message.action, "filter.action"),
        first=_number(message.first_number, "first_number"),
        last=_number(message.last_number, "last_number") or None,
    )


def _number(given: int, field: str) -> int:
    """Returns the number of an event, or refuses one that no database could look for."""
    if given < 0:
        raise InvalidPageError("the numbers of events begin with 1", field=f"filter.{field}")
    return min(given, _MOST)


def usage_filter(message: pb.ListUsageRequest) -> UsageFilter:
    """Returns the filter of ListUsage."""
    span = message.span.ToMilliseconds() if message.HasField("span") else MINUTE
    return UsageFilter(
        cluster=requests.sought(message.cluster, "cluster"),
        organization=requests.sought(message.organization, "organization"),
        caller=requests.sought(message.caller, "caller"),
        start=_milliseconds(message, "start_time"),
        end=_milliseconds(message, "end_time"),
        span=span,
    )


def usage_count(counted: UsageCount) -> pb.UsageCount:
    """Returns a count of uses."""
    key = counted.key
    return pb.UsageCount(
        start_time=time_of(key.time),
        cluster=key.cluster,
        organization=counted.organization or "",
        region=key.region,
        caller=key.caller,
        method=key.method,
        outcome=key.outcome,
        count=counted.count,
    )


def _milliseconds(message: pb.EventFilter | pb.ListUsageRequest, field: str) -> int | None:
    """Returns a time in whole milliseconds, rounded up: no event lies between two of them."""
    if not message.HasField(field):  # type: ignore[arg-type]  # one of two names
        return None
    stamp: Timestamp = getattr(message, field)
    time = stamp.seconds * 1_000 + -(-stamp.nanos // 1_000_000)
    # No database holds a time that is further away.
    return max(-_MOST, min(time, _MOST))
