"""What a caller says: key specs, regions, and the items of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import resources_pb2 as resources

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What is taken where bytes are wanted."""

Context: TypeAlias = Mapping[str, str]
"""Names and values bound to a wrapped key, such as `{"table": "users"}`. They are not secret."""


def as_bytes(value: Buffer, name: str) -> bytes:
    """Returns the bytes of a buffer.

    Raises:
        TypeError: It is something else; `bytes()` alone would make zeros out of a number.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    return bytes(value)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A root key in a customer's key management service, and as whom Keyfold calls it.

    Attributes:
        type: The provider type, such as `AWS_KMS`, `LOCAL`, or `PLATFORM` for the vendor's own
            key, which takes no other field.
        uri: What the provider itself calls the key.
        auth_principal: As whom Keyfold calls the provider; empty is the server's own identity.
        options: What the provider's page lists.
    """

    type: str
    uri: str = ""
    auth_principal: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def to_message(self) -> resources.KeySpec:
        """Returns the contract's form."""
        return resources.KeySpec(
            type=self.type, uri=self.uri, auth_principal=self.auth_principal, options=self.options
        )

    @classmethod
    def from_message(cls, message: resources.KeySpec) -> KeySpec:
        """Reads the contract's form."""
        return cls(message.type, message.uri, message.auth_principal, dict(message.options))


@dataclass(frozen=True, slots=True)
class RegionPolicy:
    """How long a region's keys may be used without asking the KMS, and how they rotate.

    Attributes:
        cache_ttl: How long one successful unwrap lasts, 0 to 15 minutes; None takes the
            server's. At 0 every call reaches the KMS, and its audit log shows each one.
        outage_grace: How much longer keys serve while the KMS cannot be asked, 0 to 24 hours;
            None takes the server's.
        auto_rotate: Re-wraps the region's keys when the provider reports a newer version of the
            root key, within ten minutes or so.
    """

    cache_ttl: timedelta | None = None
    outage_grace: timedelta | None = None
    auto_rotate: bool = False

    def to_message(self) -> resources.RegionPolicy:
        """Returns the contract's form."""
        message = resources.RegionPolicy(auto_rotate=self.auto_rotate)
        if self.cache_ttl is not None:
            message.cache_ttl.FromTimedelta(self.cache_ttl)
        if self.outage_grace is not None:
            message.outage_grace.FromTimedelta(self.outage_grace)
        return message

    @classmethod
    def from_message(cls, message: resources.RegionPolicy) -> RegionPolicy:
        """Reads the contract's form."""
        return cls(
            message.cache_ttl.ToTimedelta() if message.HasField("cache_ttl") else None,
            message.outage_grace.ToTimedelta() if message.HasField("outage_grace") else None,
            message.auto_rotate,
        )


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """One region of a cluster, and the root key that it uses.

    Attributes:
        region: The region's name.
        key_spec: The root key; None in `rotate` means the key that the region has, under its
            newest version.
        policy: In `rotate`, a policy replaces the region's; None leaves it.
        replica_of: In place of a key spec, in `enable` and `add_regions`: the region whose
            multi-Region key has a replica here, which is then the root key.
    """

    region: str
    key_spec: KeySpec | None = None
    policy: RegionPolicy | None = None
    replica_of: str = ""

    def to_message(self) -> resources.RegionSpec:
        """Returns the contract's form."""
        return resources.RegionSpec(
            region=self.region,
            key_spec=None if self.key_spec is None else self.key_spec.to_message(),
            policy=None if self.policy is None else self.policy.to_message(),
            replica_of=self.replica_of,
        )

    @classmethod
    def from_message(cls, message: resources.RegionSpec) -> RegionSpec:
        """Reads the contract's form."""
        return cls(
            message.region,
            KeySpec.from_message(message.key_spec) if message.HasField("key_spec") else None,
            RegionPolicy.from_message(message.policy) if message.HasField("policy") else None,
            message.replica_of,
        )


@dataclass(frozen=True, slots=True)
class Destination:
    """Where `rewrap` moves a wrapped key.

    Attributes:
        cluster: Another cluster; empty keeps it.
        region: Another region; empty keeps it.
        context: The new context, taken as it stands: empty means an empty one.
    """

    cluster: str = ""
    region: str = ""
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.Destination:
        """Returns the contract's form."""
        return api.Destination(cluster=self.cluster, region=self.region, context=self.context)


@dataclass(frozen=True, slots=True)
class WrapItem:
    """One key of `batch_wrap`.

    Attributes:
        plaintext: The key, 1 to 4,096 bytes.
        region: The item's own region; empty takes the batch's.
        context: The item's own context; empty takes the batch's.
    """

    plaintext: Buffer = field(repr=False)
    region: str = ""
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.BatchWrapItem:
        """Returns the contract's form."""
        plaintext = as_bytes(self.plaintext, "plaintext")
        return api.BatchWrapItem(region=self.region, plaintext=plaintext, context=self.context)


@dataclass(frozen=True, slots=True)
class UnwrapItem:
    """One wrapped key of `batch_unwrap`.

    Attributes:
        wrapped_key: What wrap returned.
        context: The item's own context; empty takes the batch's.
    """

    wrapped_key: Buffer
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.BatchUnwrapItem:
        """Returns the contract's form."""
        wrapped_key = as_bytes(self.wrapped_key, "wrapped_key")
        return api.BatchUnwrapItem(wrapped_key=wrapped_key, context=self.context)


@dataclass(frozen=True, slots=True)
class RewrapItem:
    """One wrapped key of `batch_rewrap`.

    Attributes:
        wrapped_key: What wrap returned.
        context: The item's own context; empty takes the batch's.
        destination: The item's own destination; None takes the batch's.
    """

    wrapped_key: Buffer
    context: Context = field(default_factory=dict)
    destination: Destination | None = None

    def to_message(self) -> api.BatchRewrapItem:
        """Returns the contract's form."""
        return api.BatchRewrapItem(
            wrapped_key=as_bytes(self.wrapped_key, "wrapped_key"),
            context=self.context,
            destination=None if self.destination is None else self.destination.to_message(),
        )


def region_specs(specs: Iterable[RegionSpec]) -> list[resources.RegionSpec]:
    """Returns the contract's form of several."""
    return [spec.to_message() for spec in specs]
