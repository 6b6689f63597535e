"""The timeline of the database server that wrote last, and when it took over (protocol R4).

A standby that takes over may lack the last heartbeats and registrations. A replica that still
serves may then be missing, or seem silent for longer than it was. The same holds if somebody sets
the store's clock forward, so a step counts as a takeover too. Until the longest staleness that any
replica registered has passed since then, `Lineage.lost_replicas` returns a row for such replicas.
The lineage's row has a MAC, as heartbeats have, because Revoke relies on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from keyfold_server.domain.ports import UNKNOWN_REPLICA, ReplicaRow
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import lineage
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.seal import Seal

_ROW: Final = 1
_NONE_APPLIED: Final = -1
"""Less than the number of any entry: a replica of which nothing is known has dropped nothing."""

_READ: Final = select(*lineage.c).where(lineage.c.id == _ROW)
_LOCK: Final = _READ.with_for_update()


@dataclass(frozen=True, slots=True)
class Lineage:
    """The lineage's row, and the server that returned it.

    Attributes:
        history: Timeline of the server that wrote last.
        since: Milliseconds of Unix time at which that server took over, or 0.
        longest: Longest staleness that a replica registered, in milliseconds.
        timeline: Timeline of the server that returned the row.
    """

    history: str
    since: int
    longest: int
    timeline: str

    def kept(self, max_staleness: int, now: int, *, stepped: bool) -> Lineage:
        """Returns the lineage after a heartbeat: a server may have taken over.

        Args:
            max_staleness: Milliseconds that the replica may serve without the store.
            now: Milliseconds of Unix time, by the store's clock.
            stepped: True if somebody has set the store's clock forward.
        """
        since = now if stepped or self.timeline != self.history else self.since
        return Lineage(self.timeline, since, max(self.longest, max_staleness), self.timeline)

    def lost_replicas(self, now: int, *, stepped: bool) -> list[ReplicaRow]:
        """Returns a row for replicas that a takeover may hide, until they would have stopped.

        Args:
            now: Milliseconds of Unix time, by the store's clock.
            stepped: True if somebody has set the store's clock forward, and no heartbeat has
                recorded that yet.
        """
        # A server that no replica has recorded yet counts as one that takes over now.
        taken_over = now if stepped or self.timeline != self.history else self.since
        silent = max(0, now - taken_over)
        if taken_over == 0 or silent > self.longest:
            return []
        # Nobody knows which regions they serve, so they count for none.
        return [
            ReplicaRow(
                UNKNOWN_REPLICA, _NONE_APPLIED, self.longest / 1000, silent / 1000, frozenset()
            )
        ]


def begin(connection: Connection, seal: Seal, dialect: Dialect) -> None:
    """Makes the row in a new store, before any replica registers."""
    timeline = dialect.timeline_of(dialect.trip(connection, dialect.asking_timeline()))
    row = seal.sealed("lineage", (_ROW, timeline, 0, 0))
    rows.write(connection, insert(lineage), [rows.named(lineage, row)])


def asking(dialect: Dialect, *, lock: bool = False) -> list[Step]:
    """Returns the steps that read the lineage; `of` takes their answers.

    Args:
        dialect: Differences of this database from others.
        lock: Locks the row, for a transaction that will write it.
    """
    return [Step(_LOCK if lock else _READ), *dialect.asking_timeline()]


def of(answers: Sequence[Answer], seal: Seal, dialect: Dialect) -> Lineage:
    """Returns the lineage in the answers to `asking`.

    Raises:
        RowNotAuthenticError: The row is missing or not authentic.
    """
    if not answers[0].rows:
        raise not_authentic("lineage")
    [row] = answers[0].rows
    seal.check("lineage", row)
    _, history, since, longest, _ = row
    return Lineage(history, since, longest, dialect.timeline_of(answers[1:]))


def write(connection: Connection, found: Lineage, seal: Seal) -> None:
    """Writes the lineage, whose row the transaction has locked."""
    cells = (found.history, found.since, found.longest)
    _, *values = seal.sealed("lineage", (_ROW, *cells))
    names = ("history", "since", "max_staleness", "mac")
    changed = update(lineage).where(lineage.c.id == _ROW)
    rows.write(connection, changed, [dict(zip(names, values, strict=True))])
