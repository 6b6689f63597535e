"""A batch of changes in one transaction: lock, read, decide, write, number (protocol S8).

It takes three round trips, whatever the number of changes (protocol S13): one to lock and read, one
to write rows and to lock the head of the log, and one to append the entries and to commit. The
counts of the rows written are checked before the last one goes out (protocol S10).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from keyfold_server.domain.changes import Change, CommittedChange
from keyfold_server.domain.log import NEWS
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import require_taken, rows_of
from keyfold_server.store.sql.claims import Claims
from keyfold_server.store.sql.relied import Relied
from keyfold_server.store.sql.taken_seats import TakenSeats
from keyfold_server.store.sql.write_set import Decided, WriteSet
from keyfold_server.store.tables import clusters, erasing, floors, log, log_head, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keyfold_server.domain.errors import Unusable
    from keyfold_server.domain.log import Floor
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Answer, Step
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.sql.floors import Floors
    from keyfold_server.store.sql.transactions import Unit
    from keyfold_server.store.tables.clusters import StoredCluster
    from keyfold_server.store.tables.log import Stamp


class Batch:
    """Carries out changes in a transaction of its caller.

    Attributes:
        first: The steps that the transaction begins with.
        floors: The organizations' own rows as the transaction has left them, each with its name
            and the number of its entry.
    """

    def __init__(
        self,
        wanted: Sequence[Change],
        dialect: Dialect,
        reach: Callable[[str], None],
        seen: Floors,
    ) -> None:
        """Takes the changes.

        Args:
            wanted: The changes.
            dialect: Differences of this database from others.
            reach: Called with the name of each failpoint.
            seen: The decisions that this process has seen.
        """
        self._wanted = wanted
        self._reach = reach
        self._relied = Relied(wanted, seen)
        self._seats = TakenSeats(wanted)
        self._claims = Claims(wanted, self._relied)
        self.floors: list[tuple[int, str, Floor]] = []
        names = sorted({change.cluster for change in wanted})
        keys = [change.request for change in wanted if change.request is not None]
        self._parts: tuple[list[Step], ...] = (
            clusters.locking(names) if dialect.locks_rows else [],
            self._relied.locking if dialect.locks_rows else [],
            self._seats.locking,
            clusters.reading(names),
            requests.reading(keys),
            self._relied.reading,
            self._claims.reading,
        )
        self.first: list[Step] = list(chain.from_iterable(self._parts))

    def apply(self, unit: Unit, stamp: Stamp) -> list[CommittedChange | Exception]:
        """Carries out the changes; one that raises drops out alone.

        Args:
            unit: The transaction, with the answers to `first`.
            stamp: For the entries of the log.
        """
        self._reach("apply:locked")
        writes = self._read(unit, stamp)
        decided: list[Decided | Exception] = []
        for change in self._wanted:
            try:
                decided.append(writes.add(change))
            except Exception as error:  # noqa: BLE001  any error concerns this change alone
                decided.append(error)
        self._reach("apply:decided")
        if not writes.drafts:
            return [each for each in decided if isinstance(each, Exception)]
        issued: list[Cells] = []
        if writes.ends:
            looking = erasing.looking_for_issued(writes.ends)
            issued = list(rows_of(stamp.dialect.trip(unit.connection, looking)))
            for row in issued:
                stamp.seal.check("identities", row)
        steps = writes.steps(issued)
        wake = any(draft.kind in NEWS for draft in writes.drafts)
        dialect = stamp.dialect
        closing = log.closing(dialect, wake=wake)
        # A new cluster has no row whose lock would have kept a ban or a tombstone of its name from
        # the log, so this transaction looks for one under the lock of the head.
        ends = floors.looking_for_ends(list(writes.makes)) if dialect.locks_rows else []
        again = self._claims.looking_again() if dialect.locks_rows else []
        answers = dialect.trip(unit.connection, [*steps, *closing, *again, *ends])
        for step, answer in zip(steps, answers, strict=False):
            require_taken(step, answer)
        self._reach("apply:rows-written")
        locked, *others = answers[len(steps) + len(closing) - 1 :]
        if again:
            self._claims.check_again(others[: len(again)])
        others = others[len(again) :]
        if any(row[log.NUMBER] != writes.makes[row[log.CLUSTER]] for row in rows_of(others)):
            raise LostRaceError  # The next try finds the end.
        made, unit.ending = log.ended(log_head.of(locked.rows, stamp.seal), writes.drafts, stamp)
        self._reach("apply:numbered")
        self.floors = [
            (entry.number, draft.organization, draft.floor)
            for entry, draft in zip(made, writes.drafts, strict=True)
            if draft.cluster is None and draft.organization is not None and draft.floor is not None
        ]
        return [
            CommittedChange(
                d.cluster, made[d.ordinal].number, made[d.ordinal].entry_id, floor=d.floor
            )
            if isinstance(d, Decided)
            else d
            for d in decided
        ]

    def _read(self, unit: Unit, stamp: Stamp) -> WriteSet:
        """Sorts what the transaction has read."""
        answers = iter(unit.answers)
        parts: list[list[Answer]] = [[next(answers) for _ in steps] for steps in self._parts]
        locked, held, _, read, recorded = (list(rows_of(some)) for some in parts[:5])
        self._seats.take(parts[2], stamp.seal)
        self._relied.take(parts[5], stamp.seal)
        self._claims.take(parts[6])
        if stamp.dialect.locks_rows:
            self._relied.check_locked({row[0] for row in held})
            # Only what is locked. A cluster that another transaction made just now is not, and
            # this one could overwrite its next change. Instead, this transaction finds no cluster,
            # collides if it makes the cluster too, and runs again.
            uids = {row[0] for row in locked}
            read = [row for row in read if row[0] is None or row[0] in uids]
        found: Mapping[str, StoredCluster | Unusable] = clusters.of(read, stamp.seal)
        return WriteSet(
            found,
            requests.of(recorded, stamp.seal),
            self._relied,
            self._seats,
            self._claims,
            clusters.tombstones(read, stamp.seal),
            seal=stamp.seal,
            now=stamp.now,
        )
