"""The result of `recheck`."""

from __future__ import annotations

from dataclasses import dataclass

from keyfold.errors import KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.answer import Answer
from keyfold.models.status import Health, PendingReplica
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class Rechecked(Answer):
    """What the KMS answered about the root key of a region.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        type: The root key's provider type; empty if Keyfold did not come to ask the KMS.
        uri: The root key's uri.
        key_version: The root key's version, in the provider's form.
        health: The answer; UNKNOWN if Keyfold did not come to ask the KMS.
        can_unwrap: Whether the root key unwraps; None if nobody knows.
        can_wrap: Whether the root key wraps; None if nobody knows.
        error: Why the root key does not unwrap, or does not wrap, or why nobody knows; None if it
            does both.
    """

    cluster: str
    region: str
    type: str
    uri: str
    key_version: str
    health: Health
    can_unwrap: bool | None
    can_wrap: bool | None
    error: KeyfoldError | None

    @classmethod
    def from_message(cls, message: api.RecheckResult) -> Rechecked:
        """Reads the protobuf message."""
        return cls(
            message.cluster,
            message.region,
            message.type,
            message.uri,
            message.key_version,
            Health.from_message(message.health),
            message.can_unwrap if message.HasField("can_unwrap") else None,
            message.can_wrap if message.HasField("can_wrap") else None,
            error_of(message.error, message.cluster) if message.HasField("error") else None,
        )


@dataclass(frozen=True, slots=True)
class Recheck(Answer):
    """The result of `recheck`.

    Attributes:
        results: The answers, one for each region or, where the call named a key, for each root key
            of that uri.
        confirmed: The replicas that have dropped the keys that the KMS refused; empty if it
            refused none.
        pending: The replicas that have not confirmed this yet, and when each stops by itself.
        more: Whether more root keys have the uri than one call proves.
    """

    results: tuple[Rechecked, ...]
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    more: bool

    @classmethod
    def from_message(cls, message: api.RecheckResponse) -> Recheck:
        """Reads the protobuf message."""
        return cls(
            tuple(map(Rechecked.from_message, message.results)),
            tuple(message.confirmed),
            tuple(map(PendingReplica.from_message, message.pending)),
            message.more,
        )
