"""The head of the log: one row that names both ends of the log (protocol S1, S11).

It names the newest entry and, as a checkpoint, the last entry that pruning removed, each by its
number, its random id and its MAC. It also names the newest reconciliation, so that whoever reads
the head learns of it at once. A transaction locks this row last and holds the lock until it
commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from keyfold_server.domain.log import START, Position
from keyfold_server.store.schema import log_head
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

__all__ = ["LOCK", "READ", "START", "Head", "Position", "begin", "of", "read", "sealed", "write"]

_ROW: Final = 1
_RECONCILIATION: Final = list(log_head.columns).index(log_head.c.reconciliation)

READ: Final = select(*log_head.c).where(log_head.c.id == _ROW)
"""Reads the row; `of` takes what it returns."""

LOCK: Final = READ.with_for_update()
"""Reads the row as `READ` does, and locks it for a transaction that will write it."""


@dataclass(frozen=True, slots=True)
class Head:
    """Both ends of the log.

    Attributes:
        newest: Position of the newest entry.
        mac: The newest entry's MAC, empty before the first entry.
        pruned: Position of the last entry that pruning removed: the checkpoint.
        pruned_mac: That entry's MAC, empty if pruning has removed no entry.
        reconciliation: Id of the newest entry by which an operator reconciled the store, even if
            pruning has removed that entry; empty before the first one.
    """

    newest: Position = START
    mac: bytes = b""
    pruned: Position = START
    pruned_mac: bytes = b""
    reconciliation: bytes = b""


def begin(connection: Connection, seal: Seal) -> None:
    """Makes the row in a new store."""
    rows.write(connection, insert(log_head), [rows.named(log_head, sealed(Head(), seal))])


def read(connection: Connection, seal: Seal, *, lock: bool = False) -> Head:
    """Reads the row.

    Args:
        connection: A connection inside a transaction.
        seal: Checks the row.
        lock: Locks the row, for a transaction that will write it.

    Raises:
        RowNotAuthenticError: The row is missing or not authentic.
    """
    return of([tuple(row) for row in connection.execute(LOCK if lock else READ)], seal)


def of(found: Sequence[Cells], seal: Seal) -> Head:
    """Returns the head in the rows that `READ` or `LOCK` returned.

    Raises:
        RowNotAuthenticError: The row is missing or not authentic.
    """
    if not found:
        raise not_authentic("log_head")
    seal.check("log_head", found[0])
    _, number, entry_id, mac, pruned_number, pruned_id, pruned_mac, reconciliation, _ = found[0]
    newest, pruned = Position(number, entry_id), Position(pruned_number, pruned_id)
    return Head(newest, mac, pruned, pruned_mac, reconciliation)


def reconciliation(row: Cells) -> bytes:
    """Returns the id of the newest reconciliation in a row that `sealed` returned."""
    found: bytes = row[_RECONCILIATION]
    return found


def write(connection: Connection, head: Head, seal: Seal) -> None:
    """Writes the row, which the transaction has locked."""
    _, *cells = sealed(head, seal)
    values = dict(zip(log_head.columns.keys()[1:], cells, strict=True))
    rows.write(connection, update(log_head).where(log_head.c.id == _ROW), [values])


def sealed(head: Head, seal: Seal) -> Cells:
    """Returns the row of a head."""
    newest, pruned = head.newest, head.pruned
    return seal.sealed(
        "log_head",
        (
            _ROW,
            newest.number,
            newest.entry_id,
            head.mac,
            pruned.number,
            pruned.entry_id,
            head.pruned_mac,
            head.reconciliation,
        ),
    )
