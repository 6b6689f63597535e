"""Heartbeats: which replicas exist, and what each has applied (protocol S2, R4).

A heartbeat is an observation, but Revoke relies on it. So each row has a MAC, and nobody can make a
replica seem to have confirmed a change. One clock measures silence; two are never compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from keyfold_server.domain.ports import Heartbeat, ReplicaRow
from keyfold_server.store.schema import Cells, replicas
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal


def staleness(beat: Heartbeat) -> int:
    """Returns the milliseconds that a replica may serve without the store."""
    return round(beat.max_staleness * 1000)


def _row(beat: Heartbeat, seen_at: int, seal: Seal) -> Cells:
    return seal.sealed(
        "replicas",
        (beat.replica, beat.number, beat.entry_id, staleness(beat), beat.time, seen_at),
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


def remove(connection: Connection, replica: str) -> None:
    """Removes a replica that stops."""
    connection.execute(delete(replicas).where(replicas.c.replica == replica))


def remove_others(connection: Connection, mine: Collection[str]) -> None:
    """Removes all replicas except those in `mine`."""
    connection.execute(delete(replicas).where(replicas.c.replica.not_in(mine)))


def prune(connection: Connection, before: int) -> None:
    """Removes replicas whose last heartbeat is from before a time."""
    connection.execute(delete(replicas).where(replicas.c.seen_at < before))


def read(connection: Connection, now: int, seal: Seal) -> list[ReplicaRow]:
    """Reads every replica, ordered by name.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    stored = connection.execute(select(*replicas.c).order_by(replicas.c.replica)).all()
    found = []
    for row in map(tuple, stored):
        seal.check("replicas", row)
        # Silence must not become negative if somebody sets the clock back.
        silent = max(0, now - row[5]) / 1000
        found.append(ReplicaRow(row[0], row[1], row[3] / 1000, silent))
    return found
