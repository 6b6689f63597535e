"""The timeline of the database server that wrote last, and when it took over (protocol R4).

A standby that takes over may lack the last heartbeats and registrations. A replica that still
serves may then be missing, or seem silent for longer than it was. The same holds if somebody sets
the store's clock forward, so a step counts as a takeover too. Until the longest staleness that any
replica registered has passed since then, `lost_replicas` returns a row for such replicas. The
lineage's row has a MAC, as heartbeats have, because Revoke relies on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from keyfold_server.domain.ports import UNKNOWN_REPLICA, ReplicaRow
from keyfold_server.store.schema import Cells, lineage
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal

_ROW: Final = 1
_NONE_APPLIED: Final = -1
"""Less than the number of any entry: a replica of which nothing is known has dropped nothing."""

_READ: Final = select(*lineage.c).where(lineage.c.id == _ROW)
_LOCK: Final = _READ.with_for_update()


def begin(connection: Connection, seal: Seal, dialect: Dialect) -> None:
    """Makes the row in a new store, before any replica registers."""
    row = seal.sealed("lineage", (_ROW, dialect.timeline(connection), 0, 0))
    rows.write(connection, insert(lineage), [rows.named(lineage, row)])


def record(
    connection: Connection,
    max_staleness: int,
    now: int,
    seal: Seal,
    dialect: Dialect,
    *,
    stepped: bool = False,
) -> None:
    """Records a server that has taken over, and a staleness longer than all before.

    Args:
        connection: A connection inside a transaction that writes.
        max_staleness: Milliseconds that the calling replica may serve without the store.
        now: Milliseconds of Unix time, by the store's clock.
        seal: Seals the row.
        dialect: Differences of this database from others.
        stepped: True if somebody has set the store's clock forward.
    """
    found = dialect.timeline(connection)

    def kept(row: Cells) -> Cells:
        _, history, since, longest, _ = row
        taken_over = now if stepped or found != history else since
        return (found, taken_over, max(longest, max_staleness))

    row = _read(connection, seal)
    if kept(row) == row[1:-1]:
        return
    # Read again under the lock: another replica may be writing a longer staleness.
    changed = kept(_read(connection, seal, lock=True))
    _, *cells = seal.sealed("lineage", (_ROW, *changed))
    values = dict(zip(("history", "since", "max_staleness", "mac"), cells, strict=True))
    rows.write(connection, update(lineage).where(lineage.c.id == _ROW), [values])


def lost_replicas(
    connection: Connection, now: int, seal: Seal, dialect: Dialect, *, stepped: bool = False
) -> list[ReplicaRow]:
    """Returns a row for replicas that a takeover may have hidden, until they would have stopped.

    Args:
        connection: A connection inside a transaction.
        now: Milliseconds of Unix time, by the store's clock.
        seal: Checks the row.
        dialect: Differences of this database from others.
        stepped: True if somebody has set the store's clock forward, and no heartbeat has recorded
            that yet.
    """
    _, history, since, longest, _ = _read(connection, seal)
    # A server that no replica has recorded yet counts as one that takes over now.
    taken_over = now if stepped or dialect.timeline(connection) != history else since
    silent = max(0, now - taken_over)
    if taken_over == 0 or silent > longest:
        return []
    return [ReplicaRow(UNKNOWN_REPLICA, _NONE_APPLIED, longest / 1000, silent / 1000)]


def _read(connection: Connection, seal: Seal, *, lock: bool = False) -> Cells:
    row = connection.execute(_LOCK if lock else _READ).first()
    if row is None:
        raise not_authentic("lineage")
    seal.check("lineage", tuple(row))
    return tuple(row)
