"""A group of changes in one transaction: lock, read, decide, write, number (protocol S8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.domain.changes import Change, CommittedChange
from keyfold_server.store.schema import clusters
from keyfold_server.store.sql.write_set import Decided, WriteSet
from keyfold_server.store.tables import changes, requests
from keyfold_server.store.tables import clusters as rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.seal import Seal


@dataclass(frozen=True, slots=True)
class Batch:
    """What a group needs besides its connection.

    Attributes:
        dialect: What the database does differently.
        seal: Seals and checks rows.
        replica: Who makes the changes.
        now: Milliseconds of Unix time, by the store's clock.
        reach: Called at each mark.
    """

    dialect: Dialect
    seal: Seal
    replica: str
    now: int
    reach: Callable[[str], None]

    def apply(
        self, connection: Connection, wanted: Sequence[Change]
    ) -> list[CommittedChange | Exception]:
        """Carries out the changes; one that raises drops out alone."""
        plan = self._plan(connection, wanted)
        decided: list[Decided | Exception] = []
        for change in wanted:
            try:
                decided.append(plan.take(change))
            except Exception as error:  # noqa: BLE001  whatever it is, it concerns this change alone
                decided.append(error)
        self.reach("apply:decided")
        plan.write_clusters(connection)
        self.reach("apply:rows-written")
        plan.write_events(connection)
        self.reach("apply:audited")
        plan.write_requests(connection)
        self.reach("apply:request-recorded")
        made = changes.note(
            connection, plan.subjects, self.replica, self.now, self.seal, self.dialect
        )
        self.reach("apply:numbered")
        return [
            CommittedChange(d.cluster, made[d.ordinal].number, made[d.ordinal].change_id)
            if isinstance(d, Decided)
            else d
            for d in decided
        ]

    def _plan(self, connection: Connection, wanted: Sequence[Change]) -> WriteSet:
        names = sorted({change.cluster for change in wanted})
        here = clusters.c.name.in_(names)
        if self.dialect.locks_rows:
            # Before the rows are read, by a statement of its own: what another transaction wrote
            # while this one waited for its lock must be seen.
            lock = select(clusters.c.uid).where(here).order_by(clusters.c.name)
            locked = connection.execute(lock.with_for_update()).scalars().all()
            # And only what is locked: of a cluster that was made just now, the next change
            # could be overwritten. Whoever wants to make it too collides, and tries again.
            here = clusters.c.uid.in_(locked)
        self.reach("apply:locked")
        found = rows.read(connection, self.seal, here)
        keys = [change.request for change in wanted if change.request is not None]
        recorded = requests.read(connection, keys, self.seal)
        return WriteSet(found, recorded, seal=self.seal, now=self.now)
