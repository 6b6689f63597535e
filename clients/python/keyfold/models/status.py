"""What is known of a cluster and its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.v1 import resources_pb2 as resources


def enum_name(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """Returns the name of an enum's value without its prefix, or the number if it is unknown."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(prefix) if value else str(number)


class State(StrEnum):
    """What the operator wants of a region's key. `UNSPECIFIED`: newer than this client."""

    UNSPECIFIED = "UNSPECIFIED"
    ENABLED = "ENABLED"
    REVOKED = "REVOKED"

    def to_message(self) -> resources.State.ValueType:
        """Returns the contract's form."""
        return resources.State.Value(f"STATE_{self.value}")

    @classmethod
    def from_message(cls, number: resources.State.ValueType) -> State:
        """Reads the contract's form; a number that this client does not know is UNSPECIFIED."""
        name = enum_name(resources.State.DESCRIPTOR, number, "STATE_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


class Health(StrEnum):
    """What the customer's KMS last answered about a region's key, or that it did not answer.

    `UNSPECIFIED` is a health newer than this client; `UNKNOWN`, that the KMS has not been asked.
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
        """Returns the contract's form."""
        return resources.Health.Value(f"HEALTH_{self.value}")

    @classmethod
    def from_message(cls, number: resources.Health.ValueType) -> Health:
        """Reads the contract's form; a number that this client does not know is UNSPECIFIED."""
        name = enum_name(resources.Health.DESCRIPTOR, number, "HEALTH_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


def _time(stamp: Timestamp) -> datetime | None:
    """Returns the time in UTC; the contract's unset is its zero, which nothing here dates from."""
    return stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None


@dataclass(frozen=True, slots=True)
class GenerationWrap:
    """One wrapping of a generation by a root key.

    Attributes:
        type: The provider type of the root key.
        uri: The uri of the root key.
        key_version: The root key's version, as the provider writes it.
        create_time: When it was wrapped.
        supersede_time: When another wrap took its place; None for the current one.
    """

    type: str
    uri: str
    key_version: str
    create_time: datetime | None
    supersede_time: datetime | None


@dataclass(frozen=True, slots=True)
class Generation:
    """One key encryption key of a cluster's region.

    The newest wraps, all but retired ones unwrap.

    Attributes:
        generation: 1, 2, 3 … within the region.
        kek_id: The 16 bytes that name it inside every wrapped key.
        create_time: When it was made.
        wraps: Every wrapping there ever was, oldest first; the last is the current one.
        retire_time: Since when it opens nothing any more; None for one that is in use.
        last_use_time: When it last wrapped or unwrapped, to about a minute; None: never.
    """

    generation: int
    kek_id: bytes
    create_time: datetime | None
    wraps: tuple[GenerationWrap, ...]
    retire_time: datetime | None
    last_use_time: datetime | None

    @classmethod
    def from_message(cls, message: resources.Generation) -> Generation:
        """Reads the contract's form."""
        wraps = (
            GenerationWrap(
                wrap.type,
                wrap.uri,
                wrap.key_version,
                _time(wrap.create_time),
                _time(wrap.supersede_time),
            )
            for wrap in message.wraps
        )
        return cls(
            message.generation,
            message.kek_id,
            _time(message.create_time),
            tuple(wraps),
            _time(message.retire_time),
            _time(message.last_use_time),
        )


@dataclass(frozen=True, slots=True)
class KmsFailure:
    """The last thing that went wrong between Keyfold and the customer's KMS.

    Attributes:
        reason: A stable word, such as `KEY_DISABLED`.
        message: One line for people.
        request_id: The provider's own id of the failed call, where it gave one.
        missing_permission: The permission that is missing, where the provider names it.
    """

    reason: str
    message: str
    request_id: str
    missing_permission: str

    @classmethod
    def from_message(cls, message: resources.KmsError) -> KmsFailure:
        """Reads the contract's form."""
        return cls(message.reason, message.message, message.request_id, message.missing_permission)


@dataclass(frozen=True, slots=True)
class RegionStatus:
    """What is known of one region.

    Attributes:
        region: The region's name.
        key_spec: The root key as the operator wrote it.
        policy: The region's policy; what is None takes the server's.
        state: What the operator wants.
        state_time: Since when.
        health: What the KMS last answered.
        health_time: Since when it has answered that.
        key_version: The root key's version that wraps the newest generation.
        generations: Oldest first.
        can_wrap: Whether the root key wraps; None where it was not tried, or is revoked.
        can_unwrap: Whether the root key unwraps; None as above.
        last_check_time: When the KMS was last asked.
        last_success_time: When it last unwrapped.
        last_error: The last failure; None while all is well.
        key_owner: Whose key it is: `CLUSTER`, or `PLATFORM` for the vendor's own.
        key_region: The provider's own name of the region in which the root key is, where its
            uri tells; empty otherwise.
        notices: What an operator should know and no error says, one line each.
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
    last_check_time: datetime | None
    last_success_time: datetime | None
    last_error: KmsFailure | None
    key_owner: str
    key_region: str
    notices: tuple[str, ...]

    @classmethod
    def from_message(cls, message: resources.RegionStatus) -> RegionStatus:
        """Reads the contract's form."""
        return cls(
            region=message.region,
            key_spec=KeySpec.from_message(message.key_spec),
            policy=RegionPolicy.from_message(message.policy),
            state=State.from_message(message.state),
            state_time=_time(message.state_time),
            health=Health.from_message(message.health),
            health_time=_time(message.health_time),
            key_version=message.key_version,
            generations=tuple(map(Generation.from_message, message.generations)),
            can_wrap=message.can_wrap if message.HasField("can_wrap") else None,
            can_unwrap=message.can_unwrap if message.HasField("can_unwrap") else None,
            last_check_time=_time(message.last_check_time),
            last_success_time=_time(message.last_success_time),
            last_error=KmsFailure.from_message(message.last_error)
            if message.HasField("last_error")
            else None,
            key_owner=enum_name(resources.KeyOwner.DESCRIPTOR, message.key_owner, "KEY_OWNER_"),
            key_region=message.key_region,
            notices=tuple(message.notices),
        )


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What is known of a cluster.

    Attributes:
        cluster: The cluster's name.
        organization: The customer's organization, empty where none was named.
        regions: Its regions, by name.
        create_time: When the cluster was enabled.
        update_time: When an operator last changed it.
    """

    cluster: str
    organization: str
    regions: tuple[RegionStatus, ...]
    create_time: datetime | None
    update_time: datetime | None

    @classmethod
    def from_message(cls, message: resources.ClusterStatus) -> ClusterStatus:
        """Reads the contract's form."""
        return cls(
            cluster=message.cluster,
            organization=message.organization,
            regions=tuple(map(RegionStatus.from_message, message.regions)),
            create_time=_time(message.create_time),
            update_time=_time(message.update_time),
        )


@dataclass(frozen=True, slots=True)
class PendingReplica:
    """A replica that has not confirmed a change yet.

    Attributes:
        replica: Its name.
        stops_by: When it will have stopped by itself, by the answering server's clock.
        stops_within: The same as a span from the answer.
    """

    replica: str
    stops_by: datetime | None
    stops_within: timedelta

    @classmethod
    def from_message(cls, message: resources.PendingReplica) -> PendingReplica:
        """Reads the contract's form."""
        return cls(message.replica, _time(message.stops_by), message.stops_within.ToTimedelta())
