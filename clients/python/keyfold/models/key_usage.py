"""What `key_usage` and `list_key_usage` take and return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from keyfold.models.answer import Answer
from keyfold.models.status import State
from keyfold.models.what_if import KeyImpact
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class KeySelector:
    """Chooses root keys. What is set must match; at least one of uri, auth_principal and holder is.

    Attributes:
        uri: The uri of a root key. It means the whole key: all replicas of a multi-Region key, and
            all versions unless `key_version` is set or the uri names one.
        key_version: A version of the key, as `get_status` shows it or only what follows its last
            slash.
        auth_principal: The principal as which Keyfold calls the KMS; `ambient` means the server's
            own identity.
        holder: What holds the keys: an AWS account id, `projects/ID` of Google Cloud, the origin
            of an Azure vault or of a Vault server, or the id of an Azure tenant.
    """

    uri: str = ""
    key_version: str = ""
    auth_principal: str = ""
    holder: str = ""

    def to_message(self) -> api.KeySelector:
        """Returns the protobuf message."""
        return api.KeySelector(
            uri=self.uri,
            key_version=self.key_version,
            auth_principal=self.auth_principal,
            holder=self.holder,
        )


@dataclass(frozen=True, slots=True)
class KeyUse(Answer):
    """One wrap of one generation's KEK by a root key.

    Attributes:
        cluster: The cluster's name.
        organization: The cluster's organization; empty if it has none.
        region: The region's name.
        state: The state of the region's key.
        generation: The generation's number.
        kek_id: The id of the generation.
        retired: Whether the generation is retired.
        newest: Whether the generation is the newest of its region, which wraps.
        superseded: Whether another wrap has replaced this one, so that only backups need the key.
        type: The type of the root key.
        uri: The uri of the root key; in a multi-Region key it is that of one replica.
        key_version: The version of the root key that wrapped the generation.
        auth_principal: The principal as which Keyfold calls the KMS; empty: the server's own
            identity.
        create_time: When Keyfold made the wrap.
        supersede_time: When another wrap replaced it; None: it is current.
        impact: What the action in question does to this use; None: the question has no action.
    """

    cluster: str
    organization: str
    region: str
    state: State
    generation: int
    kek_id: bytes
    retired: bool
    newest: bool
    superseded: bool
    type: str
    uri: str
    key_version: str
    auth_principal: str
    create_time: datetime
    supersede_time: datetime | None
    impact: KeyImpact | None

    @classmethod
    def from_message(cls, message: api.KeyUse) -> KeyUse:
        """Reads the protobuf message."""
        return cls(
            cluster=message.cluster,
            organization=message.organization,
            region=message.region,
            state=State.from_message(message.state),
            generation=message.generation,
            kek_id=message.kek_id,
            retired=message.retired,
            newest=message.newest,
            superseded=message.superseded,
            type=message.type,
            uri=message.uri,
            key_version=message.key_version,
            auth_principal=message.auth_principal,
            create_time=message.create_time.ToDatetime(UTC),
            supersede_time=_time(message, "supersede_time"),
            impact=KeyImpact.from_message(message.impact) if message.HasField("impact") else None,
        )


@dataclass(frozen=True, slots=True)
class KeyUsage(Answer):
    """What needs some root keys, and whether they may be disabled.

    Attributes:
        uses: The first uses that the caller may see, by cluster, region, generation and age.
        total: The number of uses that the caller may see.
        hidden: The number of uses that the caller may not see.
        safe_to_disable: Whether no cluster needs the keys now; hidden uses count. False if the
            server could not tell; None if the caller may not know. It never means that the keys
            may be deleted.
        reasons: Why, one line each.
        backups_need_since: Backups and exports taken since then, as far as they still exist, hold
            wraps that only these keys open. None: there are no such backups.
        backups_need_until: When the last such backup was taken. None: there are none, or new ones
            hold such wraps, too.
        not_authentic: Clusters among the first uses whose stored rows somebody else wrote.
        banned: Clusters among the first uses that were revoked in that state.
    """

    uses: tuple[KeyUse, ...]
    total: int
    hidden: int
    safe_to_disable: bool | None
    reasons: tuple[str, ...]
    backups_need_since: datetime | None
    backups_need_until: datetime | None
    not_authentic: tuple[str, ...]
    banned: tuple[str, ...]

    @classmethod
    def from_message(cls, message: api.ListKeyUsageResponse) -> KeyUsage:
        """Reads the protobuf message, of one page or of several that are merged."""
        return cls(
            uses=tuple(map(KeyUse.from_message, message.uses)),
            total=message.total,
            hidden=message.hidden,
            safe_to_disable=(
                message.safe_to_disable if message.HasField("safe_to_disable") else None
            ),
            reasons=tuple(message.reasons),
            backups_need_since=_time(message, "backups_need_since"),
            backups_need_until=_time(message, "backups_need_until"),
            not_authentic=tuple(message.not_authentic),
            banned=tuple(message.banned),
        )


def _time(message: api.KeyUse | api.ListKeyUsageResponse, field: str) -> datetime | None:
    """Returns a time in UTC, or None if the message does not have it."""
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    time: datetime = getattr(message, field).ToDatetime(UTC)
    return time
