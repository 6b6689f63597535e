"""Numbered changes, by which replicas learn what to drop (protocol S1).

A transaction locks the counter's row last and holds it until the commit. So whoever sees change n
also sees every change before it. Each change has a random id besides its number. By it a replica
notices a store that was rolled back and whose numbers went on in another way.

Pruning removes the oldest changes, and the counter's row keeps the position of the last one that it
removed (protocol S11). So a change that was pruned differs from one that somebody took away.
"""

from __future__ import annotations

import secrets
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, func, insert, select

from keyfold_server.domain.changes import Floor, RecordedChange
from keyfold_server.domain.errors import StoreRolledBackError, StoreStaleError
from keyfold_server.domain.ports import POLL_PAGE, Heartbeat
from keyfold_server.store.schema import changes
from keyfold_server.store.tables import counter, floors
from keyfold_server.store.tables.counter import Position
from keyfold_server.store.tables.rows import named, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.counter import Counter

_ID_SIZE: Final = 16
_ADD: Final = insert(changes)

_PRUNED: Final = 5_000
"""Most changes that one transaction prunes, so that no other waits long for its turn."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a change: a cluster, or a root key that its KMS refused.

    Attributes:
        cluster: The cluster's name.
        root: The root key id.
        kek: If replicas know of the refusal already: the KEK that the KMS refused again.
        floor: What the change made of the cluster.
    """

    cluster: str | None = None
    root: str | None = None
    kek: bytes | None = None
    floor: Floor | None = None

    @classmethod
    def of(cls, cluster: Cluster) -> Subject:
        """Returns the subject of the change that made a cluster what it is."""
        return cls(cluster=cluster.name, floor=Floor.of(cluster))


def has(connection: Connection, known: Position, ends: Counter, seal: Seal) -> bool:
    """Returns whether the store has the change at a position, or had it and pruned it last.

    Raises:
        StoreStaleError: The store has pruned that change and later ones.
        RowNotAuthenticError: The change's row is not authentic.
    """
    if known.number == ends.pruned.number:
        return known == ends.pruned
    if known.number > ends.pruned.number:
        row = _at(connection, known.number, seal)
        if row is not None:
            return known == Position(row[0], row[1])
    _check_kept(connection, known, ends, seal)
    return False


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
        # Before the lock, so that nobody waits for this under it.
        dialect.settle(connection)
    ends = counter.read(connection, seal, lock=bool(subjects))
    before = ends.newest
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
                *(astuple(subject.floor) if subject.floor is not None else (None,) * 3),
            ),
        )
        for number, subject in enumerate(subjects, before.number + 1)
    ]
    made = [Position(row[0], row[1]) for row in rows]
    if made:
        counter.write(connection, replace(ends, newest=made[-1]), seal)
        write(connection, _ADD, [named(changes, row) for row in rows])
    return [before, *made]


def since(connection: Connection, beat: Heartbeat, seal: Seal) -> list[RecordedChange]:
    """Reads a page of the changes after the one that a replica has applied, oldest first.

    Returns:
        Up to `POLL_PAGE` changes. A page that is not full ends with the newest change.

    Raises:
        StoreRolledBackError: The store has another change in that one's place, ends before it, or
            lacks a change after it.
        StoreStaleError: The store has pruned a change that the replica has not applied.
        RowNotAuthenticError: A change's row is not authentic.
    """
    ends = counter.read(connection, seal)
    known = Position(beat.number, beat.change_id)
    last = min(ends.newest.number, known.number + POLL_PAGE)
    rows = connection.execute(
        select(*changes.c)
        # From the replica's last change on, which must be there with the same id.
        .where(changes.c.number >= known.number, changes.c.number <= last)
        .order_by(changes.c.number)
    ).all()
    chain = [ends.pruned] if known.number == ends.pruned.number else []
    found = []
    for row in map(tuple, rows):
        seal.check("changes", row, row[2])
        number, change_id, cluster, root, kek, replica = row[:6]
        floor = floors.of_row(row)
        found.append(RecordedChange(number, change_id, cluster, root, kek, replica, floor))
        chain.append(Position(row[0], row[1]))
    if (
        not chain
        or [place.number for place in chain] != list(range(known.number, last + 1))
        or chain[0] != known
        or (last == ends.newest.number and chain[-1] != ends.newest)
    ):
        _check_kept(connection, known, ends, seal)
        raise StoreRolledBackError(
            f"the store lacks change {beat.number} as replica {beat.replica} knew it, or a change "
            "after it: it was rolled back, or is another store"
        )
    return [change for change in found if change.number > known.number]


def prune(connection: Connection, before: int, passed: int | None, seal: Seal) -> bool:
    """Removes the oldest changes and leaves a checkpoint; it keeps the last change before a time.

    It removes only the lowest numbers without a gap, whatever the clock did meanwhile: a gap would
    look like a rollback.

    Args:
        connection: A connection inside a transaction that writes.
        before: Milliseconds of Unix time. Later changes stay.
        passed: The change that every live replica has applied, which stays too; None: nobody lives.
        seal: Checks the last change that is removed, and seals the checkpoint.

    Returns:
        Whether there are more changes to remove.

    Raises:
        RowNotAuthenticError: A row that the checkpoint rests on is missing or not authentic.
    """
    ends = counter.read(connection, seal)
    first_kept = connection.execute(
        select(func.min(changes.c.number)).where(changes.c.created_at >= before)
    ).scalar()
    kept = ends.newest.number if first_kept is None else first_kept - 1
    if passed is not None:
        kept = min(kept, passed)
    last = min(kept - 1, ends.pruned.number + _PRUNED)
    if last <= ends.pruned.number:
        return False
    row = _at(connection, last, seal)
    if row is None:
        # Another replica has pruned this far since, or somebody took the change away: then the
        # gap stays, for the replicas to notice.
        return False
    connection.execute(delete(changes).where(changes.c.number <= last))
    ends = counter.read(connection, seal, lock=True)
    if ends.pruned.number < last:
        counter.write(connection, replace(ends, pruned=Position(row[0], row[1])), seal)
    return last < kept - 1


def _at(connection: Connection, number: int, seal: Seal) -> Cells | None:
    row = connection.execute(select(*changes.c).where(changes.c.number == number)).first()
    if row is None:
        return None
    seal.check("changes", tuple(row), row[2])
    return tuple(row)


def _check_kept(connection: Connection, known: Position, ends: Counter, seal: Seal) -> None:
    """Tells changes that are missing because the store pruned them from a rollback (protocol S11).

    Args:
        connection: A connection inside a transaction.
        known: The last change that a replica knows.
        ends: The counter's row as it was before the transaction looked for changes.
        seal: Checks the counter's row.

    Raises:
        StoreStaleError: The store has pruned changes that the replica does not know.
    """
    # Read again, because another replica may have pruned in between.
    pruned = counter.read(connection, seal).pruned
    if known.number < pruned.number or (known.number == pruned.number and pruned != ends.pruned):
        raise StoreStaleError(
            f"the store has pruned its changes up to change {pruned.number}, and this replica knew "
            f"them up to change {known.number}: it drops everything and begins anew",
            retry_after=1.0,
        )
