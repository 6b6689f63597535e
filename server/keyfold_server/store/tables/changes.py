"""Numbered changes, by which replicas learn what to drop (protocol S1).

The counter's row is taken last in a transaction and held to the commit: so whoever sees number
n sees all before it. Each number comes with a random id, so that a store that was rolled back and
went on another way is told from the one that a replica knew.
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
_NOTE: Final = insert(changes)
_NAMES: Final = tuple(column.name for column in changes.columns)


@dataclass(frozen=True, slots=True)
class Position:
    """The newest change.

    Attributes:
        number: Its number, 0 before the first.
        change_id: Its random id, empty before the first.
    """

    number: int
    change_id: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """What a change is about: a cluster, or a root key that was refused.

    Attributes:
        cluster: The cluster's name.
        root: The root key id.
        kek: The one KEK that the root key would not open, where its refusal was told before.
    """

    cluster: str | None = None
    root: str | None = None
    kek: bytes | None = None


def begin(connection: Connection, seal: Seal) -> None:
    """Makes the counter's row in a new store."""
    row = seal.sealed("counter", (_ROW, 0, b""))
    connection.execute(insert(counter).values(row))


def newest(connection: Connection, seal: Seal, *, lock: bool = False) -> Position:
    """Reads the counter, under its lock where a number will be taken.

    Raises:
        RowNotAuthenticError: The counter's row is missing or not authentic.
    """
    row = connection.execute(_LOCK if lock else _READ).first()
    if row is None:
        raise not_authentic("counter")
    seal.check("counter", tuple(row))
    return Position(row[1], row[2])


def id_of(connection: Connection, number: int, seal: Seal) -> bytes | None:
    """Returns a change's random id, or None where there is no such change.

    Raises:
        RowNotAuthenticError: Its row is not authentic.
    """
    row = connection.execute(select(*changes.c).where(changes.c.number == number)).first()
    if row is None:
        return None
    seal.check("changes", tuple(row), row[2])
    return bytes(row[1])


def note(
    connection: Connection,
    subjects: Sequence[Subject],
    replica: str,
    now: int,
    seal: Seal,
    dialect: Dialect,
) -> list[Position]:
    """Gives each subject the next number; the last thing that a transaction does.

    Returns:
        The change before the first that was made here, then each that was.
    """
    if subjects:
        # Before the lock, so that nobody waits for this, too.
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
        connection.execute(_NOTE, [dict(zip(_NAMES, row, strict=True)) for row in rows])
    return [before, *(Position(row[0], row[1]) for row in rows)]


def since(connection: Connection, beat: Heartbeat, seal: Seal) -> list[RecordedChange]:
    """Reads the changes after the one that a replica has applied.

    Raises:
        StoreRolledBackError: The store does not have that one, or not all that followed it.
        RowNotAuthenticError: A change's row is not authentic.
    """
    last = newest(connection, seal)
    rows = connection.execute(
        select(*changes.c)
        # The replica's own last change, too: it must be there with the same id.
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
            f"the store does not have change {beat.number} as replica {beat.replica} knew it, or "
            "not all after it: it was rolled back, or is another store"
        )
    return chain[1:]


def prune(connection: Connection, before: int, seal: Seal) -> None:
    """Removes changes made before a time, the newest never.

    A prefix of the numbers and nothing else, whatever the clock did meanwhile: a gap would look
    like a rollback.
    """
    last = newest(connection, seal).number
    kept = connection.execute(
        select(func.min(changes.c.number)).where(changes.c.created_at >= before)
    ).scalar()
    end = last if kept is None else min(kept, last)
    connection.execute(delete(changes).where(changes.c.number < end))
