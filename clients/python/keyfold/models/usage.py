"""The results of `list_usage`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from keyfold.models.answer import Answer
from keyfold.v1 import event_service_pb2 as api


@dataclass(frozen=True, slots=True)
class UsageCount(Answer):
    """How often a caller used the keys of a cluster's region in one way, with one outcome.

    Attributes:
        start: When the span began over which the uses were added up.
        cluster: The cluster's name.
        organization: The organization to which the cluster belongs now; empty if to none.
        region: The region's name; empty if the call does not show it, as that of `rewrap`.
        caller: The caller's name.
        method: The method's name, such as `Unwrap`; the items of a batch count one by one.
        outcome: `OK`, or the reason of the error.
        count: How many uses.
    """

    start: datetime
    cluster: str
    organization: str
    region: str
    caller: str
    method: str
    outcome: str
    count: int

    @classmethod
    def from_message(cls, message: api.UsageCount) -> UsageCount:
        """Reads the protobuf message."""
        return cls(
            message.start_time.ToDatetime(UTC),
            message.cluster,
            message.organization,
            message.region,
            message.caller,
            message.method,
            message.outcome,
            message.count,
        )
