"""Named cursors: the positions of readers that pruning must not pass (protocol S0, S11).

A cursor appears, and changes hands, under the lock of the log's head, as pruning does. It advances
without that lock, which is safe: pruning that sees an older position keeps more. A row carries a
MAC, because whoever could move a cursor could have entries pruned that nobody has read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from keyfold_server.domain.cursors import Cursor, CursorKey, CursorReport
from keyfold_server.domain.log import Position
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Cells, cursors, log
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.log_head import Head

_TABLE: Final = cursors.name
_ADD: Final = insert(cursors)
_ONE: Final = select(*cursors.c).where(
    cursors.c.owner == bindparam("of_owner"), cursors.c.name == bindparam("of_name")
)
_REPLACE: Final = (
    update(cursors)
    .where(
        cursors.c.owner == bindparam("of_owner"),
        cursors.c.name == bindparam("of_name"),
        cursors.c.mac == bindparam("of_mac"),
    )
    .values({c: bindparam(c.name) for c in cursors.c if not c.primary_key})
)
_DROP: Final = delete(cursors).where(
    cursors.c.owner == bindparam("of_owner"), cursors.c.name == bindparam("of_name")
)

READ: Final = select(*cursors.c).order_by(cursors.c.owner, cursors.c.name)
"""Reads every cursor; `of` takes the rows."""

WAITING: Final = select(cursors.c.owner, cursors.c.name, log.c.time).join(
    log, log.c.number == cursors.c.number + 1
)
"""Reads the time of the first entry after each cursor; `reports` takes the rows."""


def reading(key: CursorKey) -> Step:
    """Returns the step that reads a cursor; `of` takes the rows."""
    return Step(_ONE, [_of(key)])


def of(found: Iterable[Cells], seal: Seal) -> list[Cursor]:
    """Returns the cursors in some rows.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    known = []
    for row in found:
        seal.check(_TABLE, row)
        owner, name, number, entry_id, *others = row[:-1]
        known.append(Cursor(CursorKey(owner, name), Position(number, entry_id), *others))
    return known


def reports(
    found: Iterable[Cells], waiting: Iterable[Cells], head: Head, now: int, seal: Seal
) -> list[CursorReport]:
    """Returns every cursor, and how far behind it is.

    Args:
        found: What `READ` read.
        waiting: What `WAITING` read.
        head: The head of the log.
        now: Milliseconds of Unix time, by the store's clock.
        seal: Checks the rows.

    Raises:
        RowNotAuthenticError: A row of a cursor is not authentic.
    """
    since = {CursorKey(owner, name): time for owner, name, time in waiting}
    return [
        CursorReport(
            cursor,
            max(0, head.newest.number - cursor.position.number),
            max(0, now - since.get(cursor.key, now)),
        )
        for cursor in of(found, seal)
    ]


def lowest(connection: Connection, seal: Seal) -> int | None:
    """Returns the lowest number at which a live cursor stands, or None if none lives.

    It reads every row, and not the lowest number alone: whoever changed a row must not have
    entries pruned by that.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    found = of((tuple(row) for row in connection.execute(READ)), seal)
    return min((c.position.number for c in found if c.expired_at is None), default=None)


def count(connection: Connection, owner: str) -> tuple[int, int]:
    """Counts the cursors of an owner, and those of all."""
    mine = func.count().filter(cursors.c.owner == owner)
    counted = connection.execute(select(mine, func.count()).select_from(cursors)).one()
    return counted[0], counted[1]


def add(connection: Connection, cursor: Cursor, seal: Seal) -> None:
    """Adds a cursor; the database refuses a second one of the same key."""
    rows.write(connection, _ADD, [rows.named(cursors, sealed(cursor, seal))])


def replace(connection: Connection, old: Cursor, new: Cursor, seal: Seal) -> bool:
    """Writes a cursor in place of what it was; returns False if another transaction came first."""
    values = rows.named(cursors, sealed(new, seal)) | _of(old.key) | {"of_mac": _mac(old, seal)}
    del values["owner"], values["name"]
    return rows.count(connection, _REPLACE, [values]) == 1


def drop(connection: Connection, key: CursorKey) -> bool:
    """Deletes a cursor; returns False if it is not there."""
    return rows.count(connection, _DROP, [_of(key)]) == 1


def sealed(cursor: Cursor, seal: Seal) -> Cells:
    """Returns a cursor's row with its MAC."""
    return seal.sealed(
        _TABLE,
        (
            cursor.key.owner,
            cursor.key.name,
            cursor.position.number,
            cursor.position.entry_id,
            cursor.session,
            cursor.scope,
            cursor.created_at,
            cursor.advanced_at,
            cursor.expired_at,
        ),
    )


def _mac(cursor: Cursor, seal: Seal) -> bytes:
    mac: bytes = sealed(cursor, seal)[-1]
    return mac


def _of(key: CursorKey) -> dict[str, str]:
    return {"of_owner": key.owner, "of_name": key.name}
