"""Numbered changes, by which replicas learn what to drop (protocol S1).

A transaction locks the counter's row last and holds it until the commit. So whoever sees change n
also sees every change before it. Each change has a random id besides its number. By it a replica
notices a store that was rolled back and whose numbers went on in another way.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, func, insert, select, update

from keyfold_server.domain.changes import RecordedChange
from keyfold_server.domain.errors import StoreRolledBackError
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store.schema import changes, counter
from keyfold_server.store.seal import not_authentic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal

_ROW: Final = 1
_ID_SIZE: Final = 16
_READ: Final = select(*counter.c).where(counter.c.id == _ROW)
_LOCK: Final = _READ.with_for_update()
_SET: Final = update(counter).where(counter.c.id == _ROW)
_ADD: Final = insert(changes)
_NAMES: Final = tuple(column.name for column in changes.columns)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the sequence of changes.

    Attributes:
        number: Number of the change there, 0 before the first one.
        change_id: The change's random id, empty before the first one.
    """

    number: int
    change_id: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a change: a cluster, or a root key that its KMS refused.

    Attributes:
        cluster: The cluster's name.
        root: The root key id.
        kek: If replicas know of the refusal already: the KEK that the KMS refused again.
    """

    cluster: str | None = None
    root: str | None = None
    kek: bytes | None = None


def begin(connection: Connection, seal: Seal) -> None:
    """Makes the counter's row in a new store."""
    row = seal.sealed("counter", (_ROW, 0, b""))
    connection.execute(insert(counter).values(row))


def newest(connection: Connection, seal: Seal, *, lock: bool = False) -> Position:
    """Reads the position of the newest change.

    Args:
        connection: A connection inside a transaction.
        seal: Checks the counter's row.
        lock: Locks the counter's row, for a transaction that will assign a number.

    Raises:
        RowNotAuthenticError: The counter's row is missing or not authentic.
    """
    row = connection.execute(_LOCK if lock else _READ).first()
    if row is None:
        raise not_authentic("counter")
    seal.check("counter", tuple(row))
    return Position(row[1], row[2])


def id_of(connection: Connection, number: int, seal: Seal) -> bytes | None:
    """Returns a change's random id, or None if the store does not have the change.

    Raises:
        RowNotAuthenticError: The change's row is not authentic.
    """
    row = connection.execute(select(*changes.c).where(changes.c.number == number)).first()
    if row is None:
        return None
    seal.check("changes", tuple(row), row[2])
    return bytes(row[1])


def record(
    connection: Connection,
    subjects: Sequence[Subject],
    replica: str,
    now: int,
    seal: Seal,
    dialect: Dialect,
) -> list[Position]:
    """Records a change of each subject under the next numbers, as a transaction's last act.

    Returns:
        The position before the first change that this call made, then that of each change.
    """
    if subjects:
        # Before the lock, so that nobody waits for the notification under it.
        dialect.notify(connection)
    before = newest(connection, seal, lock=bool(subjects))
    rows = [
        seal.sealed(
            "changes",
            (
                number,
                secrets.token_bytes(_ID_SIZE),
                subject.cluster,
                subject.root,
                subject.kek,
                replica,
                now,
            ),
        )
        for number, subject in enumerate(subjects, before.number + 1)
    ]
    if rows:
        sealed = seal.sealed("counter", (_ROW, rows[-1][0], rows[-1][1]))
        connection.execute(_SET.values(number=sealed[1], change_id=sealed[2], mac=sealed[3]))
        connection.execute(_ADD, [dict(zip(_NAMES, row, strict=True)) for row in rows])
    return [before, *(Position(row[0], row[1]) for row in rows)]


def since(connection: Connection, beat: Heartbeat, seal: Seal) -> list[RecordedChange]:
    """Reads the changes after the one that a replica has applied, oldest first.

    Raises:
        StoreRolledBackError: The store lacks that change, or one after it.
        RowNotAuthenticError: A change's row is not authentic.
    """
    last = newest(connection, seal)
    rows = connection.execute(
        select(*changes.c)
        # From the replica's last change on, which must be there with the same id.
        .where(changes.c.number >= beat.number, changes.c.number <= last.number)
        .order_by(changes.c.number)
    ).all()
    chain = [RecordedChange(0, b"", None, None, None, "")] if beat.number == 0 else []
    for row in map(tuple, rows):
        seal.check("changes", row, row[2])
        chain.append(RecordedChange(*row[:6]))
    if (
        not chain
        or [noted.number for noted in chain] != list(range(beat.number, last.number + 1))
        or chain[0].change_id != beat.change_id
        or chain[-1].change_id != last.change_id
    ):
        raise StoreRolledBackError(
            f"the store lacks change {beat.number} as replica {beat.replica} knew it, or a change "
            "after it: it was rolled back, or is another store"
        )
    return chain[1:]


def prune(connection: Connection, before: int, seal: Seal) -> None:
    """Removes changes from before a time, but never the newest change.

    It removes only the lowest numbers without a gap, whatever the clock did meanwhile: a gap would
    look like a rollback.
    """
    last = newest(connection, seal).number
    kept = connection.execute(
        select(func.min(changes.c.number)).where(changes.c.created_at >= before)
    ).scalar()
    end = last if kept is None else min(kept, last)
    connection.execute(delete(changes).where(changes.c.number < end))
