"""The status of a cluster and its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.models.answer import Answer
from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.v1 import resources_pb2 as resources


def enum_name(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """Returns the name of an enum's value without its prefix, or the number if it is unknown."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(prefix) if value else str(number)


class State(StrEnum):
    """The state that the operator set for a region's key.

    `UNSPECIFIED` stands for a state newer than this client.
    """

    UNSPECIFIED = "UNSPECIFIED"
    ENABLED = "ENABLED"
    REVOKED = "REVOKED"
    DELETED = "DELETED"

    def to_message(self) -> resources.State.ValueType:
        """Returns the protobuf message."""
        return resources.State.Value(f"STATE_{self.value}")

    @classmethod
    def from_message(cls, number: resources.State.ValueType) -> State:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(resources.State.DESCRIPTOR, number, "STATE_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


class Health(StrEnum):
    """The last answer of the customer's KMS about a region's key, or its failure to answer.

    `UNSPECIFIED` stands for a health newer than this client. `UNKNOWN` means that Keyfold has not
    asked the KMS yet.
    """

    UNSPECIFIED = "UNSPECIFIED"
    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    ACCESS_DENIED = "ACCESS_DENIED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_PENDING_DELETION = "KEY_PENDING_DELETION"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_INVALID = "KEY_INVALID"
    KEK_MISMATCH = "KEK_MISMATCH"
    UNREACHABLE = "UNREACHABLE"
    THROTTLED = "THROTTLED"
    CREDENTIALS_FAILED = "CREDENTIALS_FAILED"

    def to_message(self) -> resources.Health.ValueType:
        """Returns the protobuf message."""
        return resources.Health.Value(f"HEALTH_{self.value}")

    @classmethod
    def from_message(cls, number: resources.Health.ValueType) -> Health:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(resources.Health.DESCRIPTOR, number, "HEALTH_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


def time_of(stamp: Timestamp) -> datetime | None:
    """Returns the time in UTC; None for zero, which is how the API leaves a time unset."""
    return stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None


@dataclass(frozen=True, slots=True)
class GenerationWrap(Answer):
    """One wrap of a generation by a root key.

    Attributes:
        type: The provider type of the root key.
        uri: The uri of the root key.
        key_version: The root key's version, in the provider's own form.
        create_time: The time of the wrap.
        supersede_time: The time at which another wrap took its place; None for the current one.
    """

    type: str
    uri: str
    key_version: str
    create_time: datetime | None
    supersede_time: datetime | None


@dataclass(frozen=True, slots=True)
class Generation(Answer):
    """One key encryption key (KEK) of a cluster's region.

    The newest generation wraps, and all but the retired ones unwrap.

    Attributes:
        generation: The number of the generation in its region, from 1.
        kek_id: The 16 bytes that identify the KEK inside every wrapped key.
        create_time: The time at which the server made the KEK.
        wraps: Its wraps; the last one is the current one. GetStatus gives all, oldest first. Other
            calls give only the current one.
        retire_time: The time from which it no longer unwraps; None if it is in use.
        last_use_time: The time of its last wrap or unwrap, to about a minute; None if it was
            never used.
    """

    generation: int
    kek_id: bytes
    create_time: datetime | None
    wraps: tuple[GenerationWrap, ...]
    retire_time: datetime | None
    last_use_time: datetime | None

    @classmethod
    def from_message(cls, message: resources.Generation) -> Generation:
        """Reads the protobuf message."""
        wraps = (
            GenerationWrap(
                wrap.type,
                wrap.uri,
                wrap.key_version,
                time_of(wrap.create_time),
                time_of(wrap.supersede_time),
            )
            for wrap in message.wraps
        )
        return cls(
            message.generation,
            message.kek_id,
            time_of(message.create_time),
            tuple(wraps),
            time_of(message.retire_time),
            time_of(message.last_use_time),
        )


@dataclass(frozen=True, slots=True)
class KmsFailure(Answer):
    """The last failure of a call to the customer's KMS.

    Attributes:
        reason: A stable word, such as `KEY_DISABLED`.
        message: One line for people.
        request_id: The provider's own id of the failed call, if it gave one.
        missing_permission: The permission that Keyfold lacks, if the provider names it.
    """

    reason: str
    message: str
    request_id: str
    missing_permission: str

    @classmethod
    def from_message(cls, message: resources.KmsError) -> KmsFailure:
        """Reads the protobuf message."""
        return cls(message.reason, message.message, message.request_id, message.missing_permission)


@dataclass(frozen=True, slots=True)
class RegionStatus(Answer):
    """The status of one region.

    Attributes:
        region: The region's name.
        key_spec: The root key as the operator wrote it.
        policy: The region's policy. A field that is None takes the server's default.
        state: The state that the operator set.
        state_time: The time at which that state began.
        health: The last answer of the KMS.
        health_time: The time at which that health began.
        key_version: The root key's version that wraps the newest generation.
        generations: All generations, oldest first.
        can_wrap: Whether the root key wraps; None if Keyfold has not tried, or the region is
            revoked.
        can_unwrap: Whether the root key unwraps; None as for `can_wrap`.
        can_describe: Whether Keyfold may describe the root key, which it can do without; None as
            for `can_wrap`, or if the provider cannot describe keys.
        last_check_time: The time at which Keyfold last asked the KMS.
        last_success_time: The time at which the KMS last unwrapped.
        last_error: The last failure; None while all is well.
        key_owner: The owner of the root key: `CLUSTER`, `ORGANIZATION` for a key link, or
            `PLATFORM` for the vendor.
        key_region: The provider's own name of the root key's region; empty if the uri does not
            tell.
        notices: Facts that an operator should know and that no error reports, one line each.
        purge_time: The time at which the server erases the keys of a region that is DELETED; None
            for any other state.
        final_after: The time at which the last backup with these keys is gone too; None as for
            `purge_time`.
        replica_of: The region whose key this region's key is the replica of: the two rotate
            together. Empty if the key is the region's own.
        geo: The geo for whose regions the key was given, with its replicas; empty if it was given
            for this region alone.
        key_link: The key link of the cluster's organization whose key the region uses; empty if it
            uses none.
    """

    region: str
    key_spec: KeySpec
    policy: RegionPolicy
    state: State
    state_time: datetime | None
    health: Health
    health_time: datetime | None
    key_version: str
    generations: tuple[Generation, ...] = field(repr=False)
    can_wrap: bool | None
    can_unwrap: bool | None
    can_describe: bool | None
    last_check_time: datetime | None
    last_success_time: datetime | None
    last_error: KmsFailure | None
    key_owner: str
    key_region: str
    notices: tuple[str, ...]
    purge_time: datetime | None = None
    final_after: datetime | None = None
    replica_of: str = ""
    geo: str = ""
    key_link: str = ""

    @classmethod
    def from_message(cls, message: resources.RegionStatus) -> RegionStatus:
        """Reads the protobuf message."""
        return cls(
            region=message.region,
            key_spec=KeySpec.from_message(message.key_spec),
            policy=RegionPolicy.from_message(message.policy),
            state=State.from_message(message.state),
            state_time=time_of(message.state_time),
            health=Health.from_message(message.health),
            health_time=time_of(message.health_time),
            key_version=message.key_version,
            generations=tuple(map(Generation.from_message, message.generations)),
            can_wrap=message.can_wrap if message.HasField("can_wrap") else None,
            can_unwrap=message.can_unwrap if message.HasField("can_unwrap") else None,
            can_describe=message.can_describe if message.HasField("can_describe") else None,
            last_check_time=time_of(message.last_check_time),
            last_success_time=time_of(message.last_success_time),
            last_error=KmsFailure.from_message(message.last_error)
            if message.HasField("last_error")
            else None,
            key_owner=enum_name(resources.KeyOwner.DESCRIPTOR, message.key_owner, "KEY_OWNER_"),
            key_region=message.key_region,
            notices=tuple(message.notices),
            purge_time=time_of(message.purge_time),
            final_after=time_of(message.final_after),
            replica_of=message.replica_of,
            geo=message.geo,
            key_link=message.key_link,
        )


@dataclass(frozen=True, slots=True)
class GeoStatus(Answer):
    """A geo for whose regions a cluster has one key.

    Attributes:
        geo: The geo's name in the server's settings.
        missing_regions: The regions that the geo has now and the cluster lacks, sorted.
    """

    geo: str
    missing_regions: tuple[str, ...]

    @classmethod
    def from_message(cls, message: resources.GeoStatus) -> GeoStatus:
        """Reads the protobuf message."""
        return cls(message.geo, tuple(message.missing_regions))


@dataclass(frozen=True, slots=True)
class ClusterStatus(Answer):
    """The status of a cluster.

    Attributes:
        cluster: The cluster's name.
        organization: The customer's organization; empty if the cluster does not have one.
        regions: The status of its regions, sorted by name.
        create_time: The time at which an operator enabled the cluster.
        update_time: The time of an operator's last change to it.
        declared_regions: All regions of the cluster, as `regions` of a call declared them, sorted;
            empty if no call did.
        geos: The geos for whose regions the cluster has one key, sorted by name.
    """

    cluster: str
    organization: str
    regions: tuple[RegionStatus, ...]
    create_time: datetime | None
    update_time: datetime | None
    declared_regions: tuple[str, ...] = ()
    geos: tuple[GeoStatus, ...] = ()

    @classmethod
    def from_message(cls, message: resources.ClusterStatus) -> ClusterStatus:
        """Reads the protobuf message."""
        return cls(
            cluster=message.cluster,
            organization=message.organization,
            regions=tuple(map(RegionStatus.from_message, message.regions)),
            create_time=time_of(message.create_time),
            update_time=time_of(message.update_time),
            declared_regions=tuple(message.declared_regions),
            geos=tuple(map(GeoStatus.from_message, message.geos)),
        )


@dataclass(frozen=True, slots=True)
class PendingReplica(Answer):
    """A replica that has not confirmed a change yet.

    Attributes:
        replica: The replica's name.
        stops_by: The time by which it stops by itself, on the clock of the server that answered.
        stops_within: The time left until then, counted from the response.
    """

    replica: str
    stops_by: datetime | None
    stops_within: timedelta

    @classmethod
    def from_message(cls, message: resources.PendingReplica) -> PendingReplica:
        """Reads the protobuf message."""
        return cls(message.replica, time_of(message.stops_by), message.stops_within.ToTimedelta())
