"""Heartbeats: which replicas there are, and what each has applied (protocol S2, R4).

Observations, but Revoke relies on them, so each row has a MAC of its own: nobody can make a
replica seem to have confirmed. Silence is measured by one clock, never by comparing two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from keyfold_server.domain.ports import Heartbeat, ReplicaRow
from keyfold_server.store.schema import Cells, replicas

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal


def staleness(beat: Heartbeat) -> int:
    """Returns for how many milliseconds a replica may go without the store."""
    return round(beat.max_staleness * 1000)


def _row(beat: Heartbeat, seen_at: int, seal: Seal) -> Cells:
    return seal.sealed(
        "replicas",
        (beat.replica, beat.number, beat.change_id, staleness(beat), beat.time, seen_at),
    )


def _named(row: Cells) -> dict[str, object]:
    return dict(zip(replicas.columns.keys(), row, strict=True))


def add(connection: Connection, beat: Heartbeat, seen_at: int, seal: Seal) -> None:
    """Adds a replica; the database refuses a second one of the same name (protocol S4)."""
    connection.execute(insert(replicas), [_named(_row(beat, seen_at, seal))])


def write(
    connection: Connection, beat: Heartbeat, seen_at: int, seal: Seal, dialect: Dialect
) -> None:
    """Writes a heartbeat."""
    connection.execute(dialect.upsert(replicas), [_named(_row(beat, seen_at, seal))])


def remove(connection: Connection, replica: str) -> None:
    """Removes a replica that stops."""
    connection.execute(delete(replicas).where(replicas.c.replica == replica))


def remove_others(connection: Connection, mine: Collection[str]) -> None:
    """Removes all replicas but these."""
    connection.execute(delete(replicas).where(replicas.c.replica.not_in(mine)))


def prune(connection: Connection, before: int) -> None:
    """Removes replicas that were last heard before a time."""
    connection.execute(delete(replicas).where(replicas.c.seen_at < before))


def read(connection: Connection, now: int, seal: Seal) -> list[ReplicaRow]:
    """Reads every replica, by name.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    rows = connection.execute(select(*replicas.c).order_by(replicas.c.replica)).all()
    found = []
    for row in map(tuple, rows):
        seal.check("replicas", row)
        # A clock that was set back must not make silence negative.
        silent = max(0, now - row[5]) / 1000
        found.append(ReplicaRow(row[0], row[1], row[3] / 1000, silent))
    return found
