"""What calls return.

Each class reads its answer from the contract's message, so that no message leaves the client and
no plaintext is in anything that prints itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from keyfold.errors import KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.plaintext import Plaintext
from keyfold.models.status import ClusterStatus, PendingReplica
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Answer of `wrap`.

    Attributes:
        wrapped_key: What to keep beside the data; 90 bytes longer than the plaintext.
        generation: The generation that wrapped it.
    """

    wrapped_key: bytes
    generation: int

    @classmethod
    def from_message(cls, message: api.WrapResponse) -> Wrapped:
        """Reads the contract's form."""
        return cls(message.wrapped_key, message.generation)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """Answer of `unwrap`.

    Attributes:
        plaintext: The key.
        region: The region that wrapped it.
        generation: The generation that wrapped it.
    """

    plaintext: Plaintext
    region: str
    generation: int

    @classmethod
    def from_message(cls, message: api.UnwrapResponse) -> Unwrapped:
        """Reads the contract's form."""
        return cls(Plaintext(message.plaintext), message.region, message.generation)


@dataclass(frozen=True, slots=True)
class DataKey:
    """Answer of `generate_data_key`.

    Attributes:
        plaintext: The key, to encrypt with and then to forget; empty with `wrapped_only`.
        wrapped_key: Its wrapped form, to keep beside the data.
        generation: The generation that wrapped it.
    """

    plaintext: Plaintext
    wrapped_key: bytes
    generation: int

    @classmethod
    def from_message(cls, message: api.GenerateDataKeyResponse) -> DataKey:
        """Reads the contract's form."""
        return cls(Plaintext(message.plaintext), message.wrapped_key, message.generation)


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """Answer of `rewrap`.

    Attributes:
        wrapped_key: The wrapped key to keep from now on.
        generation: The generation that wraps it now.
        already_current: It was current already, and is what was sent.
    """

    wrapped_key: bytes
    generation: int
    already_current: bool

    @classmethod
    def from_message(cls, message: api.RewrapResponse) -> Rewrapped:
        """Reads the contract's form."""
        return cls(message.wrapped_key, message.generation, message.already_current)


@dataclass(frozen=True, slots=True)
class Change:
    """What the answer of every change of a cluster begins with.

    Attributes:
        status: The cluster as it is now; with `validate_only`, as it would be.
        replayed: The request_id was seen before, and nothing was done again.
        superseded: Something later has changed what the first request did.
    """

    status: ClusterStatus
    replayed: bool
    superseded: bool


@dataclass(frozen=True, slots=True)
class Enabled(Change):
    """Answer of `enable`."""

    @classmethod
    def from_message(cls, message: api.EnableResponse) -> Enabled:
        """Reads the contract's form."""
        status = ClusterStatus.from_message(message.status)
        return cls(status, message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class RegionsAdded(Change):
    """Answer of `add_regions`."""

    @classmethod
    def from_message(cls, message: api.AddRegionsResponse) -> RegionsAdded:
        """Reads the contract's form."""
        status = ClusterStatus.from_message(message.status)
        return cls(status, message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class Rotated(Change):
    """Answer of `rotate`.

    Attributes:
        pending: Replicas that have not applied the rotation yet.
    """

    pending: tuple[PendingReplica, ...]

    @classmethod
    def from_message(cls, message: api.RotateResponse) -> Rotated:
        """Reads the contract's form."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(map(PendingReplica.from_message, message.pending)),
        )


@dataclass(frozen=True, slots=True)
class _Acknowledged(Change):
    """Answer of what every replica has to apply before use has stopped."""

    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]

    @classmethod
    def from_message(cls, message: api.RevokeResponse | api.RetireGenerationResponse) -> Self:
        """Reads the contract's form."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(message.confirmed),
            tuple(map(PendingReplica.from_message, message.pending)),
        )


class Revoked(_Acknowledged):
    """Answer of `revoke`.

    Attributes:
        confirmed: Replicas that have dropped the keys from memory.
        pending: Replicas that have not said so yet, and when each will have stopped by itself.
    """

    __slots__ = ()


class Retired(_Acknowledged):
    """Answer of `retire_generation`.

    Attributes:
        confirmed: Replicas that have applied it.
        pending: Replicas that have not said so yet, and when each will have stopped by itself.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class NotRestored:
    """A region that stays revoked, since its key could not be proven.

    Attributes:
        region: The region.
        error: Why.
    """

    region: str
    error: KeyfoldError


@dataclass(frozen=True, slots=True)
class Restored(Change):
    """Answer of `restore`.

    Attributes:
        restored: Regions that are in service, by name.
        not_restored: Regions that stay revoked.
    """

    restored: tuple[str, ...]
    not_restored: tuple[NotRestored, ...]

    @classmethod
    def from_message(cls, message: api.RestoreResponse) -> Restored:
        """Reads the contract's form."""
        return cls(
            ClusterStatus.from_message(message.status),
            message.replayed,
            message.superseded,
            tuple(message.restored),
            tuple(NotRestored(one.region, error_of(one.error)) for one in message.not_restored),
        )
