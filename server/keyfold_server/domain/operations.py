"""Operations: work on many regions that takes long, and how far it has come.

An operation goes through its items, one region of one cluster each, in a fixed order. It keeps its
place in that order and some numbers, never the items themselves, so its size does not grow with
their number. The functions here decide what becomes of an operation; a store only reads, calls and
writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from hashlib import sha256
from typing import Any, Final, NamedTuple

from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    OperationEndedError,
    OperationExistsError,
    OperationNotFoundError,
    OperationRunningError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.rights import Claim, Identity

LISTED: Final = 1_000
"""Most failures that an operation lists. It counts all of them."""

MAX_CLUSTERS: Final = 1_000
"""Most clusters that a scope may name one by one."""

OPEN_PER_CALLER: Final = 100
"""Most operations of one caller that have not ended."""

OPEN: Final = 1_000
"""Most operations of all callers that have not ended."""

LEASE: Final = 15.0
"""Seconds, by the store's clock, for which an operation is one replica's. It renews them in time.
After a crash another replica takes the operation over when they have passed."""

MOST_AT_ONCE: Final = 64
"""Most items of one operation that may be under way at once."""

AT_ONCE: Final = 16
"""Items of one operation that are under way at once if its caller does not say how many."""

_OWNER: Final = 16
"""Hexadecimal digits that stand for the caller in the names of its operations."""

DONE: Final = "done"
"""The outcome of an operation that went through all of its items."""

CANCELLED: Final = "cancelled"
"""The outcome of an operation that was cancelled."""


class ActionKind(Enum):
    """What an operation does to each of its regions."""

    ROTATE = "ROTATE"
    """Rotates it: to the newest version of its key, or to another key."""

    TEST = "TEST"
    """Tries its key step by step, as TestKey does."""

    RECHECK = "RECHECK"
    """Proves its key now, as Recheck does."""

    POLICY = "POLICY"
    """Gives it another policy."""

    MOVE_LINK = "MOVE_LINK"
    """Rotates it to the key that its key link has now; the operation's start gave the link that
    key."""

    @property
    def rpc(self) -> str:
        """The method whose role the caller needs for each region."""
        return _RPCS[self]

    @property
    def changes(self) -> bool:
        """Whether it changes regions in the store, and does not only ask about their keys."""
        return self not in (ActionKind.TEST, ActionKind.RECHECK)


_RPCS: Final = {
    ActionKind.ROTATE: "Rotate",
    ActionKind.TEST: "TestKey",
    ActionKind.RECHECK: "Recheck",
    ActionKind.POLICY: "Rotate",
    ActionKind.MOVE_LINK: "Rotate",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a caller asks an operation to do. A repeated request is compared with it.

    Attributes:
        kind: What to do to each region.
        organization: Takes the regions of this organization's clusters; None: of all.
        key_link: Of these, takes those that use this key link; empty: all.
        key_uri: Takes the regions whose root key has this uri; empty: any.
        key_version: Of these, takes those that have a KEK under this version; empty: any.
        principal: Takes the regions whose root key is called as this principal; None: any.
        clusters: Takes the regions of these clusters, sorted; empty: of all.
        key_spec: The key to rotate to, or that the link gets; None: each region's own key.
        new_generation: Whether to make new KEKs as well.
        policy: The policy to set; None: none.
        at_once: Most regions under way at once.
        reason: Why, for the log.
    """

    kind: ActionKind
    organization: str | None = None
    key_link: str = ""
    key_uri: str = ""
    key_version: str = ""
    principal: str | None = None
    clusters: tuple[str, ...] = ()
    key_spec: KeySpec | None = None
    new_generation: bool = False
    policy: RegionPolicy | None = None
    at_once: int = AT_ONCE
    reason: str = ""

    @property
    def needs_kms(self) -> bool:
        """Whether its steps need KMSs, so that control replicas alone carry them out."""
        if self.kind is not ActionKind.POLICY:
            return True
        # Whether a key can be followed depends on what its provider reads in its uri.
        return self.policy is not None and self.policy.auto_rotate

    def encoded(self) -> str:
        """Returns the work as JSON with sorted keys; it holds no key material."""
        told = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        if self.principal is not None:
            told["principal"] = self.principal  # Empty, it is the server's own identity.
        told["kind"] = self.kind.value
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @classmethod
    def decoded(cls, text: str) -> Work:
        """Returns the work that `encoded` wrote."""
        told: dict[str, Any] = json.loads(text)
        told["kind"] = ActionKind(told["kind"])
        told["clusters"] = tuple(told.get("clusters", ()))
        spec, policy = told.get("key_spec"), told.get("policy")
        if spec is not None:
            pairs = tuple((name, value) for name, value in spec["options"])
            told["key_spec"] = KeySpec(**{**spec, "options": pairs})
        if policy is not None:
            told["policy"] = RegionPolicy(**policy)
        return cls(**told)


@dataclass(frozen=True, slots=True)
class Starter:
    """Who started an operation, and so acts in each of its steps.

    Attributes:
        identity: The caller's identity. Its rights are those of the policy in force at each step.
        address: The address from which it called.
        on_behalf_of: For whom it said that it called, or empty.
    """

    identity: Identity
    address: str = ""
    on_behalf_of: str = ""

    def encoded(self) -> str:
        """Returns the starter as JSON with sorted keys."""
        told = asdict(self)
        if not self.identity.claims:
            del told["identity"]["claims"]
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @classmethod
    def decoded(cls, text: str) -> Starter:
        """Returns the starter that `encoded` wrote."""
        told: dict[str, Any] = json.loads(text)
        named: dict[str, Any] = told.pop("identity")
        claims = tuple(Claim(*claim) for claim in named.get("claims", ()))
        identity = Identity(tuple(named["names"]), named["proof"], claims)
        return cls(identity, **told)


class OperationKey(NamedTuple):
    """The full name of an operation.

    Attributes:
        owner: Stands for the caller, so that each caller chooses among names of its own.
        name: The name that the caller chose.
    """

    owner: str
    name: str


PREFIX: Final = "operations/"
"""The beginning of every full name, as callers know it."""


def full_name(key: OperationKey) -> str:
    """Returns the full name of an operation, which is the same for every caller."""
    return f"{PREFIX}{key.owner}/{key.name}"


def owner_of(caller: str) -> str:
    """Returns what stands for a caller in the names of its operations."""
    return sha256(caller.encode()).hexdigest()[:_OWNER]


class Place(NamedTuple):
    """The place of an item in the fixed order of all items.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
    """

    cluster: str
    region: str


BEGINNING: Final = Place("", "")
"""The place before the first item."""


@dataclass(frozen=True, slots=True)
class Census:
    """What an operation has before it, as counted before its first step.

    Attributes:
        regions: Items.
        keys: Root keys that they use now, with their versions; at most `MOST_KEYS` are told apart.
        kms_calls: Calls of KMSs that the steps make if all go well.
        seconds: Seconds that these take at the rates that operations keep.
        pinned: Items that fail as they are now, since a key's uri names one version of it
            (`KEY_VERSION_PINNED`).
    """

    regions: int = 0
    keys: int = 0
    kms_calls: int = 0
    seconds: float = 0.0
    pinned: int = 0


MOST_KEYS: Final = 100_000
"""Most root keys that a census tells apart."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation has come.

    Attributes:
        place: The place of the last item that counts as processed.
        done: Items that were carried out.
        failed: Items that were not, for reasons that the failures give.
        skipped: Items that needed nothing, or were gone.
        listed: Failures that the store lists.
    """

    place: Place = BEGINNING
    done: int = 0
    failed: int = 0
    skipped: int = 0
    listed: int = 0

    @property
    def processed(self) -> int:
        """Items that were carried out, failed or skipped."""
        return self.done + self.failed + self.skipped


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that an operation could not carry out.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        reason: The reason of the error.
        message: One line for people.
        time: Milliseconds of Unix time, by the store's clock; the store sets it.
    """

    cluster: str
    region: str
    reason: str
    message: str
    time: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as the store has it.

    Attributes:
        key: Its full name.
        uid: 16 random bytes. The request ids of its steps derive from them.
        work: What it does.
        starter: Who started it.
        created_at: Milliseconds of Unix time, by the store's clock, as all times here.
        updated_at: When it last changed.
        cancelled_at: When somebody cancelled it, or None.
        ended_at: When it ended, or None.
        outcome: How it ended: `done`, `cancelled`, or the reason for which it stopped; empty: it
            has not ended.
        message: One line for people about that; may be empty.
        census: What it had before it; None: it is not counted yet.
        progress: How far it has come.
        holder: The replica that runs it, with a random part for each time; empty: none does.
        leased_until: Until when no other replica takes it.
        version: How often it was written; the store counts.
    """

    key: OperationKey
    uid: bytes
    work: Work
    starter: Starter
    created_at: int
    updated_at: int
    cancelled_at: int | None = None
    ended_at: int | None = None
    outcome: str = ""
    message: str = ""
    census: Census | None = None
    progress: Progress = field(default_factory=Progress)
    holder: str = ""
    leased_until: int = 0
    version: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended_at is not None

    @property
    def needs_control(self) -> bool:
        """Whether only a control replica goes on with it. Any replica ends a cancelled one."""
        return self.work.needs_kms and self.cancelled_at is None and not self.ended

    def free(self, now: int) -> bool:
        """Says whether a replica may take it; `now` is the store's time in milliseconds."""
        return not self.ended and now >= self.leased_until

    @property
    def total(self) -> int | None:
        """How many items it has, as far as that is known; None: it is not counted yet."""
        if self.ended:
            return self.progress.processed
        if self.census is None:
            return None
        return max(self.census.regions, self.progress.processed)


@dataclass(frozen=True, slots=True)
class OperationChange:
    """A change of one operation, which is committed as a whole or not at all.

    Attributes:
        key: The operation's full name.
        decide: The change. It gets the operation under its lock, or None, and the store's time in
            milliseconds; it returns the operation as it shall be, or None to delete it. The same
            object: nothing changes.
        event: Says who did what to which organization's operation, for an entry of the log; None:
            the change is progress alone, and has no entry.
        failures: Failures to list after those that are listed already.
    """

    key: OperationKey
    decide: Callable[[Operation | None, int], Operation | None]
    event: AuditEvent | None = None
    failures: tuple[Failure, ...] = ()


def no_operation(name: str) -> OperationNotFoundError:
    """Returns the error for an operation that does not exist, or that the caller may not see."""
    return OperationNotFoundError(
        f"there is no operation {name}; check the name with ListOperations", field="name"
    )


def existing_operation(operation: Operation | None, key: OperationKey) -> Operation:
    """Returns the operation that a look-up found.

    Raises:
        OperationNotFoundError: It found None.
    """
    if operation is None:
        raise no_operation(key.name)
    return operation


def started(key: OperationKey, uid: bytes, work: Work, starter: Starter) -> OperationChange:
    """Returns the change that starts an operation; with the same work, it is started already."""

    def decide(current: Operation | None, now: int) -> Operation:
        if current is None:
            return Operation(key, uid, work, starter, now, now)
        if current.work != work:
            raise OperationExistsError(
                f"the caller has an operation {key.name} already, with another scope or action; "
                "use another name, or get that one",
                field="operation",
            )
        return current

    return OperationChange(key, decide)


def cancelled(key: OperationKey) -> OperationChange:
    """Returns the change that cancels an operation. It ends once what is under way has ended."""

    def decide(current: Operation | None, now: int) -> Operation:
        operation = existing_operation(current, key)
        if operation.ended:
            raise OperationEndedError(
                f"operation {key.name} has ended already; there is nothing to cancel",
                field="name",
            )
        if operation.cancelled_at is not None:
            return operation
        return replace(operation, cancelled_at=now, updated_at=now)

    return OperationChange(key, decide)


def deleted(key: OperationKey) -> OperationChange:
    """Returns the change that deletes an operation that has ended, with its list of failures."""

    def decide(current: Operation | None, _now: int) -> None:
        if not existing_operation(current, key).ended:
            raise OperationRunningError(
                f"operation {key.name} has not ended; cancel it first, and wait for its end",
                field="name",
            )

    return OperationChange(key, decide)


def taken(key: OperationKey, holder: str, lease: float) -> OperationChange:
    """Returns the change by which a replica takes an operation that no other one runs.

    Args:
        key: The operation's full name.
        holder: The replica, with a random part.
        lease: Seconds for which no other replica takes it.
    """

    def decide(current: Operation | None, now: int) -> Operation:
        operation = existing_operation(current, key)
        if not operation.free(now):
            return operation
        return replace(operation, holder=holder, leased_until=now + int(lease * 1000))

    return OperationChange(key, decide)


def advanced(
    key: OperationKey,
    holder: str,
    lease: float,
    *,
    census: Census | None = None,
    progress: Progress | None = None,
    failures: tuple[Failure, ...] = (),
) -> OperationChange:
    """Returns the change by which the replica that runs an operation renews its lease.

    Args:
        key: The operation's full name.
        holder: The replica, with its random part.
        lease: Seconds from now for which no other replica takes the operation; 0 gives it back.
        census: What the operation has before it; None: as before.
        progress: How far it has come; None: as before.
        failures: What failed since the progress before.

    Its decision raises ConcurrentChangeError if another replica runs the operation by now.
    """

    def decide(current: Operation | None, now: int) -> Operation:
        operation = _held(current, key, holder)
        return replace(
            operation,
            updated_at=now if progress is not None or census is not None else operation.updated_at,
            census=operation.census if census is None else census,
            progress=operation.progress if progress is None else progress,
            leased_until=now + int(lease * 1000),
        )

    return OperationChange(key, decide, failures=failures)


def ended(
    key: OperationKey, holder: str, outcome: str, message: str, event: AuditEvent
) -> OperationChange:
    """Returns the change by which the replica that runs an operation ends it."""

    def decide(current: Operation | None, now: int) -> Operation:
        operation = _held(current, key, holder)
        return replace(
            operation,
            ended_at=now,
            updated_at=now,
            outcome=outcome,
            message=message,
            holder="",
            leased_until=0,
        )

    return OperationChange(key, decide, event)


def _held(current: Operation | None, key: OperationKey, holder: str) -> Operation:
    """Returns an operation that a replica still runs.

    Raises:
        ConcurrentChangeError: Another one runs it, or it is gone.
    """
    if current is None or current.ended or current.holder != holder:
        raise ConcurrentChangeError(
            f"another replica runs operation {key.name} now; this one stops", field="name"
        )
    return current
