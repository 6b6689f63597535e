"""The results of calls.

Each class reads its result from the response message. It holds a key as `Plaintext`, which Python
does not print; a protobuf message would print the key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Self

from google.protobuf.duration_pb2 import Duration

from keyfold.errors import KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.answer import Answer
from keyfold.models.plaintext import Plaintext
from keyfold.models.status import ClusterStatus, PendingReplica
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class Wrapped(Answer):
    """The result of `wrap`.

    Attributes:
        wrapped_key: The wrapped key, to store beside the data; 90 bytes longer than the plaintext.
        generation: The generation that wrapped it.
        max_cache_age: How long you may keep the plaintext in memory, from the beginning of the
            call; zero: not at all.
    """

    wrapped_key: bytes
    generation: int
    max_cache_age: timedelta = timedelta()

    @classmethod
    def from_message(cls, message: api.WrapResponse) -> Wrapped:
        """Reads the protobuf message."""
        age = _age(message.max_cache_age)
        return cls(message.wrapped_key, message.generation, age)


@dataclass(frozen=True, slots=True)
class Unwrapped(Answer):
    """The result of `unwrap`.

    Attributes:
        plaintext: The unwrapped key.
        region: The region that wrapped it.
        generation: The generation that wrapped it.
        max_cache_age: How long you may keep the plaintext in memory, from the beginning of the
            call; zero: not at all.
    """

    plaintext: Plaintext
    region: str
    generation: int
    max_cache_age: timedelta = timedelta()

    @classmethod
    def from_message(cls, message: api.UnwrapResponse) -> Unwrapped:
        """Reads the protobuf message."""
        age = _age(message.max_cache_age)
        return cls(Plaintext(message.plaintext), message.region, message.generation, age)


@dataclass(frozen=True, slots=True)
class DataKey(Answer):
    """The result of `generate_data_key`.

    Attributes:
        plaintext: The key, to encrypt with and then to forget; empty with `wrapped_only`.
        wrapped_key: The wrapped key, to store beside the data.
        generation: The generation that wrapped it.
        max_cache_age: How long you may keep the plaintext in memory, from the beginning of the
            call; zero: not at all.
    """

    plaintext: Plaintext
    wrapped_key: bytes
    generation: int
    max_cache_age: timedelta = timedelta()

    @classmethod
    def from_message(cls, message: api.GenerateDataKeyResponse) -> DataKey:
        """Reads the protobuf message."""
        age = _age(message.max_cache_age)
        return cls(Plaintext(message.plaintext), message.wrapped_key, message.generation, age)


@dataclass(frozen=True, slots=True)
class Rewrapped(Answer):
    """The result of `rewrap`.

    Attributes:
        wrapped_key: The wrapped key to store from now on.
        generation: The generation that wraps it now.
        already_current: Whether the newest generation had wrapped it already. Then `wrapped_key`
            is the one that the caller sent.
    """

    wrapped_key: bytes
    generation: int
    already_current: bool

    @classmethod
    def from_message(cls, message: api.RewrapResponse) -> Rewrapped:
        """Reads the protobuf message."""
        return cls(message.wrapped_key, message.generation, message.already_current)


@dataclass(frozen=True, slots=True)
class Change(Answer):
    """The part that the results of all changes of a cluster share.

    Attributes:
        status: The cluster as it is now; with `validate_only`, as it would be.
        replayed: Whether the server knew the request_id already, and did nothing again.
        superseded: Whether a later change has overtaken what the first request did.
    """

    status: ClusterStatus
    replayed: bool
    superseded: bool


@dataclass(frozen=True, slots=True)
class Enabled(Change):
    """The result of `enable`."""

    @classmethod
    def from_message(cls, message: api.EnableResponse) -> Enabled:
        """Reads the protobuf message."""
        status = ClusterStatus.from_message(message.status)
        return cls(status, message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class RegionsAdded(Change):
    """The result of `add_regions`."""

    @classmethod
    def from_message(cls, message: api.AddRegionsResponse) -> RegionsAdded:
        """Reads the protobuf message."""
        status = ClusterStatus.from_message(message.status)
        return cls(status, message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class Rotated(Change):
    """The result of `rotate`.

    Attributes:
        pending: The replicas that have not applied the rotation yet.
    """

    pending: tuple[PendingReplica, ...]

    @classmethod
    def from_message(cls, message: api.RotateResponse) -> Rotated:
        """Reads the protobuf message."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(map(PendingReplica.from_message, message.pending)),
        )


@dataclass(frozen=True, slots=True)
class _Acknowledged(Change):
    """The result of a change that stops use, once every replica has applied it."""

    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    operation: str

    @classmethod
    def from_message(cls, message: api.RevokeResponse | api.RetireGenerationResponse) -> Self:
        """Reads the protobuf message."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(message.confirmed),
            tuple(map(PendingReplica.from_message, message.pending)),
            message.operation,
        )


@dataclass(frozen=True, slots=True)
class Revoked(_Acknowledged):
    """The result of `revoke`.

    Attributes:
        confirmed: The replicas that have dropped the keys from memory.
        pending: The replicas that have not confirmed this yet, and when each stops by itself.
        operation: The name of the operation that shows which replicas have confirmed; see
            `wait_operation`.
        banned: Whether the server banned the cluster's name, because the cluster's stored rows are
            not authentic, or are gone. The status then has nothing but the name, and the rows need
            attention.
    """

    banned: bool = False

    @classmethod
    def from_message(cls, message: api.RevokeResponse | api.RetireGenerationResponse) -> Self:
        """Reads the protobuf message."""
        read = super(Revoked, cls).from_message(message)
        banned = isinstance(message, api.RevokeResponse) and message.banned
        return replace(read, banned=banned)


class Retired(_Acknowledged):
    """The result of `retire_generation`.

    Attributes:
        confirmed: The replicas that have applied it.
        pending: The replicas that have not confirmed this yet, and when each stops by itself.
        operation: The name of the operation that shows which replicas have confirmed.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class NotRestored(Answer):
    """A region that `restore` did not put into service; one that was revoked stays so.

    Attributes:
        region: The region's name.
        error: The failure to prove the region's key.
    """

    region: str
    error: KeyfoldError


@dataclass(frozen=True, slots=True)
class Restored(Change):
    """The result of `restore`.

    Attributes:
        restored: The names of the regions that are in service.
        not_restored: The regions whose keys the server could not prove.
    """

    restored: tuple[str, ...]
    not_restored: tuple[NotRestored, ...]

    @classmethod
    def from_message(cls, message: api.RestoreResponse) -> Restored:
        """Reads the protobuf message."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(message.restored),
            tuple(
                NotRestored(one.region, error_of(one.error, message.status.cluster))
                for one in message.not_restored
            ),
        )


def _age(message: Duration) -> timedelta:
    return _span(message.seconds, message.nanos)


@lru_cache(maxsize=64)
def _span(seconds: int, nanos: int) -> timedelta:
    """Returns a span of time. Regions have few different ones, and calls are many."""
    return timedelta(seconds=seconds, microseconds=nanos // 1000)
