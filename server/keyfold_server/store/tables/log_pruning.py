"""Pruning of the log: removes the oldest entries, and no floor (protocol S10, S11).

Pruning leaves a checkpoint in the head of the log: the last entry that it removed. Before the
newest entry with the floor of a cluster, or of an organization, goes, another entry carries that
floor forward, so that old rows that somebody puts back are never authentic. A ban is carried
forward as a ban, and a tombstone as a tombstone. The ids of erased KEKs are carried forward, too
(protocol D5).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, func, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import AuditEvent, EntryKind, Floor
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import cursors, erased_keks, log, log_chain, log_head
from keyfold_server.store.tables.log import Draft, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.tables.log_head import Head

_PRUNED: Final = 5_000
"""Most entries that one transaction prunes, so that no other waits long for its turn."""

_AT_ONCE: Final = 1_000
"""Most names in one statement (protocol S12)."""

_KEEPING: Final = AuditEvent("", "store:floor:keep", "done", "{}")


def prune(connection: Connection, before: int, passed: int | None, stamp: Stamp) -> bool:
    """Removes the oldest entries and leaves a checkpoint; it keeps the last entry before a time.

    It removes only the lowest numbers without a gap, whatever the clock did meanwhile: a gap would
    look like a rollback.

    Args:
        connection: A connection inside a transaction that writes.
        before: Milliseconds of Unix time. Later entries stay.
        passed: The entry that every live replica has applied, which stays too; None: nobody lives.
            So do those from where a live cursor stands.
        stamp: For the entries that pruning writes itself.

    Returns:
        Whether there are more entries to remove.

    Raises:
        RowNotAuthenticError: An entry that would go, a cursor, or the head of the log, is not
            authentic, or the database did not remove the entries.
        LostRaceError: A cursor has appeared among the entries that would go.
    """
    head = log_head.read(connection, stamp.seal)
    standing = cursors.lowest(connection, stamp.seal)
    end = _end(connection, head, before, [n for n in (passed, standing) if n is not None])
    last = min(end, head.pruned.number + _PRUNED)
    if last <= head.pruned.number:
        return False
    gone = log.between(connection, head.pruned.number + 1, last)
    if len(gone) < last - head.pruned.number and log_head.read(connection, stamp.seal) != head:
        # Another replica has pruned meanwhile.
        return True
    # Never without a look: whoever changed an entry could otherwise wait until it is pruned.
    rows = list(log_chain.followed(gone, head.pruned, head.pruned_mac, stamp.seal))
    if len(rows) < last - head.pruned.number:
        raise log_chain.broken(head.pruned.number + len(rows) + 1)
    _remove(connection, rows, stamp)
    return last < end


def _end(connection: Connection, head: Head, before: int, needed: Iterable[int]) -> int:
    """Returns the number of the last entry that may go."""
    first_kept = connection.execute(
        select(func.min(table.c.number)).where(table.c.time >= before)
    ).scalar()
    kept = head.newest.number if first_kept is None else first_kept - 1
    return min((kept, *needed)) - 1


def _remove(connection: Connection, rows: list[Cells], stamp: Stamp) -> None:
    last = log.position(rows[-1])
    removed = connection.execute(delete(table).where(table.c.number <= last.number)).rowcount
    *_, locked = stamp.dialect.trip(connection, log.closing(stamp.dialect, wake=False))
    head = log_head.of(locked.rows, stamp.seal)
    if head.pruned.number >= last.number:
        return  # Another replica has pruned this far meanwhile, and kept the floors.
    # Under the lock, because a reader may have made a cursor since the first look.
    standing = cursors.lowest(connection, stamp.seal)
    if standing is not None and standing <= last.number:
        raise LostRaceError
    if removed != last.number - head.pruned.number:
        raise RowNotAuthenticError(
            "the database did not remove the oldest entries of the log, and reported success: look "
            "for triggers, rules and row-security policies on log, and find out who made them"
        )
    # Under the lock, so that no decision can come after the floor that is carried forward.
    going = _going(connection, rows)
    drafts = [
        Draft(
            EntryKind.BAN if floor.banned else EntryKind.KEPT,
            _KEEPING,
            cluster=name,
            floor=floor,
            organization=organization,
        )
        for name, (floor, organization) in going.items()
    ]
    drafts += [
        Draft(EntryKind.KEPT, _KEEPING, floor=floor, organization=name)
        for name, floor in _organizations_going(connection, rows).items()
    ]
    drafts += _erasures(rows)
    detail = {"count": removed, "through": last.number}
    event = AuditEvent("", "store:log:prune", "done", json.dumps(detail, separators=(",", ":")))
    drafts.append(Draft(EntryKind.PRUNING, event))
    head = replace(head, pruned=last, pruned_mac=rows[-1][-1])
    _, ending = log.ended(head, drafts, stamp)
    stamp.dialect.finish(connection, ending, commit=False)


def _erasures(rows: Iterable[Cells]) -> Iterator[Draft]:
    """Yields an entry for each erasure that goes, or was carried forward: the ids stay (D5)."""
    for row in rows:
        if erased_keks.are_in(row):
            yield Draft(
                EntryKind.KEPT,
                _KEEPING,
                cluster=row[log.CLUSTER],
                uid=row[log.UID],
                organization=row[log.ORGANIZATION],
                decision=row[log.DECISION],
            )


def _going(connection: Connection, rows: Iterable[Cells]) -> Mapping[str, tuple[Floor, str | None]]:
    """Returns the floors, by cluster, of which the log has no entry but those that go.

    With each comes the cluster's organization.
    """
    floors = {
        row[log.CLUSTER]: (floor, row[log.ORGANIZATION])
        for row in rows
        if (floor := log.floor(row)) is not None
    }
    names = sorted(floors)
    for first in range(0, len(names), _AT_ONCE):
        some = table.c.cluster.in_(names[first : first + _AT_ONCE])
        left = select(table.c.cluster).where(some, table.c.version.is_not(None)).distinct()
        for name in connection.execute(left).scalars():
            del floors[name]
    return floors


def _organizations_going(connection: Connection, rows: Iterable[Cells]) -> Mapping[str, Floor]:
    """Returns the floors, by organization, of which the log has no entry but those that go.

    That of a deleted organization stays, too, so that nobody can put its rows back.
    """
    floors = dict(found for row in rows if (found := log.organization_floor(row)) is not None)
    names = sorted(floors)
    for first in range(0, len(names), _AT_ONCE):
        some = table.c.organization.in_(names[first : first + _AT_ONCE])
        own = table.c.cluster.is_(None) & table.c.version.is_not(None)
        for name in connection.execute(
            select(table.c.organization).where(some, own).distinct()
        ).scalars():
            del floors[name]
    return floors
