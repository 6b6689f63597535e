"""The log: the one sealed and numbered sequence of what happened to keys (protocol S0).

An entry says who attempted what and what came of it. If it decided something about a cluster, it
carries the decision itself: the `Floor` on which the cluster's rows have to lie from then on. Each
replica reads the log from its own cursor on, and drops from memory what the entries concern.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.domain.events import Event


class EntryKind(Enum):
    """The kind of an entry."""

    DECISION = "DECISION"
    """A change of a cluster's rows."""

    ATTEMPT = "ATTEMPT"
    """An attempt that changed no row, refused or not."""

    REFUSAL = "REFUSAL"
    """A refusal by a customer's KMS, for the other replicas (protocol F2)."""

    HEALTH = "HEALTH"
    """A transition of a root key's health (`domain.transitions`)."""

    RECONCILIATION = "RECONCILIATION"
    """An operator's decision that the store is right as it is (protocol S1)."""

    PRUNING = "PRUNING"
    """The removal of what the store keeps for a limited time, such as the oldest entries (S11)."""

    KEPT = "KEPT"
    """The floor of a cluster, or the ids of erased KEKs, carried forward because pruning removes
    their entry (protocol S10, D5)."""

    IDENTITY = "IDENTITY"
    """The issue of an identity, such as an external id (protocol C2)."""

    IMPORT = "IMPORT"
    """A cluster, or a whole store, that an export brought in (protocol A4)."""

    BAN = "BAN"
    """A Revoke of a cluster whose rows are not authentic, or are gone (protocol A6)."""

    ERASURE = "ERASURE"
    """The end of deleted regions, or of a whole cluster, whose KEKs are gone for good (D3, D5)."""

    SEAL = "SEAL"
    """An operator's decision that a cluster's rows are right as they stand (protocol A1)."""

    OPERATION = "OPERATION"
    """The start, the cancelling, the end or the deletion of an operation (`domain.operations`)."""

    UNKNOWN = "UNKNOWN"
    """A kind that a newer release wrote. Replicas drop what such an entry names (protocol S6)."""

    @classmethod
    def of(cls, name: str) -> EntryKind:
        """Returns the kind of a name, UNKNOWN for the name of a newer release."""
        return cls(name) if name in cls.__members__ else cls.UNKNOWN


NEWS: Final = frozenset(
    (
        EntryKind.DECISION,
        EntryKind.REFUSAL,
        EntryKind.IMPORT,
        EntryKind.BAN,
        EntryKind.ERASURE,
        EntryKind.SEAL,
        EntryKind.UNKNOWN,
    )
)
"""The kinds after which replicas drop what an entry names."""


@dataclass(frozen=True, slots=True)
class KeyName:
    """A root key as people know it.

    Attributes:
        type: The provider's type.
        uri: The provider's name of the key.
        principal: The principal as which Keyfold calls it; empty: the server's own identity.
    """

    type: str
    uri: str
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log.

    Attributes:
        number: Number of the entry there, 0 before the first one.
        entry_id: The entry's random id, empty before the first one.
    """

    number: int
    entry_id: bytes


START: Final = Position(0, b"")
"""The position before the first entry."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who attempted what, and what came of it.

    Attributes:
        caller: The caller's name, in the form of `rights.Identity.names`; empty: nobody called.
        action: `source:subject:action`, such as `rpc:cluster:enable`.
        outcome: `done`, or the reason of the refusal.
        detail: The request as JSON with sorted keys; never key material.
        proof: The proof of the caller's identity (`rights.Identity`); empty: nobody called.
        address: The caller's address as gRPC writes it, or empty.
        on_behalf_of: The person or program for whom a trusted caller says that it calls, or empty.
        organization: The organization that the request names, or empty.
        key: The root key, of an event that concerns exactly one, or None.
        message: A line for people, such as why the KMS refused; empty if there is none.
        request_id: The caller's id of the request, or empty.
        trace_id: The id of the call's trace, in hex, or empty.
        kms_request_id: The KMS's own id of its answer, or empty.
    """

    caller: str
    action: str
    outcome: str
    detail: str
    proof: str = ""
    address: str = ""
    on_behalf_of: str = ""
    organization: str = ""
    key: KeyName | None = None
    message: str = ""
    request_id: str = ""
    trace_id: str = ""
    kms_request_id: str = ""


@dataclass(frozen=True, slots=True)
class Floor:
    """A cluster's own row as an entry of the log left it (protocol S10).

    Attributes:
        uid: The cluster's uid.
        version: The row version.
        epoch: The cluster's epoch.
        row: The MAC of the cluster's own row, which vouches for every other row of the cluster.
        banned: Whether the entry bans the cluster's name, so that no row of it serves whatever the
            row says (protocol A6). The other values are then those of the last decision that is
            known.
        erased: Whether the entry ends the cluster: it left no row (protocol D5).
    """

    uid: bytes
    version: int
    epoch: int
    row: bytes
    banned: bool = False
    erased: bool = False

    def is_kept_by(self, later: Floor) -> bool:
        """Returns whether a row that was read later may follow this one.

        Two rows of one version would be two decisions of which the log has one. The row may be
        that of another cluster of the same name, which begins above the floor of the erased one
        (`erasure.Tombstone`).
        """
        return later.epoch >= self.epoch and (later.version > self.version or later == self)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log, as a poll reports it.

    Attributes:
        number: 1, 2, 3 … without gaps.
        entry_id: 16 random bytes.
        kind: The kind.
        cluster: The cluster's name, or None.
        root: The root key id (`cluster.Wrap.root_id`) of a refusal or a transition, or None.
        kek: The one KEK that was refused again; None: no refusal or a first one.
        replica: The replica that wrote the entry.
        floor: The cluster's own row as the entry left it, or None.
        organization: The organization about which the entry decides, and its floor, or None.
        told: Returns the entry as people read it.
        size: Bytes that its texts have.
    """

    number: int
    entry_id: bytes
    kind: EntryKind
    cluster: str | None
    root: str | None
    kek: bytes | None
    replica: str
    floor: Floor | None = None
    organization: tuple[str, Floor] | None = None
    told: Callable[[], Event] | None = field(default=None, compare=False, repr=False)
    size: int = field(default=0, compare=False, repr=False)

    @property
    def is_news(self) -> bool:
        """Whether replicas have to drop from memory what the entry names."""
        return self.kind in NEWS


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that changed nothing (protocol R5).

    Attributes:
        cluster: The cluster's name, or None: the attempt concerned no cluster, or none that the
            caller may see.
        event: Who attempted what, and what came of it.
        new: Whether the attempt was to make the cluster, which then need not exist.
    """

    cluster: str | None
    event: AuditEvent
    new: bool = False


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
    """An attempt that the log has.

    Attributes:
        number: The number of its entry.
        decided: The number of the cluster's newest decision before it, 0 if there is none.
    """

    number: int
    decided: int
