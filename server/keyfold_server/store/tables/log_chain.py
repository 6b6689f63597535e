"""The chain of the log: verifies that each entry follows the one before (protocol A3, S0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.events import LogCheck, LogMark
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import log, log_head
from keyfold_server.store.tables.log_head import Position

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.log_head import Head

_PAGE: Final = 1_000
"""Entries that are read at a time."""


def broken(number: int) -> RowNotAuthenticError:
    """Returns the error about an entry that does not continue the log."""
    error = RowNotAuthenticError(
        f"entry {number} of the log is missing, or is not the one that Keyfold wrote after entry "
        f"{number - 1}: somebody else wrote the store; find out who did, and restore it from a "
        "backup"
    )
    error.entry = number
    return error


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


def checked(connection: Connection, after: LogMark | None, limit: int, seal: Seal) -> LogCheck:
    """Verifies the entries after a mark, as `domain.ports.Store.check_log` says.

    Raises:
        RowNotAuthenticError: The head of the log is not authentic.
    """
    # Before the head: an entry beyond the newest one may come with a transaction meanwhile.
    highest = connection.execute(select(func.max(table.c.number))).scalar()
    head = log_head.read(connection, seal)
    start = LogMark(head.pruned.number, head.pruned.entry_id, head.pruned_mac)
    if after is not None and after.number > start.number:
        start = after
    last, newest = start, head.newest.number
    try:
        if start.number > newest:
            raise broken(newest + 1)
        end = min(newest, start.number + limit)
        rows = log.between(connection, start.number + 1, end)
        for row in followed(rows, Position(start.number, start.entry_id), start.mac, seal):
            last = LogMark(row[log.NUMBER], row[log.ENTRY_ID], row[-1])
        if last.number < end:
            raise broken(last.number + 1)
        if last.number == newest:
            _check_ends(connection, head, last, highest)
    except RowNotAuthenticError as error:
        pruned = log_head.read(connection, seal).pruned
        if pruned.number > start.number:
            # What this look missed was pruned meanwhile, which another look will show.
            return LogCheck(pruned.number, start.number + 1, start, newest)
        return LogCheck(head.pruned.number, start.number + 1, last, newest, error.entry)
    return LogCheck(head.pruned.number, start.number + 1, last, newest)


def _check_ends(connection: Connection, head: Head, last: LogMark, highest: int | None) -> None:
    """Refuses a log that does not end with the entry that its head names, or has entries beyond."""
    if (last.entry_id, last.mac) != (head.newest.entry_id, head.mac):
        raise broken(last.number)
    if highest is not None and highest > head.newest.number:
        raise broken(head.newest.number + 1)
    lowest = connection.execute(select(func.min(table.c.number))).scalar()
    if lowest is not None and lowest <= head.pruned.number:
        raise broken(lowest)


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
