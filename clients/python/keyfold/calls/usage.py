"""The call ListUsage, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from google.protobuf.duration_pb2 import Duration

from keyfold.arguments import checked
from keyfold.calls.call import EVENTS, Call, Plane
from keyfold.calls.events import stamp
from keyfold.models.usage import UsageCount
from keyfold.v1 import event_service_pb2 as api


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """The filter of `list_usage`. A count must match every field that is set.

    Attributes:
        cluster: Uses of this cluster's keys.
        organization: Uses of the keys of this organization's clusters.
        caller: Uses by this caller.
        start: Uses in minutes that began at or after this time.
        end: Uses in minutes that began before this time.
        span: The time over which counts are added up: whole minutes, at most 31 days. Spans are
            counted from 1970 on, so one of a day begins at midnight UTC.

    Times without a zone are local times.
    """

    cluster: str = ""
    organization: str = ""
    caller: str = ""
    start: datetime | None = None
    end: datetime | None = None
    span: timedelta = timedelta(minutes=1)


ALL_USAGE: Final = UsageFilter()
"""The filter that every count matches."""

UsagePage: TypeAlias = Call[api.ListUsageResponse, tuple[UsageCount, ...]]
"""The call for one page of counts."""


@checked
def first_usage(narrow: UsageFilter, page_size: int) -> UsagePage:
    """Prepares the call for the first page of counts."""
    span = Duration()
    span.FromTimedelta(narrow.span)
    request = api.ListUsageRequest(
        cluster=narrow.cluster,
        organization=narrow.organization,
        caller=narrow.caller,
        start_time=stamp(narrow.start),
        end_time=stamp(narrow.end),
        span=span,
        page_size=page_size,
    )
    return Call("ListUsage", request, usage_of, Plane.CONTROL, service=EVENTS)


def usage_of(response: api.ListUsageResponse) -> tuple[UsageCount, ...]:
    """Reads the counts of a page."""
    return tuple(map(UsageCount.from_message, response.counts))
