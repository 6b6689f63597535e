"""SqlStore: the store's port on a relational database, a transaction per method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyfold_server.domain.changes import Floor
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    RowNotAuthenticError,
    StoreUnavailableError,
)
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.sql import floors
from keyfold_server.store.sql.batch import Batch
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.membership import Membership
from keyfold_server.store.sql.observations import ObservationStore
from keyfold_server.store.sql.transactions import ALWAYS_OVERTAKEN, Transactions
from keyfold_server.store.tables import (
    changes,
    clusters,
    counter,
    external_ids,
    listing,
    observations,
    reconciliations,
    replicas,
    requests,
    wrap_history,
)
from keyfold_server.store.tables.changes import Subject
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.counter import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.changes import (
        Change,
        CommittedChange,
        RecordedChange,
        RecordedRequest,
        RequestKey,
    )
    from keyfold_server.domain.cluster import Cluster, SupersededWrap
    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.ports import Clock, ClusterFilter, Heartbeat, ReplicaRow
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.history import HighWaterMark

RETENTION: Final = 24 * 60 * 60 * 1000
"""Milliseconds for which the store keeps requests, changes and silent replicas at least."""


class SqlStore(ObservationStore):
    """A `domain.ports.Store` on a relational database. Safe for any number of threads."""

    def __init__(
        self,
        database: Database,
        seal: Seal,
        *,
        clock: Clock,
        reach: Callable[[str], None] = no_failpoint,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes an opened database; `opening.open_store` makes a store.

        Args:
            database: The store's connections.
            seal: Seals and checks the rows.
            clock: Source of time.
            reach: Called with the name of each failpoint that a mutation passes.
            release: Called by `close` once the connections are closed.
        """
        super().__init__(Transactions(database, seal, clock, reach))
        self._database = database
        self._seal = seal
        self._release = release
        self._floors = floors.Floors()
        self._membership = Membership(self._transactions, self._floors)

    @property
    def parts(self) -> tuple[Database, Seal]:
        """The store's connections and its seal, for export and import."""
        return self._database, self._seal

    def close(self) -> None:
        """Closes the connections and lets another process have the store."""
        self._database.close()
        self._release()

    def cluster(self, name: str) -> Cluster | None:
        """Reads a cluster and verifies every row of it."""
        # From before the read, so that what it finds cannot be older.
        floor = self._floors.of(name)
        stored = self._transactions.read(lambda c: clusters.named(c, self._seal, name))
        cluster = stored.cluster if stored is not None else None
        floors.hold(cluster, floor)
        return cluster

    def superseded_wraps(self, name: str) -> list[SupersededWrap]:
        """Reads the history of a cluster's wraps, oldest first, and verifies every row of it."""

        def work(connection: Connection) -> list[SupersededWrap]:
            stored = clusters.named(connection, self._seal, name)
            if stored is None:
                return []
            return list(wrap_history.read(connection, stored, self._seal))

        return self._transactions.read(work)

    def owner_of(self, kek_id: bytes) -> str | None:
        """Returns the name of the cluster that a KEK belongs to, or None."""
        return self._transactions.read(lambda c: clusters.owner_of(c, self._seal, kek_id))

    def clusters(
        self, which: ClusterFilter, after: str, limit: int
    ) -> list[Cluster | RowNotAuthenticError]:
        """Reads up to `limit` clusters whose names follow `after`, by name."""
        where = listing.page(which, after, limit)
        found = self._transactions.read(lambda c: clusters.read(c, self._seal, where))
        return [s.cluster if isinstance(s, StoredCluster) else s for s in found.values()]

    def request(self, key: RequestKey) -> RecordedRequest | None:
        """Reads the record of a request that was carried out, or None."""
        found = self._transactions.read(lambda c: requests.read(c, [key], self._seal))
        return found.get(requests.scope(key))

    def apply(self, changes: Sequence[Change]) -> list[CommittedChange | Exception]:
        """Carries out changes in one transaction; a change that raises drops out alone.

        The transaction locks clusters' rows in sorted order, and the counter's row last
        (protocol S8).
        """
        if not changes:
            return []

        def work(
            connection: Connection, mark: HighWaterMark
        ) -> tuple[list[CommittedChange | Exception], HighWaterMark]:
            return self._batch(connection).apply(connection, changes), mark

        try:
            made, mark = self._transactions.write("apply", work)
        except (LostRaceError, RowNotAuthenticError) as error:
            if len(changes) > 1:
                # One change collides on every try, or the database does not take it. It must not
                # take the others along.
                return [result for change in changes for result in self.apply([change])]
            if isinstance(error, RowNotAuthenticError):
                return [error]
            name = changes[0].cluster
            return [
                ConcurrentChangeError(
                    f"another request changed cluster {name} at the same time; ask again",
                    cluster=name,
                )
            ]
        # Not inside the transaction: only committed changes count as seen.
        for each in made:
            if not isinstance(each, Exception):
                self._transactions.history.advance(Position(each.number, each.change_id), mark)
                self._floors.raise_to(each.number, each.cluster.name, Floor.of(each.cluster))
        return made

    def refused(
        self, root: str, observation: Observation, replica: str, kek: bytes | None = None
    ) -> None:
        """Records a refusal: an observation and one numbered change (protocol F2)."""
        dialect, reach = self._database.dialect, self._transactions.reach

        def work(connection: Connection) -> None:
            observations.write(connection, [observation], dialect)
            reach("refused:observed")
            now = self._transactions.now(connection)
            about = Subject(root=root, kek=kek)
            changes.record(connection, [about], replica, now, self._seal, dialect)
            reach("refused:numbered")

        self._transactions.write_or_fail("refused", work)

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest change (protocol S4)."""
        return self._membership.register(beat)

    def poll(self, beat: Heartbeat) -> list[RecordedChange]:
        """Writes a heartbeat and reads the changes after its number, oldest first."""
        return self._membership.poll(beat)

    def reconciled(self) -> bool:
        """Returns whether an operator has reconciled the store since the last good poll."""
        return self._membership.reconciled()

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        self._membership.leave(replica)

    def replicas(self) -> list[ReplicaRow]:
        """Reads every replica that has not left, and a row for those that a failover may hide."""
        return self._membership.rows()

    def external_id(self, owner: str) -> str | None:
        """Reads the external id that Keyfold issued for an owner, or None."""
        return self._transactions.read(lambda c: external_ids.read(c, owner, self._seal))

    def issue_external_id(self, owner: str, external_id: str, now_ms: int) -> str:
        """Keeps an external id for an owner, for good; returns the one that the owner has."""
        issue, reach = external_ids.issue, self._transactions.reach
        return self._transactions.write_or_fail(
            "issue", lambda c: issue(c, owner, external_id, now_ms, self._seal, reach)
        )

    def prune(self, now_ms: int) -> None:
        """Removes requests, changes and replicas older than 24 h.

        The last of the older changes stays, and so does what a live replica has not applied yet
        (protocol S11).
        """

        def work(connection: Connection) -> bool:
            now = self._transactions.now(connection)
            # The store's clock limits the time: a replica's fast clock removes nothing early.
            before = min(now_ms, now) - RETENTION
            requests.prune(connection, before)
            replicas.prune(connection, before)
            passed = self._membership.passed(connection)
            return changes.prune(connection, before, passed, self._seal)

        while self._transactions.write_or_fail("prune", work):
            pass

    def reconcile(self, reason: str) -> None:
        """Records an operator's decision that the store is right as it is (protocol S1).

        Replicas that refuse because the store lacks what they knew then drop every key and go on.
        """

        def work(connection: Connection) -> None:
            newest = counter.read(connection, self._seal, lock=True).newest
            now = self._transactions.now(connection)
            reconciliations.add(connection, newest, reason, now, self._seal)

        try:
            self._database.write(work)
        except LostRaceError as error:
            raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error

    def _batch(self, connection: Connection) -> Batch:
        now, reach = self._transactions.now(connection), self._transactions.reach
        return Batch(self._database.dialect, self._seal, self._membership.name, now, reach=reach)
