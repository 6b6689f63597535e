"""A batch of changes in one transaction: lock, read, decide, write, number (protocol S8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.domain.changes import Change, CommittedChange
from keyfold_server.store import schema
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.sql.write_set import Decided, WriteSet
from keyfold_server.store.tables import clusters, floors, log, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyfold_server.store.tables.log import Stamp
    from keyfold_server.store.tables.log_head import Position


@dataclass(frozen=True, slots=True)
class Batch:
    """Carries out changes in a transaction of its caller.

    Attributes:
        stamp: For the entries of the log.
        reach: Called with the name of each failpoint.
    """

    stamp: Stamp
    reach: Callable[[str], None]

    def apply(
        self, connection: Connection, wanted: Sequence[Change]
    ) -> list[CommittedChange | Exception]:
        """Carries out the changes; one that raises drops out alone."""
        writes = self._read(connection, wanted)
        decided: list[Decided | Exception] = []
        for change in wanted:
            try:
                decided.append(writes.add(change))
            except Exception as error:  # noqa: BLE001  any error concerns this change alone
                decided.append(error)
        self.reach("apply:decided")
        writes.write_clusters(connection)
        self.reach("apply:rows-written")
        writes.write_requests(connection)
        self.reach("apply:request-recorded")
        made = log.append(connection, writes.drafts, self.stamp)
        self._check_bans(connection, writes, made)
        self.reach("apply:numbered")
        return [
            CommittedChange(
                d.cluster, made[d.ordinal].number, made[d.ordinal].entry_id, floor=d.floor
            )
            if isinstance(d, Decided)
            else d
            for d in decided
        ]

    def _check_bans(
        self, connection: Connection, writes: WriteSet, made: Sequence[Position]
    ) -> None:
        """Refuses to make a cluster over a ban of its name that came since the batch was read.

        A cluster that is new has no row whose lock would have kept the ban from the log.

        Raises:
            LostRaceError: The name was banned. The next try finds the ban.
        """
        if not self.stamp.dialect.locks_rows:
            return
        for name, ordinal in writes.makes.items():
            if floors.is_over_ban(connection, name, made[ordinal].number):
                raise LostRaceError

    def _read(self, connection: Connection, wanted: Sequence[Change]) -> WriteSet:
        names = sorted({change.cluster for change in wanted})
        own = schema.clusters.c
        locked: Sequence[bytes] | None = None
        if self.stamp.dialect.locks_rows:
            # A statement of its own locks the rows before the next one reads them. So this
            # transaction sees what others wrote while it waited for its locks.
            lock = select(own.uid).where(own.name.in_(names)).order_by(own.name)
            locked = connection.execute(lock.with_for_update()).scalars().all()
            # Read only what is locked. A cluster that another transaction made just now is not, and
            # this one could overwrite its next change. Instead, this transaction finds no cluster,
            # collides if it makes the cluster too, and runs again.
        self.reach("apply:locked")
        seal = self.stamp.seal
        found = clusters.read_named(connection, seal, names, locked)
        keys = [change.request for change in wanted if change.request is not None]
        recorded = requests.read(connection, keys, seal)
        return WriteSet(found, recorded, seal=seal, now=self.stamp.now)
