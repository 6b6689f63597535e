"""Events: what happened to keys, as the server's sealed log tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from google.protobuf.json_format import MessageToDict

from keyfold.models.answer import Answer
from keyfold.models.specs import KeySpec
from keyfold.models.status import enum_name
from keyfold.v1 import event_service_pb2 as api


class EventKind(StrEnum):
    """The kind of an event; `event_service.proto` explains each.

    `UNSPECIFIED` stands for a kind newer than this client, and `UNKNOWN` for one newer than the
    server.
    """

    UNSPECIFIED = "UNSPECIFIED"
    DECISION = "DECISION"
    ATTEMPT = "ATTEMPT"
    REFUSAL = "REFUSAL"
    HEALTH = "HEALTH"
    RECONCILIATION = "RECONCILIATION"
    PRUNING = "PRUNING"
    KEPT = "KEPT"
    IDENTITY = "IDENTITY"
    IMPORT = "IMPORT"
    BAN = "BAN"
    SEAL = "SEAL"
    ERASURE = "ERASURE"
    OPERATION = "OPERATION"
    UNKNOWN = "UNKNOWN"

    def to_message(self) -> api.EventKind.ValueType:
        """Returns the protobuf value."""
        return api.EventKind.Value(f"EVENT_KIND_{self.value}")

    @classmethod
    def from_message(cls, number: api.EventKind.ValueType) -> EventKind:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.EventKind.DESCRIPTOR, number, "EVENT_KIND_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


class AnchorOutcome(StrEnum):
    """How the log compares with an anchor.

    `UNSPECIFIED` stands for an outcome newer than this client.
    """

    UNSPECIFIED = "UNSPECIFIED"
    MATCHES = "MATCHES"
    PRUNED = "PRUNED"
    ROLLED_BACK = "ROLLED_BACK"
    OTHER_STORE = "OTHER_STORE"
    FORGED = "FORGED"

    @classmethod
    def from_message(cls, number: api.AnchorOutcome.ValueType) -> AnchorOutcome:
        """Reads the protobuf value; UNSPECIFIED if this client does not know it."""
        name = enum_name(api.AnchorOutcome.DESCRIPTOR, number, "ANCHOR_OUTCOME_")
        return cls.__members__.get(name, cls.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class Event(Answer):
    """An entry of the server's log.

    Attributes:
        number: The number of the entry: 1, 2, 3 and so on within the store.
        id: The entry's random id, in hex. With the number it names the event for ever.
        time: The time of the event, by the store's clock.
        kind: The kind of the event.
        action: What happened, in the form source:subject:action, such as `rpc:cluster:revoke`.
        outcome: How it ended: `done`, the reason of a refusal, or another word that docs/events.md
            lists.
        cluster: The cluster that the event concerns; empty if it does not concern exactly one.
        cluster_uid: The uid of that cluster.
        organization: The organization that the cluster belonged to, or that the request named.
        regions: The regions that the event concerns, as far as the caller may see them.
        key: The root key that the event is about, or None. It has no options.
        caller: The caller's name; empty if no call caused the event.
        proof: How the caller proved its name.
        address: The caller's address.
        on_behalf_of: The person or program for whom the caller said that it called.
        reason: The reason that the caller gave for its request.
        request_id: The caller's id of the request.
        trace_id: The id of the call's trace.
        kms_request_id: The KMS's own id of its answer.
        message: A line for people, such as why the KMS refused.
        replica: The replica or the command that wrote the entry.
        epoch: Of a change: the epoch of the cluster after it.
        detail: The request and what was decided. Its repr leaves it out, because it may be long.
    """

    number: int
    id: str
    time: datetime
    kind: EventKind
    action: str
    outcome: str
    cluster: str = ""
    cluster_uid: bytes = b""
    organization: str = ""
    regions: tuple[str, ...] = ()
    key: KeySpec | None = None
    caller: str = ""
    proof: str = ""
    address: str = ""
    on_behalf_of: str = ""
    reason: str = ""
    request_id: str = ""
    trace_id: str = ""
    kms_request_id: str = ""
    message: str = ""
    replica: str = ""
    epoch: int = 0
    detail: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_message(cls, message: api.Event) -> Event:
        """Reads the protobuf message."""
        key = None
        if message.key_type:
            key = KeySpec(message.key_type, message.key_uri, message.key_principal)
        return cls(
            number=message.number,
            id=message.id,
            time=message.time.ToDatetime(UTC),
            kind=EventKind.from_message(message.kind),
            action=message.action,
            outcome=message.outcome,
            cluster=message.cluster,
            cluster_uid=message.cluster_uid,
            organization=message.organization,
            regions=tuple(message.regions),
            key=key,
            caller=message.caller,
            proof=message.proof,
            address=message.address,
            on_behalf_of=message.on_behalf_of,
            reason=message.reason,
            request_id=message.request_id,
            trace_id=message.trace_id,
            kms_request_id=message.kms_request_id,
            message=message.message,
            replica=message.replica,
            epoch=message.epoch,
            detail=MessageToDict(message.detail),
        )

    @property
    def revoked(self) -> frozenset[str]:
        """The regions that the event took out of service, as far as the caller may see them."""
        return self._moved_to("REVOKED")

    @property
    def deleted(self) -> frozenset[str]:
        """The regions that the event deleted, as far as the caller may see them."""
        return self._moved_to("DELETED")

    def _moved_to(self, state: str) -> frozenset[str]:
        decided = self.detail.get("decision", {}).get("regions", {})
        return frozenset(name for name, told in decided.items() if told.get("state") == state)


@dataclass(frozen=True, slots=True)
class Anchor(Answer):
    """A signed line about the newest entry of the server's log.

    Attributes:
        line: The line, to be kept where nobody who can write the store can change it.
        number: The number of the entry that it names.
        time: The time at which the server made it, by the store's clock.
    """

    line: str
    number: int
    time: datetime

    @classmethod
    def from_message(cls, message: api.GetAnchorResponse) -> Anchor:
        """Reads the protobuf message."""
        return cls(message.anchor, message.number, message.time.ToDatetime(UTC))


@dataclass(frozen=True, slots=True)
class AnchorCheck(Answer):
    """What the log says to an anchor.

    Attributes:
        outcome: The outcome.
        number: The number of the entry that the anchor names, as far as it can be read.
        time: The time of the anchor; None if it cannot be read.
        message: The outcome in words.
    """

    outcome: AnchorOutcome
    number: int
    time: datetime | None
    message: str

    @classmethod
    def from_message(cls, message: api.AnchorCheck) -> AnchorCheck:
        """Reads the protobuf message."""
        time = message.time.ToDatetime(UTC) if message.HasField("time") else None
        outcome = AnchorOutcome.from_message(message.outcome)
        return cls(outcome, message.number, time, message.message)


@dataclass(frozen=True, slots=True)
class Verification(Answer):
    """What a walk over the server's log has shown.

    Attributes:
        pruned: The number of the last entry that the server pruned, after which the walk began.
        last: The number of the last entry that is verified.
        newest: The number of the newest entry when the walk ended.
        broken: The number of the first entry that is missing, was changed, or does not continue
            the one before; None if every link holds.
        message: What is wrong with that entry; empty if every link holds.
        anchors: What the log says to each anchor, in their order.
    """

    pruned: int
    last: int
    newest: int
    broken: int | None = None
    message: str = ""
    anchors: tuple[AnchorCheck, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every link holds, and no anchor speaks against the log."""
        good = (AnchorOutcome.MATCHES, AnchorOutcome.PRUNED)
        return self.broken is None and all(each.outcome in good for each in self.anchors)

    @property
    def held_to(self) -> AnchorCheck | None:
        """The newest anchor that the log matches; None: a rollback is not excluded.

        The store was not rolled back to before the entry that this anchor names.
        """
        matching = [each for each in self.anchors if each.outcome is AnchorOutcome.MATCHES]
        return max(matching, key=lambda each: each.number, default=None)
