"""Heartbeats: which replicas exist, and what each has applied (protocol S2, R4).

A heartbeat is an observation, but Revoke relies on it. So each row has a MAC, and nobody can make a
replica seem to have confirmed a change. One clock measures silence; two are never compared.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    bindparam,
    delete,
    insert,
    or_,
    select,
)

from keyfold_server.domain.ports import Heartbeat, ReplicaRow
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Bytes, Cells, log, log_head, replicas
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Insert

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.log_head import Position


def staleness(beat: Heartbeat) -> int:
    """Returns the milliseconds that a replica may serve without the store."""
    return round(beat.max_staleness * 1000)


def _row(beat: Heartbeat, seen_at: int, seal: Seal) -> Cells:
    return seal.sealed(
        "replicas",
        (
            beat.replica,
            beat.number,
            beat.entry_id,
            staleness(beat),
            beat.time,
            seen_at,
            None if beat.serves is None else "\n".join(sorted(beat.serves)),
        ),
    )


def _named(row: Cells) -> dict[str, object]:
    return dict(zip(replicas.columns.keys(), row, strict=True))


def add(connection: Connection, beat: Heartbeat, seen_at: int, seal: Seal) -> None:
    """Adds a replica; the database refuses a second one of the same name (protocol S4)."""
    rows.write(connection, insert(replicas), [_named(_row(beat, seen_at, seal))])


def write(
    connection: Connection, beat: Heartbeat, seen_at: int, seal: Seal, dialect: Dialect
) -> None:
    """Writes a heartbeat."""
    rows.write(connection, dialect.upsert(replicas), [_named(_row(beat, seen_at, seal))])


def beating(
    beat: Heartbeat, seen_at: int, known: Sequence[Position], seal: Seal, dialect: Dialect
) -> Step:
    """Returns the step that writes a heartbeat if the store has what the replica knows.

    Args:
        beat: The heartbeat.
        seen_at: Milliseconds of Unix time, by the store's clock; not before the heartbeat began.
        known: The places in the log whose entries the store must have, or have pruned last: at
            most two.
        seal: Seals the row.
        dialect: Differences of this database from others.
    """
    first, last = known[0], known[-1]
    places = {
        "first": first.number,
        "first_id": first.entry_id,
        "last": last.number,
        "last_id": last.entry_id,
    }
    return Step(_beating(dialect), [_named(_row(beat, seen_at, seal)) | places])


@cache
def _beating(dialect: Dialect) -> Insert:
    cells = (bindparam(c.name, type_=c.type) for c in replicas.columns)
    chosen = select(*cells).where(_has("first"), _has("last"))
    return dialect.upsert(replicas).from_select(replicas.columns.keys(), chosen)


def _has(place: str) -> ColumnElement[bool]:
    number, entry_id = (
        bindparam(place, type_=BigInteger),
        bindparam(f"{place}_id", type_=Bytes),
    )
    entry = select(log.c.number).where(log.c.number == number, log.c.entry_id == entry_id)
    ends = select(log_head.c.id).where(
        log_head.c.pruned_number == number, log_head.c.pruned_id == entry_id
    )
    return or_(entry.exists(), ends.exists())


def remove(connection: Connection, replica: str) -> None:
    """Removes a replica that stops."""
    connection.execute(delete(replicas).where(replicas.c.replica == replica))


def remove_others(connection: Connection, mine: Collection[str]) -> None:
    """Removes all replicas except those in `mine`."""
    connection.execute(delete(replicas).where(replicas.c.replica.not_in(mine)))


def prune(connection: Connection, before: int) -> None:
    """Removes replicas whose last heartbeat is from before a time."""
    connection.execute(delete(replicas).where(replicas.c.seen_at < before))


READ: Final = select(*replicas.c).order_by(replicas.c.replica)
"""Reads every replica, ordered by name; `of` takes what it returns."""


def of(found: Sequence[Cells], now: int, seal: Seal) -> list[ReplicaRow]:
    """Returns the replicas in the rows that `READ` returned.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    known = []
    for row in found:
        seal.check("replicas", row)
        # Silence must not become negative if somebody sets the clock back.
        silent = max(0, now - row[5]) / 1000
        serves = None if row[6] is None else frozenset(row[6].split("\n"))
        known.append(ReplicaRow(row[0], row[1], row[3] / 1000, silent, serves))
    return known
