"""The chain of the log: verifies that each entry follows the one before (protocol A3, S0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.log_head import Head, Position

_PAGE: Final = 1_000
"""Entries that are read at a time."""


def broken(number: int) -> RowNotAuthenticError:
    """Returns the error about an entry that does not continue the log."""
    return RowNotAuthenticError(
        f"entry {number} of the log is missing, or is not the one that Keyfold wrote after entry "
        f"{number - 1}: somebody else wrote the store; find out who did, and restore it from a "
        "backup"
    )


def followed(rows: Iterable[Cells], last: Position, mac: bytes, seal: Seal) -> Iterator[Cells]:
    """Yields entries, each verified and the one that follows the entry before.

    Args:
        rows: Rows of the log, by number.
        last: Position of the entry before the first row.
        mac: That entry's MAC.
        seal: Checks the rows.

    Raises:
        RowNotAuthenticError: An entry was changed, removed, moved or added; the message has the
            number of the first such entry.
    """
    number = last.number
    for row in rows:
        number += 1
        try:
            seal.check("log", row)
        except RowNotAuthenticError:
            raise broken(number) from None
        if row[log.NUMBER] != number or row[log.PREV] != mac:
            raise broken(number)
        mac = row[-1]
        yield row


def verified(connection: Connection, head: Head, seal: Seal) -> Iterator[Cells]:
    """Yields every entry from the checkpoint to the head, verified.

    Raises:
        RowNotAuthenticError: An entry was changed, removed, moved or added; the message has the
            number of the first such entry.
    """
    last, mac = head.pruned, head.pruned_mac
    while last.number < head.newest.number:
        rows = log.between(connection, last.number + 1, last.number + _PAGE)
        for row in followed(rows, last, mac, seal):
            last, mac = log.position(row), row[-1]
            yield row
        if not rows:
            raise broken(last.number + 1)
    ends = connection.execute(select(func.min(table.c.number), func.max(table.c.number))).one()
    if (last, mac) != (head.newest, head.mac):
        raise broken(last.number)
    if ends[0] is not None and not head.pruned.number < ends[0] <= ends[1] <= head.newest.number:
        raise broken(ends[0] if ends[0] <= head.pruned.number else ends[1])
