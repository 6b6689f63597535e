"""The counter's row: the ends of the sequence of changes (protocol S1, S11).

It names the newest change, and as a checkpoint the last change that pruning removed. A transaction
locks this row last and holds the lock until it commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from keyfold_server.store.schema import counter
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from keyfold_server.store.seal import Seal

_ROW: Final = 1
_READ: Final = select(*counter.c).where(counter.c.id == _ROW)
_LOCK: Final = _READ.with_for_update()
_SET: Final = update(counter).where(counter.c.id == _ROW)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the sequence of changes.

    Attributes:
        number: Number of the change there, 0 before the first one.
        change_id: The change's random id, empty before the first one.
    """

    number: int
    change_id: bytes


START: Final = Position(0, b"")
"""The position before the first change."""


@dataclass(frozen=True, slots=True)
class Counter:
    """The ends of the sequence of changes.

    Attributes:
        newest: Position of the newest change.
        pruned: Position of the last change that pruning removed: the checkpoint.
    """

    newest: Position
    pruned: Position


def begin(connection: Connection, seal: Seal) -> None:
    """Makes the counter's row in a new store."""
    rows.write(connection, insert(counter), [_sealed(Counter(START, START), seal)])


def read(connection: Connection, seal: Seal, *, lock: bool = False) -> Counter:
    """Reads the counter's row.

    Args:
        connection: A connection inside a transaction.
        seal: Checks the row.
        lock: Locks the row, for a transaction that will write it.

    Raises:
        RowNotAuthenticError: The row is missing or not authentic.
    """
    row = connection.execute(_LOCK if lock else _READ).first()
    if row is None:
        raise not_authentic("counter")
    seal.check("counter", tuple(row))
    return Counter(Position(row[1], row[2]), Position(row[3], row[4]))


def newest(connection: Connection, seal: Seal) -> Position:
    """Reads the position of the newest change.

    Raises:
        RowNotAuthenticError: The counter's row is missing or not authentic.
    """
    return read(connection, seal).newest


def write(connection: Connection, ends: Counter, seal: Seal) -> None:
    """Writes the counter's row, which the transaction has locked."""
    rows.write(connection, _SET, [_sealed(ends, seal)])


def _sealed(ends: Counter, seal: Seal) -> dict[str, object]:
    newest, pruned = ends.newest, ends.pruned
    row = seal.sealed(
        "counter", (_ROW, newest.number, newest.change_id, pruned.number, pruned.change_id)
    )
    return rows.named(counter, row)
