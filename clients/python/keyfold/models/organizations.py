"""Organizations, and the root keys that they have linked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from keyfold.models.answer import Answer
from keyfold.models.specs import KeySpec
from keyfold.models.status import enum_name, time_of
from keyfold.v1 import organization_service_pb2 as api


class DefaultKey(StrEnum):
    """What a region gets for which neither Enable nor AddRegions names a key.

    `UNSPECIFIED` stands for a rule newer than this client; in a request it means `REQUIRE_OWN`.
    """

    UNSPECIFIED = "UNSPECIFIED"
    REQUIRE_OWN = "REQUIRE_OWN"
    LINKED = "LINKED"
    PLATFORM = "PLATFORM"

    def to_message(self) -> api.DefaultKey.ValueType:
        """Returns the protobuf value."""
        return api.DefaultKey.Value(f"DEFAULT_KEY_{self.value}")

    @classmethod
    def from_message(cls, number: api.DefaultKey.ValueType) -> DefaultKey:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.DefaultKey.DESCRIPTOR, number, "DEFAULT_KEY_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


class KeyLinkUse(StrEnum):
    """Whether regions use a key link. `UNSPECIFIED` stands for a use newer than this client."""

    UNSPECIFIED = "UNSPECIFIED"
    AVAILABLE = "AVAILABLE"
    IN_USE = "IN_USE"
    MOVING = "MOVING"

    @classmethod
    def from_message(cls, number: api.KeyLinkUse.ValueType) -> KeyLinkUse:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.KeyLinkUse.DESCRIPTOR, number, "KEY_LINK_USE_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class IssuedIdentity(Answer):
    """A value that Keyfold issues once, and never again to somebody else.

    Attributes:
        kind: `EXTERNAL_ID` or `SEAT`.
        state: `FREE`, `RESERVED` or `USED`.
        provider: The provider type for which it is.
        region: The region for which it is; empty: for all.
        value: The external id, or the name of the seat; empty for free seats.
        principals: The vendor's principals that make up a seat.
        cluster: The cluster that took the seat, and may be gone since; empty: none did.
        create_time: The time at which it was issued; None if it was not.
        count: Of free seats: how many there are, at most 20. 1 for any other identity.
    """

    kind: str
    state: str
    provider: str
    region: str
    value: str
    principals: tuple[str, ...]
    cluster: str
    create_time: datetime | None
    count: int = 1

    @classmethod
    def from_message(cls, message: api.IssuedIdentity) -> IssuedIdentity:
        """Reads the protobuf message."""
        return cls(
            message.kind,
            enum_name(api.IdentityState.DESCRIPTOR, message.state, "IDENTITY_STATE_"),
            message.provider,
            message.region,
            message.value,
            tuple(message.principals),
            message.cluster,
            time_of(message.create_time),
            message.count,
        )


@dataclass(frozen=True, slots=True)
class Organization(Answer):
    """One of the vendor's customers.

    A caller sets the first six fields; the server sets the others.

    Attributes:
        organization: The name.
        display_name: A name for people, at most 256 characters.
        default_key: What a region gets for which nobody names a key.
        cluster_patterns: Patterns of the names that its clusters may have; empty: any name.
        max_clusters: The most clusters; 0: as many as it likes.
        max_key_links: The most key links; 0: up to 1,000.
        etag: Differs after every change; empty: nobody has made the organization.
        create_time: The time at which it was made; None: nobody has made it.
        update_time: The time at which it, or one of its key links, last changed.
        cluster_count: How many clusters it has.
        key_link_count: How many key links it has.
        default_description: One sentence about `default_key`, for people.
        identities: The identities that Keyfold issued to it, or holds ready for it.
        holders: The accounts, projects, vaults and origins that are this organization's, each as
            `TYPE:NAME`. `update_organization` sends them only if `fields` names them.
    """

    organization: str
    display_name: str = ""
    default_key: DefaultKey = DefaultKey.UNSPECIFIED
    cluster_patterns: tuple[str, ...] = ()
    max_clusters: int = 0
    max_key_links: int = 0
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    cluster_count: int = 0
    key_link_count: int = 0
    default_description: str = ""
    identities: tuple[IssuedIdentity, ...] = field(default=(), repr=False)
    holders: tuple[str, ...] = ()

    def to_message(self) -> api.Organization:
        """Returns the protobuf message, with the fields that a caller sets."""
        return api.Organization(
            organization=self.organization,
            display_name=self.display_name,
            default_key=self.default_key.to_message(),
            cluster_patterns=self.cluster_patterns,
            max_clusters=self.max_clusters,
            max_key_links=self.max_key_links,
        )

    @classmethod
    def from_message(cls, message: api.Organization) -> Organization:
        """Reads the protobuf message."""
        return cls(
            message.organization,
            message.display_name,
            DefaultKey.from_message(message.default_key),
            tuple(message.cluster_patterns),
            message.max_clusters,
            message.max_key_links,
            message.etag,
            time_of(message.create_time),
            time_of(message.update_time),
            message.cluster_count,
            message.key_link_count,
            message.default_description,
            tuple(map(IssuedIdentity.from_message, message.identities)),
            tuple(message.holders),
        )


@dataclass(frozen=True, slots=True)
class KeyLinkUser(Answer):
    """A region that uses a key link.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
    """

    cluster: str
    region: str


@dataclass(frozen=True, slots=True)
class KeyLinkReplica(Answer):
    """The replica of a multi-Region key in one region of a geo.

    Attributes:
        region: The region's name.
        key_spec: The replica; None if the key has none there.
        reason: Why the link does not serve the region; empty if it does.
        message: One line for people about that.
    """

    region: str
    key_spec: KeySpec | None
    reason: str
    message: str

    @classmethod
    def from_message(cls, message: api.KeyLinkReplica) -> KeyLinkReplica:
        """Reads the protobuf message."""
        key = KeySpec.from_message(message.key_spec) if message.HasField("key_spec") else None
        return cls(message.region, key, message.reason, message.message)


@dataclass(frozen=True, slots=True)
class KeyLink(Answer):
    """A root key that an organization has linked for one region or geo.

    A caller sets the first six fields; the server sets the others.

    Attributes:
        organization: The name of the organization.
        key_link: The link's name within the organization.
        key_spec: The root key; of a geo, one of its replicas.
        region: The region whose keys it gives; empty: it has a geo.
        geo: The geo whose regions it gives their keys; empty: it has a region.
        description: What it is for, at most 1,024 characters.
        use: Whether regions use it.
        users: The regions that use it, at most 100.
        users_count: How many regions use it.
        previous_key_spec: While it is `MOVING`: the key that it had before.
        replicas: Of a geo: each of its regions, with the replica there or what is wrong.
        etag: Differs after every change.
        create_time: The time at which it was made.
        update_time: The time at which it last changed.
        operation: While it is `MOVING`: the full name of the operation that moves its users, or
            that has ended before all of them had its key.
        unmoved_count: How many regions that use it do not have its key yet.
    """

    organization: str
    key_link: str
    key_spec: KeySpec | None = None
    region: str = ""
    geo: str = ""
    description: str = ""
    use: KeyLinkUse = KeyLinkUse.UNSPECIFIED
    users: tuple[KeyLinkUser, ...] = ()
    users_count: int = 0
    previous_key_spec: KeySpec | None = None
    replicas: tuple[KeyLinkReplica, ...] = ()
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    operation: str = ""
    unmoved_count: int = 0

    def to_message(self) -> api.KeyLink:
        """Returns the protobuf message, with the fields that a caller sets."""
        return api.KeyLink(
            organization=self.organization,
            key_link=self.key_link,
            description=self.description,
            region=self.region,
            geo=self.geo,
            key_spec=None if self.key_spec is None else self.key_spec.to_message(),
        )

    @classmethod
    def from_message(cls, message: api.KeyLink) -> KeyLink:
        """Reads the protobuf message."""
        before = message.previous_key_spec
        moves = message.HasField("previous_key_spec")
        return cls(
            message.organization,
            message.key_link,
            KeySpec.from_message(message.key_spec) if message.HasField("key_spec") else None,
            message.region,
            message.geo,
            message.description,
            KeyLinkUse.from_message(message.use),
            tuple(KeyLinkUser(user.cluster, user.region) for user in message.users),
            message.users_count,
            KeySpec.from_message(before) if moves else None,
            tuple(map(KeyLinkReplica.from_message, message.replicas)),
            message.etag,
            time_of(message.create_time),
            time_of(message.update_time),
            message.operation,
            message.unmoved_count,
        )


@dataclass(frozen=True, slots=True)
class OrganizationChanged(Answer):
    """The result of `create_organization` and of `update_organization`.

    Attributes:
        organization: The organization as it is now; with `validate_only`, as it would be.
        replayed: Whether the server knew the request_id already, and did nothing again.
        superseded: Whether a later change has overtaken what the first request did.
    """

    organization: Organization
    replayed: bool
    superseded: bool

    @classmethod
    def from_message(
        cls, message: api.CreateOrganizationResponse | api.UpdateOrganizationResponse
    ) -> OrganizationChanged:
        """Reads the protobuf message."""
        made = Organization.from_message(message.organization)
        return cls(made, message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class KeyLinkChanged(Answer):
    """The result of `create_key_link` and of `update_key_link`.

    Attributes:
        key_link: The link as it is now; with `validate_only`, as it would be.
        replayed: Whether the server knew the request_id already, and did nothing again.
        superseded: Whether a later change has overtaken what the first request did.
    """

    key_link: KeyLink
    replayed: bool
    superseded: bool

    @classmethod
    def from_message(
        cls, message: api.CreateKeyLinkResponse | api.UpdateKeyLinkResponse
    ) -> KeyLinkChanged:
        """Reads the protobuf message."""
        return cls(KeyLink.from_message(message.key_link), message.replayed, message.superseded)


@dataclass(frozen=True, slots=True)
class Removed(Answer):
    """The result of `delete_organization` and of `delete_key_link`.

    Attributes:
        replayed: Whether the server knew the request_id already, and did nothing again.
    """

    replayed: bool

    @classmethod
    def from_message(
        cls, message: api.DeleteOrganizationResponse | api.DeleteKeyLinkResponse
    ) -> Removed:
        """Reads the protobuf message."""
        return cls(message.replayed)
