"""The values that a caller passes: key specs, region specs, and the items of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from keyfold.arguments import wrong_type
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import resources_pb2 as resources

Buffer: TypeAlias = bytes | bytearray | memoryview
"""The types that a method takes as bytes."""

Context: TypeAlias = Mapping[str, str]
"""Names and values that wrapping binds to a key, such as `{"table": "users"}`; not secret."""


def as_bytes(value: Buffer, name: str) -> bytes:
    """Returns the bytes of a buffer.

    Raises:
        ArgumentTypeError: The value is not a buffer. `bytes()` would turn a number into zeros.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise wrong_type(name, "bytes", value)
    return bytes(value)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A root key in a customer's KMS, and the identity that Keyfold calls the KMS as.

    Attributes:
        type: The provider type, such as `AWS_KMS`, `LOCAL`, or `PLATFORM` for the vendor's own
            key, which takes no other field.
        uri: The provider's own name of the key.
        auth_principal: The identity that Keyfold calls the KMS as; empty means the server's own.
        options: The options of the provider, which its documentation lists.
    """

    type: str
    uri: str = ""
    auth_principal: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def to_message(self) -> resources.KeySpec:
        """Returns the protobuf message."""
        return resources.KeySpec(
            type=self.type, uri=self.uri, auth_principal=self.auth_principal, options=self.options
        )

    @classmethod
    def from_message(cls, message: resources.KeySpec) -> KeySpec:
        """Reads the protobuf message."""
        return cls(message.type, message.uri, message.auth_principal, dict(message.options))


@dataclass(frozen=True, slots=True)
class RegionPolicy:
    """A region's limits on using keys without asking the KMS, and its rotation.

    Attributes:
        cache_ttl: The time that one successful unwrap by the KMS lasts, 0 to 15 minutes; None
            means the server's default. At 0 every call reaches the KMS, whose audit log shows it.
        outage_grace: The time beyond it that keys stay in use while the KMS gives no answer, 0 to
            24 hours; None means the server's default.
        auto_rotate: Whether the server re-wraps the region's keys when the provider reports a
            newer version of the root key, within about ten minutes.
    """

    cache_ttl: timedelta | None = None
    outage_grace: timedelta | None = None
    auto_rotate: bool = False

    def to_message(self) -> resources.RegionPolicy:
        """Returns the protobuf message."""
        message = resources.RegionPolicy(auto_rotate=self.auto_rotate)
        if self.cache_ttl is not None:
            message.cache_ttl.FromTimedelta(self.cache_ttl)
        if self.outage_grace is not None:
            message.outage_grace.FromTimedelta(self.outage_grace)
        return message

    @classmethod
    def from_message(cls, message: resources.RegionPolicy) -> RegionPolicy:
        """Reads the protobuf message."""
        return cls(
            message.cache_ttl.ToTimedelta() if message.HasField("cache_ttl") else None,
            message.outage_grace.ToTimedelta() if message.HasField("outage_grace") else None,
            message.auto_rotate,
        )


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """One region of a cluster, and the root key that it uses.

    Attributes:
        region: The region's name; empty if `geo` stands for several regions.
        key_spec: The root key. In `rotate`, None means the newest version of the key that the
            region has; in `enable` and `add_regions`, what the organization's `default_key` says.
        policy: The region's policy. In `rotate`, None keeps the present one.
        replica_of: Another region, whose AWS multi-Region key has a replica in this region. That
            replica is then the root key, in place of `key_spec`, and moves with that key.
        geo: A geo of the server's settings, in place of `region`: each of its regions uses its own
            replica of the multi-Region key that `key_spec` names.
        key_link: A key link of the cluster's organization, in place of `key_spec`.
    """

    region: str = ""
    key_spec: KeySpec | None = None
    policy: RegionPolicy | None = None
    replica_of: str = ""
    geo: str = ""
    key_link: str = ""

    def to_message(self) -> resources.RegionSpec:
        """Returns the protobuf message."""
        return resources.RegionSpec(
            region=self.region,
            key_spec=None if self.key_spec is None else self.key_spec.to_message(),
            policy=None if self.policy is None else self.policy.to_message(),
            replica_of=self.replica_of,
            geo=self.geo,
            key_link=self.key_link,
        )

    @classmethod
    def from_message(cls, message: resources.RegionSpec) -> RegionSpec:
        """Reads the protobuf message."""
        return cls(
            message.region,
            KeySpec.from_message(message.key_spec) if message.HasField("key_spec") else None,
            RegionPolicy.from_message(message.policy) if message.HasField("policy") else None,
            message.replica_of,
            message.geo,
            message.key_link,
        )


@dataclass(frozen=True, slots=True)
class Destination:
    """The place that `rewrap` moves a wrapped key to.

    Attributes:
        cluster: The new cluster; empty keeps the present one.
        region: The new region; empty keeps the present one.
        context: The new context. An empty one replaces the present context, too.
    """

    cluster: str = ""
    region: str = ""
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.Destination:
        """Returns the protobuf message."""
        return api.Destination(cluster=self.cluster, region=self.region, context=self.context)


@dataclass(frozen=True, slots=True)
class WrapItem:
    """One key of `batch_wrap`.

    Attributes:
        plaintext: The key, 1 to 4,096 bytes.
        region: The item's own region; empty means the batch's.
        context: The item's own context; empty means the batch's.
    """

    plaintext: Buffer = field(repr=False)
    region: str = ""
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.BatchWrapItem:
        """Returns the protobuf message."""
        plaintext = bytes(self.plaintext)
        return api.BatchWrapItem(region=self.region, plaintext=plaintext, context=self.context)


@dataclass(frozen=True, slots=True)
class UnwrapItem:
    """One wrapped key of `batch_unwrap`.

    Attributes:
        wrapped_key: The wrapped key, as `wrap` returned it.
        context: The item's own context; empty means the batch's.
    """

    wrapped_key: Buffer
    context: Context = field(default_factory=dict)

    def to_message(self) -> api.BatchUnwrapItem:
        """Returns the protobuf message."""
        wrapped_key = bytes(self.wrapped_key)
        return api.BatchUnwrapItem(wrapped_key=wrapped_key, context=self.context)


@dataclass(frozen=True, slots=True)
class RewrapItem:
    """One wrapped key of `batch_rewrap`.

    Attributes:
        wrapped_key: The wrapped key, as `wrap` returned it.
        context: The item's own context; empty means the batch's.
        destination: The item's own destination; None means the batch's.
    """

    wrapped_key: Buffer
    context: Context = field(default_factory=dict)
    destination: Destination | None = None

    def to_message(self) -> api.BatchRewrapItem:
        """Returns the protobuf message."""
        return api.BatchRewrapItem(
            wrapped_key=bytes(self.wrapped_key),
            context=self.context,
            destination=None if self.destination is None else self.destination.to_message(),
        )
