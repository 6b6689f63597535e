"""What a watch tells: the states of clusters, heartbeats, and the end of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from keyfold.models.answer import Answer
from keyfold.models.events import Event
from keyfold.models.status import Health, State
from keyfold.v1 import event_service_pb2 as api


@dataclass(frozen=True, slots=True)
class GenerationState(Answer):
    """The state of one generation of a cluster's region.

    Attributes:
        generation: The number of the generation.
        kek_id: The 16 bytes that identify its KEK inside every wrapped key.
        retired: Whether it was taken out of use.
    """

    generation: int
    kek_id: bytes
    retired: bool


@dataclass(frozen=True, slots=True)
class RegionState(Answer):
    """The state of a region of a cluster.

    Attributes:
        region: The name of the region.
        state: The state that the operator set.
        health: The last answer of the customer's KMS, when the server's log last told of a change.
        can_wrap: Whether the root key wraps; None if unknown.
        can_unwrap: Whether the root key unwraps; None if unknown.
        generations: The generations, the newest last.
        refusal: The number of the newest event that tells of a refusal of the root key, 0 for none.
            If it grows, the KMS refused the key in between, even if it is healthy again.
        cache_ttl: How long the server itself uses a key after one answer of the KMS.
    """

    region: str
    state: State
    health: Health
    can_wrap: bool | None = None
    can_unwrap: bool | None = None
    generations: tuple[GenerationState, ...] = ()
    refusal: int = 0
    cache_ttl: timedelta = timedelta()

    @classmethod
    def from_message(cls, message: api.RegionState) -> RegionState:
        """Reads the protobuf message."""
        return cls(
            region=message.region,
            state=State.from_message(message.state),
            health=Health.from_message(message.health),
            can_wrap=message.can_wrap if message.HasField("can_wrap") else None,
            can_unwrap=message.can_unwrap if message.HasField("can_unwrap") else None,
            generations=tuple(
                GenerationState(one.generation, one.kek_id, one.retired)
                for one in message.generations
            ),
            refusal=message.refusal,
            cache_ttl=message.cache_ttl.ToTimedelta(),
        )


@dataclass(frozen=True, slots=True)
class ClusterState(Answer):
    """The state of a cluster, as far as it matters to who uses its keys.

    Attributes:
        cluster: The name of the cluster.
        uid: The cluster's uid. A later cluster of the same name has another one.
        organization: The organization that the cluster belongs to.
        epoch: The epoch, which every Revoke raises.
        exists: False if the cluster does not exist, or the caller may not see it.
        banned: Whether the cluster's name is banned.
        not_authentic: Whether the cluster's rows in the server's store are not authentic.
        regions: The regions that the caller may see.
    """

    cluster: str
    uid: bytes = b""
    organization: str = ""
    epoch: int = 0
    exists: bool = False
    banned: bool = False
    not_authentic: bool = False
    regions: tuple[RegionState, ...] = ()

    @classmethod
    def from_message(cls, message: api.ClusterState) -> ClusterState:
        """Reads the protobuf message."""
        return cls(
            cluster=message.cluster,
            uid=message.uid,
            organization=message.organization,
            epoch=message.epoch,
            exists=message.exists,
            banned=message.banned,
            not_authentic=message.not_authentic,
            regions=tuple(map(RegionState.from_message, message.regions)),
        )


@dataclass(frozen=True, slots=True)
class Heartbeat(Answer):
    """A sign of life of the server.

    Attributes:
        store_age: Time since a look of the server at its store of which this watch has been told
            everything; None while it has not caught up.
        max_store_age: The age at which the server ends the stream.
        number: Of a watch of events, the number of the last event that the stream has passed.
        stream_age: Time since the server began the stream, by its own clock.
    """

    store_age: timedelta | None
    max_store_age: timedelta
    number: int
    stream_age: timedelta = timedelta()

    @classmethod
    def from_message(cls, message: api.Heartbeat) -> Heartbeat:
        """Reads the protobuf message."""
        age = message.store_age.ToTimedelta() if message.HasField("store_age") else None
        return cls(
            store_age=age,
            max_store_age=message.max_store_age.ToTimedelta(),
            number=message.number,
            stream_age=message.stream_age.ToTimedelta(),
        )


@dataclass(frozen=True, slots=True)
class SnapshotEnd(Answer):
    """The end of a snapshot: all that exists has been told."""


WatchMessage: TypeAlias = ClusterState | Event | Heartbeat | SnapshotEnd
"""What a watch yields."""


def watch_message(response: api.WatchEventsResponse) -> WatchMessage | None:
    """Reads a message of the stream; None for a kind that is newer than this client."""
    match response.WhichOneof("message"):
        case "state":
            return ClusterState.from_message(response.state)
        case "event":
            return Event.from_message(response.event)
        case "heartbeat":
            return Heartbeat.from_message(response.heartbeat)
        case "snapshot_end":
            return SnapshotEnd()
    return None


@dataclass(frozen=True, slots=True)
class Cursor(Answer):
    """A named place among the events, which the server keeps for a reader.

    Attributes:
        name: The name of the cursor.
        number: The number of the last event that its reader has dealt with.
        advance_time: The time at which a reader advanced it last, or began to watch with it.
        expire_time: The time at which it expires if nobody advances it before.
        behind: The number of events after it.
        caller: The name of the caller that it belongs to.
        create_time: The time at which it was made.
        expired: Whether it has expired.
    """

    name: str
    number: int
    advance_time: datetime
    expire_time: datetime
    behind: int
    caller: str
    create_time: datetime
    expired: bool

    @classmethod
    def from_message(cls, message: api.Cursor) -> Cursor:
        """Reads the protobuf message."""
        return cls(
            name=message.name,
            number=message.number,
            advance_time=message.advance_time.ToDatetime(UTC),
            expire_time=message.expire_time.ToDatetime(UTC),
            behind=message.behind,
            caller=message.caller,
            create_time=message.create_time.ToDatetime(UTC),
            expired=message.expired,
        )
