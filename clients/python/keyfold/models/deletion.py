"""The results of `delete_cluster` and `undelete_cluster`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyfold.models.answer import Answer
from keyfold.models.results import Change
from keyfold.models.status import ClusterStatus, PendingReplica, time_of
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class UnreadableGeneration(Answer):
    """A generation that a deletion makes unreadable, with everything that it wrapped.

    Attributes:
        region: The region's name.
        generation: The number of the generation in its region.
        kek_id: The 16 bytes that identify its KEK inside every wrapped key.
        create_time: The time at which the server made it.
        last_use_time: The time of its last wrap or unwrap, to about a minute; None if it was never
            used.
        recent_uses: How often callers used the region's keys in the last 30 days, whichever
            generation they used.
    """

    region: str
    generation: int
    kek_id: bytes
    create_time: datetime | None
    last_use_time: datetime | None
    recent_uses: int

    @classmethod
    def from_message(cls, message: api.UnreadableGeneration) -> UnreadableGeneration:
        """Reads the protobuf message."""
        return cls(
            message.region,
            message.generation,
            message.kek_id,
            time_of(message.create_time),
            time_of(message.last_use_time),
            message.recent_uses,
        )


@dataclass(frozen=True, slots=True)
class Deleted(Answer):
    """The result of `delete_cluster`.

    Attributes:
        status: The cluster as it is now; with `validate_only`, as it would be; None once the
            cluster is gone.
        losses: What becomes unreadable, by region and generation.
        purge_time: The time at which the server erases the keys. Until it has erased them,
            `undelete_cluster` takes the deletion back.
        final_after: The time at which the last backup with these keys is gone too.
        erased: Whether the server erased the keys at once, because nobody ever used the cluster.
            Then there are no losses and no times, and nothing is left to confirm or take back.
        confirmed: The replicas that have applied the deletion.
        pending: The replicas that have not confirmed this yet, and when each stops by itself.
        replayed: Whether the server knew the request_id already, and did nothing again.
        superseded: Whether a later change has overtaken what the first request did.
    """

    status: ClusterStatus | None
    losses: tuple[UnreadableGeneration, ...]
    purge_time: datetime | None
    final_after: datetime | None
    erased: bool
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    replayed: bool
    superseded: bool

    @classmethod
    def from_message(cls, message: api.DeleteClusterResponse) -> Deleted:
        """Reads the protobuf message."""
        return cls(
            status=ClusterStatus.from_message(message.status)
            if message.HasField("status")
            else None,
            losses=tuple(map(UnreadableGeneration.from_message, message.losses)),
            purge_time=time_of(message.purge_time),
            final_after=time_of(message.final_after),
            erased=message.erased,
            confirmed=tuple(message.confirmed),
            pending=tuple(map(PendingReplica.from_message, message.pending)),
            replayed=message.replayed,
            superseded=message.superseded,
        )


@dataclass(frozen=True, slots=True)
class Undeleted(Change):
    """The result of `undelete_cluster`."""

    @classmethod
    def from_message(cls, message: api.UndeleteClusterResponse) -> Undeleted:
        """Reads the protobuf message."""
        status = ClusterStatus.from_message(message.status)
        return cls(status, message.replayed, message.superseded)
