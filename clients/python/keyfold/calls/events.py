"""The calls of the event service: ListEvents page by page, VerifyEvents, GetAnchor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.arguments import checked
from keyfold.calls.call import EVENTS, Call, Plane
from keyfold.models.events import Anchor, AnchorCheck, Event, EventKind, Verification
from keyfold.v1 import event_service_pb2 as api

MAX_ANCHORS: Final = 1_000
"""Most anchors that one call takes."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The filter of `list_events`. An event must match every field that is set.

    Attributes:
        cluster: What concerns this cluster, or a root key that its regions have now.
        organization: What concerns this organization, or a root key that its clusters have now.
        key_uri: What concerns a root key of this uri, or names it.
        caller: What this caller did.
        kinds: The kinds, one of which must match; empty: all.
        outcome: The outcome, such as `done` or `KEY_DISABLED`.
        only_refused: Whether only what was refused or failed matches.
        start: The earliest time.
        end: The time before which the event was.
        action: The action, such as `rpc:cluster:revoke`.
        first: The lowest number.
        last: The highest number; 0 sets no bound.

    Times without a zone are local times.
    """

    cluster: str = ""
    organization: str = ""
    key_uri: str = ""
    caller: str = ""
    kinds: tuple[EventKind, ...] = ()
    outcome: str = ""
    only_refused: bool = False
    start: datetime | None = None
    end: datetime | None = None
    action: str = ""
    first: int = 0
    last: int = 0

    def to_message(self) -> api.EventFilter:
        """Returns the protobuf message."""
        return api.EventFilter(
            cluster=self.cluster,
            organization=self.organization,
            key_uri=self.key_uri,
            caller=self.caller,
            kinds=[kind.to_message() for kind in self.kinds],
            outcome=self.outcome,
            only_refused=self.only_refused,
            start_time=stamp(self.start),
            end_time=stamp(self.end),
            action=self.action,
            first_number=self.first,
            last_number=self.last,
        )


EVERY_EVENT: Final = EventFilter()
"""The filter that every event matches."""

EventPage: TypeAlias = Call[api.ListEventsResponse, tuple[Event, ...]]
"""The call for one page of events."""


@checked
def first_events(narrow: EventFilter, *, newest_first: bool, page_size: int) -> EventPage:
    """Prepares the call for the first page of events."""
    request = api.ListEventsRequest(
        filter=narrow.to_message(), newest_first=newest_first, page_size=page_size
    )
    return Call("ListEvents", request, events_of, Plane.CONTROL, service=EVENTS)


def events_of(response: api.ListEventsResponse) -> tuple[Event, ...]:
    """Reads the events of a page."""
    return tuple(map(Event.from_message, response.events))


def get_anchor() -> Call[api.GetAnchorResponse, Anchor]:
    """Prepares a GetAnchor call."""
    return Call(
        "GetAnchor", api.GetAnchorRequest(), Anchor.from_message, Plane.CONTROL, service=EVENTS
    )


class LogWalk:
    """A walk over the server's log, call by call, and what it has shown so far.

    Attributes:
        call: The next call; None once the walk has ended.
        whole: The responses, merged into one.
    """

    @checked
    def __init__(self, anchors: Iterable[str] = ()) -> None:
        """Begins at the oldest entry; the log is held against the anchors on the way."""
        self._anchors: Sequence[str] = tuple(anchors)
        self.whole = api.VerifyEventsResponse()
        self.call: Call[api.VerifyEventsResponse, Verification] | None = self._next("")

    def took(self, response: api.VerifyEventsResponse) -> None:
        """Takes the response to the call, and prepares the next one."""
        whole = self.whole
        whole.first_number = whole.first_number or response.first_number
        whole.pruned_number = whole.pruned_number or response.pruned_number
        whole.newest_number = response.newest_number
        whole.last_number = max(whole.last_number, response.last_number)
        whole.anchors.extend(response.anchors)
        if response.HasField("broken") and not whole.HasField("broken"):
            whole.broken.CopyFrom(response.broken)
        ended = not response.next_page_token
        self.call = None if ended and not self._anchors else self._next(response.next_page_token)

    def _next(self, token: str) -> Call[api.VerifyEventsResponse, Verification]:
        some, self._anchors = self._anchors[:MAX_ANCHORS], self._anchors[MAX_ANCHORS:]
        request = api.VerifyEventsRequest(page_token=token, anchors=some)
        return Call("VerifyEvents", request, verification_of, Plane.CONTROL, service=EVENTS)


def verification_of(response: api.VerifyEventsResponse) -> Verification:
    """Reads what one response, or several merged into one, say of the log."""
    broken = response.broken if response.HasField("broken") else None
    return Verification(
        response.pruned_number,
        response.last_number,
        response.newest_number,
        None if broken is None else broken.number,
        "" if broken is None else broken.message,
        tuple(map(AnchorCheck.from_message, response.anchors)),
    )


def stamp(time: datetime | None) -> Timestamp | None:
    """Returns a time as a protobuf message; a time without a zone is a local time."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone())
    return stamp
