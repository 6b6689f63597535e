"""The log: what happened, in one sealed and chained sequence (protocol S0, S1).

A transaction locks the head of the log last and holds it until the commit. So whoever sees entry n
also sees every entry before it. Each entry has a random id besides its number. By it a replica
notices a store that was rolled back and whose numbers went on in another way. Each entry holds the
MAC of the entry before, so nobody can take one out, move one or put another in its place.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, insert, literal_column, select

from keyfold_server.domain.erasure import Tombstone
from keyfold_server.domain.log import AuditEvent, EntryKind, Floor
from keyfold_server.store.database.trip import Ending, Step
from keyfold_server.store.schema import Cells, log
from keyfold_server.store.schema import log_head as log_head_table
from keyfold_server.store.tables import log_head
from keyfold_server.store.tables.log_head import Head, Position
from keyfold_server.store.tables.rows import named, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal

_ID_SIZE: Final = 16
_ADD: Final = insert(log)

_RECONCILIATIONS: Final = 300
"""Most reconciliations that a replica reads at once: the newest ones."""

NUMBER: Final = list(log.columns).index(log.c.number)
ENTRY_ID: Final = list(log.columns).index(log.c.entry_id)
PREV: Final = list(log.columns).index(log.c.prev)
KIND: Final = list(log.columns).index(log.c.kind)
CLUSTER: Final = list(log.columns).index(log.c.cluster)
UID: Final = list(log.columns).index(log.c.cluster_uid)
ORGANIZATION: Final = list(log.columns).index(log.c.organization)
ROOT: Final = list(log.columns).index(log.c.root)
KEK: Final = list(log.columns).index(log.c.kek)
REPLICA: Final = list(log.columns).index(log.c.replica)
_VERSION: Final = list(log.columns).index(log.c.version)
DETAIL: Final = list(log.columns).index(log.c.detail)
DECISION: Final = list(log.columns).index(log.c.decision)


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it has its number.

    Attributes:
        kind: The kind.
        event: Who attempted what, and what came of it.
        cluster: The cluster's name, or None.
        uid: The uid of the cluster, or of the operation, or None.
        root: The root key id of a refusal or a transition, or None.
        kek: The one KEK that was refused again, or None.
        floor: The cluster's own row as the entry leaves it, or None.
        decision: What the entry decided, as JSON, or None.
        organization: The organization of the cluster; None: the one that the event names, if any.
    """

    kind: EntryKind
    event: AuditEvent
    cluster: str | None = None
    uid: bytes | None = None
    root: str | None = None
    kek: bytes | None = None
    floor: Floor | None = None
    decision: str | None = None
    organization: str | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all entries of a transaction have in common.

    Attributes:
        replica: Name of the replica that writes them.
        now: Milliseconds of Unix time, by the store's clock.
        seal: Seals and checks entries.
        dialect: Differences of this database from others.
    """

    replica: str
    now: int
    seal: Seal
    dialect: Dialect


def closing(dialect: Dialect, *, wake: bool) -> list[Step]:
    """Returns the last steps before entries get their numbers; the last one locks the head.

    What the transaction deferred runs before that, so that nobody waits for it under the lock.

    Args:
        dialect: Differences of this database from others.
        wake: Whether other replicas shall poll at once, because the entries are news.
    """
    return [*dialect.settling(wake=wake), Step(log_head.LOCK)]


def ended(head: Head, drafts: Sequence[Draft], stamp: Stamp) -> tuple[list[Position], Ending]:
    """Numbers entries after the head, which the transaction has locked.

    Returns:
        The position of each entry, in the order of the drafts; and the rows to write last.
    """
    cells: list[Cells] = []
    mac, reconciliation = head.mac, head.reconciliation
    for number, draft in enumerate(drafts, head.newest.number + 1):
        row = sealed(number, mac, draft, stamp)
        cells.append(row)
        mac = row[-1]
        if draft.kind is EntryKind.RECONCILIATION:
            reconciliation = row[ENTRY_ID]
    made = [position(row) for row in cells]
    after = replace(head, newest=made[-1], mac=mac, reconciliation=reconciliation)
    return made, Ending(log, cells, log_head_table, log_head.sealed(after, stamp.seal))


def append(connection: Connection, drafts: Sequence[Draft], stamp: Stamp) -> list[Position]:
    """Appends entries in a transaction of a command, whose round trips nobody counts.

    Returns:
        The position of each entry, in the order of the drafts.
    """
    *_, locked = stamp.dialect.trip(connection, closing(stamp.dialect, wake=True))
    made, ending = ended(log_head.of(locked.rows, stamp.seal), drafts, stamp)
    stamp.dialect.finish(connection, ending, commit=False)
    return made


def insert_rows(connection: Connection, cells: Sequence[Cells]) -> None:
    """Inserts sealed entries."""
    write(connection, _ADD, [named(log, row) for row in cells])


def sealed(number: int, prev: bytes, draft: Draft, stamp: Stamp) -> Cells:
    """Returns the row of an entry.

    Args:
        number: The entry's number.
        prev: The MAC of the entry before.
        draft: The entry.
        stamp: For the entry.
    """
    event, floor, key = draft.event, draft.floor, draft.event.key
    decided: Cells = (None, None, None)
    if floor is not None:
        decided = (floor.version, floor.epoch, None if floor.erased else floor.row)
    return stamp.seal.sealed(
        "log",
        (
            number,
            secrets.token_bytes(_ID_SIZE),
            prev,
            stamp.now,
            draft.kind.value,
            draft.cluster,
            draft.uid if floor is None else floor.uid,
            draft.organization or _text(event.organization),
            draft.root,
            draft.kek,
            *((None, None, None) if key is None else (key.type, key.uri, key.principal)),
            stamp.replica,
            event.caller,
            event.proof,
            event.address,
            event.on_behalf_of,
            event.action,
            event.outcome,
            event.detail,
            _text(event.message),
            _text(event.request_id),
            _text(event.trace_id),
            _text(event.kms_request_id),
            *decided,
            draft.decision,
        ),
    )


def _text(value: str) -> str | None:
    """Returns a text as a column holds it: no database takes a NUL, and NULL stands for empty."""
    return value.replace("\0", "") or None


def position(row: Cells) -> Position:
    """Returns the position of an entry's row."""
    return Position(row[NUMBER], row[ENTRY_ID])


def floor(row: Cells) -> Floor | None:
    """Returns the floor of a cluster in an entry's row, or None if the entry has none."""
    version, epoch, row_mac = row[_VERSION : _VERSION + 3]
    if version is None or row[CLUSTER] is None:
        return None
    return Floor(
        row[UID],
        version,
        epoch,
        row_mac or b"",
        banned=row[KIND] == EntryKind.BAN.value,
        erased=row_mac is None,
    )


def tombstone(row: Cells) -> Tombstone | None:
    """Returns the tombstone in an entry's row, or None if the entry is none."""
    found = floor(row)
    if found is None or not found.erased:
        return None
    return Tombstone(
        row[CLUSTER], found.uid, row[ORGANIZATION], found.version, found.epoch, row[NUMBER]
    )


def organization_floor(row: Cells) -> tuple[str, Floor] | None:
    """Returns the organization about which an entry decides, and its floor; None: no such entry.

    Its floor has neither uid nor epoch. After a deletion it has no row, either.
    """
    version, epoch, row_mac = row[_VERSION : _VERSION + 3]
    if version is None or row[CLUSTER] is not None:
        return None
    return row[ORGANIZATION], Floor(b"", version, epoch, row_mac)


AT: Final = select(*log.c).where(log.c.number == bindparam("number"))
"""Reads the entry of a number."""


def between(connection: Connection, first: int, last: int) -> list[Cells]:
    """Reads the entries from a number to another, both included, without checking them."""
    chosen = select(*log.c).where(log.c.number >= first, log.c.number <= last)
    return [tuple(row) for row in connection.execute(chosen.order_by(log.c.number)).all()]


def reconciliations(connection: Connection, seal: Seal) -> list[bytes]:
    """Returns the ids of the newest reconciliations that the log still has, the newest one first.

    Raises:
        RowNotAuthenticError: The entry of a reconciliation is not authentic.
    """
    rows = connection.execute(
        select(*log.c)
        # A literal, since no partial index answers a parameter.
        .where(log.c.kind == literal_column(f"'{EntryKind.RECONCILIATION.value}'"))
        .order_by(log.c.number.desc())
        .limit(_RECONCILIATIONS)
    ).all()
    for row in rows:
        seal.check("log", tuple(row))
    return [row[ENTRY_ID] for row in rows]
