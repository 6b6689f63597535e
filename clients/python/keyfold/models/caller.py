"""What `get_caller` returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keyfold.models.answer import Answer
from keyfold.models.status import enum_name
from keyfold.v1 import key_management_service_pb2 as api


class CallerProof(StrEnum):
    """How a server identified a caller."""

    UNSPECIFIED = "UNSPECIFIED"
    CERTIFICATE = "CERTIFICATE"
    TOKEN = "TOKEN"  # noqa: S105  the name of a kind
    SOCKET = "SOCKET"
    LOOPBACK = "LOOPBACK"

    @classmethod
    def from_message(cls, number: api.CallerProof.ValueType) -> CallerProof:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.CallerProof.DESCRIPTOR, number, "CALLER_PROOF_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class CallerKey(Answer):
    """Root keys that the caller may name. In patterns `*` stays within one segment.

    Attributes:
        type: The type of their provider; `*`: any key.
        uri_pattern: A pattern of their uris; empty: any uri.
        principal_pattern: A pattern of the principals as which Keyfold may call them; `ambient`:
            the server's own identity alone.
        options: The options that a key spec must have, exactly these.
    """

    type: str
    uri_pattern: str
    principal_pattern: str
    options: Mapping[str, str] = field(hash=False)

    @classmethod
    def from_message(cls, message: api.CallerKey) -> CallerKey:
        """Reads the protobuf message."""
        return cls(
            message.type, message.uri_pattern, message.principal_pattern, dict(message.options)
        )


@dataclass(frozen=True, slots=True)
class CallerGrant(Answer):
    """A grant as it holds for the caller.

    In patterns `*` stands for any run of characters, and an empty list matches everything.

    Attributes:
        roles: The roles' words, such as `operator`.
        methods: The methods that the grant allows by itself for what it covers.
        cluster_patterns: Patterns of the names of clusters.
        organization_patterns: Patterns of the organizations of clusters. If there are any, the
            grant does not cover clusters without an organization.
        region_patterns: Patterns of the names of regions.
        context: Entries that the context of a data key must have.
        keys: The root keys that the caller may name; empty: none.
    """

    roles: tuple[str, ...]
    methods: tuple[str, ...]
    cluster_patterns: tuple[str, ...]
    organization_patterns: tuple[str, ...]
    region_patterns: tuple[str, ...]
    context: Mapping[str, str]
    keys: tuple[CallerKey, ...] = ()

    @classmethod
    def from_message(cls, message: api.CallerGrant) -> CallerGrant:
        """Reads the protobuf message."""
        return cls(
            roles=tuple(message.roles),
            methods=tuple(message.methods),
            cluster_patterns=tuple(message.cluster_patterns),
            organization_patterns=tuple(message.organization_patterns),
            region_patterns=tuple(message.region_patterns),
            context=dict(message.context),
            keys=tuple(map(CallerKey.from_message, message.keys)),
        )

    def allows(
        self,
        method: str,
        cluster: str | None = None,
        organization: str | None = None,
        region: str | None = None,
    ) -> bool:
        """Says whether the grant by itself allows a method, as far as the names tell.

        Args:
            method: The RPC's name.
            cluster: The cluster's name; None: any will do.
            organization: The organization's name; empty: the cluster has none; None: any will do.
            region: The region's name; None: any will do.
        """
        if method not in self.methods:
            return False
        if organization == "" and self.organization_patterns:
            return False
        return (
            _matches(self.cluster_patterns, cluster)
            and _matches(self.organization_patterns, organization)
            and _matches(self.region_patterns, region)
        )


@dataclass(frozen=True, slots=True)
class ReplicaInfo(Answer):
    """What the replica that answered says of itself.

    Attributes:
        replica: The replica's name: its host, its process, and a random part.
        version: The version of Keyfold that it runs.
        time: The time by its clock.
        store_age: How long ago it last saw the store; None: it has not seen it yet.
        max_store_age: The age at which it stops serving from memory.
        serves: The regions that it serves; empty: every region.
    """

    replica: str
    version: str
    time: datetime
    store_age: timedelta | None
    max_store_age: timedelta
    serves: tuple[str, ...] = ()

    @classmethod
    def from_message(cls, message: api.ReplicaInfo) -> ReplicaInfo:
        """Reads the protobuf message."""
        return cls(
            replica=message.replica,
            version=message.version,
            time=message.time.ToDatetime(UTC),
            store_age=message.store_age.ToTimedelta() if message.HasField("store_age") else None,
            max_store_age=message.max_store_age.ToTimedelta(),
            serves=tuple(message.serves),
        )


@dataclass(frozen=True, slots=True)
class CallerIdentity(Answer):
    """Who the caller is to a server, and which grants it has.

    Attributes:
        caller: The name by which logs and events know the caller.
        names: All names that its credential proves, that one first.
        proof: How the server identified it.
        organization: The organization in its token, if grants of the caller go by one.
        expire_time: When the first of its credentials ends; None: it showed none.
        grants: The grants that hold for it, in the order of the policy.
        notices: Why further grants that name it do not hold for it.
        replica: The replica that answered; None: the caller has no grant.
    """

    caller: str
    names: tuple[str, ...]
    proof: CallerProof
    organization: str
    expire_time: datetime | None
    grants: tuple[CallerGrant, ...]
    notices: tuple[str, ...]
    replica: ReplicaInfo | None

    @classmethod
    def from_message(cls, message: api.GetCallerResponse) -> CallerIdentity:
        """Reads the protobuf message."""
        return cls(
            caller=message.caller,
            names=tuple(message.names),
            proof=CallerProof.from_message(message.proof),
            organization=message.organization,
            expire_time=(
                message.expire_time.ToDatetime(UTC) if message.HasField("expire_time") else None
            ),
            grants=tuple(map(CallerGrant.from_message, message.grants)),
            notices=tuple(message.notices),
            replica=(
                ReplicaInfo.from_message(message.replica) if message.HasField("replica") else None
            ),
        )

    def may(
        self,
        method: str,
        cluster: str | None = None,
        organization: str | None = None,
        region: str | None = None,
    ) -> bool:
        """Says whether one of the grants allows a method, to decide what to offer to a person.

        The server decides anyway; it also knows what no grant says, such as the state of a key.
        The arguments are those of `CallerGrant.allows`.
        """
        return any(one.allows(method, cluster, organization, region) for one in self.grants)


def _matches(patterns: Sequence[str], name: str | None) -> bool:
    if not patterns or name is None:
        return True
    return any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL)
        for pattern in patterns
    )
