"""What `key_usage` says of an action that a customer may take at the KMS."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from keyfold.models.answer import Answer
from keyfold.models.status import enum_name
from keyfold.v1 import key_management_service_pb2 as api


class WhatIf(StrEnum):
    """What a customer may do to a root key, at the KMS."""

    DISABLE = "DISABLE"
    DELETE = "DELETE"
    REMOVE_WRAP_PERMISSION = "REMOVE_WRAP_PERMISSION"
    REMOVE_UNWRAP_PERMISSION = "REMOVE_UNWRAP_PERMISSION"
    REMOVE_DESCRIBE_PERMISSION = "REMOVE_DESCRIBE_PERMISSION"
    REMOVE_PRINCIPAL = "REMOVE_PRINCIPAL"

    def to_message(self) -> api.WhatIf.ValueType:
        """Returns the protobuf value."""
        return api.WhatIf.Value(f"WHAT_IF_{self.value}")


class ImpactTime(StrEnum):
    """When something stops. `UNSPECIFIED` stands for a time newer than this client.

    `AT_ONCE`: with the next call to the KMS, and everywhere with a recheck. `AFTER_TTL`: within
    `KeyImpact.stops_within`, whatever a recheck finds. `NEVER`: nothing stops.
    """

    UNSPECIFIED = "UNSPECIFIED"
    AT_ONCE = "AT_ONCE"
    AFTER_TTL = "AFTER_TTL"
    NEVER = "NEVER"

    @classmethod
    def from_message(cls, number: api.ImpactTime.ValueType) -> ImpactTime:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.ImpactTime.DESCRIPTOR, number, "IMPACT_TIME_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class KeyImpact(Answer):
    """What an action does to one use of a root key, if the key works today.

    Attributes:
        stops_wrap: Whether `wrap` and `generate_data_key` stop for the region.
        stops_unwrap: Whether `unwrap` stops for what the generation wrapped.
        stops_rotation: Whether `rotate` stops for the region: while it stays with its key and, if
            the KMS no longer opens the KEK, to any other key as well.
        when: When it stops.
        stops_within: The time after which it has stopped at the latest, even if nobody rechecks.
        code: The name of the gRPC code that callers will see; empty if nothing stops.
        reason: The reason that callers will see; empty if nothing stops.
        resumes: Whether it works again by itself once the action has been taken back.
        needs: What a person has to do besides that; empty: nothing, or nothing helps.
        because: Why it is so.
    """

    stops_wrap: bool
    stops_unwrap: bool
    stops_rotation: bool
    when: ImpactTime
    stops_within: timedelta
    code: str
    reason: str
    resumes: bool
    needs: str
    because: str

    @property
    def stops(self) -> bool:
        """Whether anything stops."""
        return self.stops_wrap or self.stops_unwrap or self.stops_rotation

    @classmethod
    def from_message(cls, message: api.KeyImpact) -> KeyImpact:
        """Reads the protobuf message."""
        return cls(
            stops_wrap=message.stops_wrap,
            stops_unwrap=message.stops_unwrap,
            stops_rotation=message.stops_rotation,
            when=ImpactTime.from_message(message.when),
            stops_within=message.stops_within.ToTimedelta(),
            code=message.code,
            reason=message.reason,
            resumes=message.resumes,
            needs=message.needs,
            because=message.because,
        )
