"""What a poll reads of the log: the entries that follow the last one of a replica (protocol S1).

A replica holds the store to the entry that it applied last, by number and id. An entry that pruning
removed differs from one that somebody took away, because the head of the log names the last one
that pruning removed (protocol S11).
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, select

from keyfold_server.domain.errors import StoreRolledBackError, StoreStaleError
from keyfold_server.domain.log import Entry, EntryKind
from keyfold_server.domain.ports import POLL_PAGE, Heartbeat
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import log, log_head, log_reading
from keyfold_server.store.tables.log_head import Head, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

_PAGE: Final = (
    select(*table.c)
    # From the replica's last entry on, which must be there with the same id.
    .where(table.c.number >= bindparam("first"), table.c.number <= bindparam("last"))
    .order_by(table.c.number)
)


def has(
    connection: Connection, known: Position, head: Head, there: Sequence[Cells], seal: Seal
) -> bool:
    """Returns whether the store has the entry at a position, or had it and pruned it last.

    Args:
        connection: A connection inside a transaction, or after it.
        known: The position.
        head: The head of the log.
        there: The entry of that number, read after the head; empty if the store lacks it.
        seal: Checks the rows.

    Raises:
        StoreStaleError: The store has pruned that entry and later ones.
        RowNotAuthenticError: The entry's row is not authentic.
    """
    if known.number == head.pruned.number:
        return known == head.pruned
    if known.number > head.pruned.number and there:
        seal.check("log", there[0])
        return known == log.position(there[0])
    _check_kept(connection, known, head, seal)
    return False


def page(beat: Heartbeat) -> Step:
    """Returns the step that reads a page of the log, from the entry that a replica applied last."""
    return Step(_PAGE, [{"first": beat.number, "last": beat.number + POLL_PAGE}])


def since(
    connection: Connection, beat: Heartbeat, head: Head, found: Sequence[Cells], seal: Seal
) -> list[Entry]:
    """Returns the entries after the one that a replica has applied, oldest first.

    Args:
        connection: A connection inside the transaction that read them, or after it.
        beat: The replica's heartbeat.
        head: The head of the log, read before the entries.
        found: What `page` read.
        seal: Checks the rows.

    Returns:
        Up to `POLL_PAGE` entries. A page that is not full ends with the newest entry.

    Raises:
        StoreRolledBackError: The store has another entry in that one's place, ends before it, or
            lacks an entry after it.
        StoreStaleError: The store has pruned an entry that the replica has not applied.
        RowNotAuthenticError: An entry's row is not authentic.
    """
    known = Position(beat.number, beat.entry_id)
    last = min(head.newest.number, known.number + POLL_PAGE)
    # Entries that came after the head was read belong to the next poll.
    rows = [row for row in found if row[log.NUMBER] <= last]
    for row in rows:
        seal.check("log", row, row[log.CLUSTER])
    chain = [(log.position(row), row[log.PREV], row[-1]) for row in rows]
    if known.number == head.pruned.number:
        chain.insert(0, (head.pruned, b"", head.pruned_mac))
    if not _follows(chain, known, last) or (
        last == head.newest.number and (chain[-1][0], chain[-1][2]) != (head.newest, head.mac)
    ):
        _check_kept(connection, known, head, seal)
        raise StoreRolledBackError(
            f"the store lacks entry {beat.number} of the log as replica {beat.replica} knew it, or "
            "an entry after it: it was rolled back, or is another store"
        )
    return [_entry(row) for row in rows if row[log.NUMBER] > known.number]


def _follows(chain: Sequence[tuple[Position, bytes, bytes]], known: Position, last: int) -> bool:
    """Returns whether entries lead from a known position to a number, each after the one before.

    Args:
        chain: Of each entry its position, the MAC of the entry before, and its own MAC.
        known: The position of the first entry.
        last: The number of the last entry.
    """
    return (
        [place.number for place, _, _ in chain] == list(range(known.number, last + 1))
        and bool(chain)
        and chain[0][0] == known
        and all(prev == mac for (_, _, mac), (_, prev, _) in pairwise(chain))
    )


def _entry(row: Cells) -> Entry:
    return Entry(
        row[log.NUMBER],
        row[log.ENTRY_ID],
        EntryKind.of(row[log.KIND]),
        row[log.CLUSTER],
        row[log.ROOT],
        row[log.KEK],
        row[log.REPLICA],
        log.floor(row),
        log.organization_floor(row),
        # Only for those who read entries as people do; the others pay nothing for it.
        partial(log_reading.event, row),
        len(row[log.DETAIL]) + len(row[log.DECISION] or ""),
    )


def _check_kept(connection: Connection, known: Position, head: Head, seal: Seal) -> None:
    """Tells entries that are missing because the store pruned them from a rollback (protocol S11).

    Args:
        connection: A connection inside a transaction.
        known: The last entry that a replica knows.
        head: The head of the log as it was before the transaction looked for entries.
        seal: Checks the head of the log.

    Raises:
        StoreStaleError: The store has pruned entries that the replica does not know.
    """
    # Read again, because another replica may have pruned in between.
    pruned = log_head.read(connection, seal).pruned
    if known.number < pruned.number or (known.number == pruned.number and pruned != head.pruned):
        raise StoreStaleError(
            f"the store has pruned its log up to entry {pruned.number}, and this replica knew "
            f"it up to entry {known.number}: it drops everything and begins anew",
            retry_after=1.0,
        )
