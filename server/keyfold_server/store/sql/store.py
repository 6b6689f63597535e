"""SqlStore: the store's port on a relational database, a transaction per method."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.erasure import Tombstone
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    RowNotAuthenticError,
    StoreUnavailableError,
    Unusable,
)
from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.domain.ports import Seen
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import rows_of
from keyfold_server.store.sql import attempts, bans, floors, history_pruning
from keyfold_server.store.sql.batch import Batch
from keyfold_server.store.sql.cursors import CursorStore
from keyfold_server.store.sql.erasures import ErasureStore
from keyfold_server.store.sql.events import EventStore
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.identities import IdentityStore
from keyfold_server.store.sql.key_usage import KeyUseStore
from keyfold_server.store.sql.membership import Membership
from keyfold_server.store.sql.observations import ObservationStore
from keyfold_server.store.sql.operations import OperationStore, Versions
from keyfold_server.store.sql.organizations import OrganizationStore
from keyfold_server.store.sql.transactions import ALWAYS_OVERTAKEN, Transactions
from keyfold_server.store.tables import (
    clusters,
    holders,
    listing,
    log,
    log_head,
    log_pruning,
    observations,
    operations,
    replicas,
    requests,
    root_names,
    transitions,
    uses,
    wrap_history,
)
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.log import Draft
from keyfold_server.store.tables.log_head import Position
from keyfold_server.store.tables.organizations import floor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.bans import Ban, CommittedBan
    from keyfold_server.domain.changes import (
        Change,
        CommittedChange,
        RecordedRequest,
        RequestKey,
    )
    from keyfold_server.domain.cluster import Cluster, SupersededWrap
    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.holders import Claim, Holder
    from keyfold_server.domain.log import Attempt, Entry, RecordedAttempt
    from keyfold_server.domain.ports import Clock, ClusterFilter, Heartbeat, ReplicaRow
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.history import HighWaterMark
    from keyfold_server.store.sql.transactions import Unit

RETENTION: Final = 24 * 60 * 60 * 1000
"""Milliseconds for which the store keeps requests and silent replicas at least."""


class SqlStore(
    ObservationStore,
    EventStore,
    CursorStore,
    IdentityStore,
    KeyUseStore,
    OrganizationStore,
    OperationStore,
    ErasureStore,
):
    """A `domain.ports.Store` on a relational database. Safe for any number of threads.

    Attributes:
        uid: The store's uid.
    """

    def __init__(
        self,
        database: Database,
        seal: Seal,
        uid: bytes,
        *,
        clock: Clock,
        reach: Callable[[str], None] = no_failpoint,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes an opened database; `opening.open_store` makes a store.

        Args:
            database: The store's connections.
            seal: Seals and checks the rows.
            uid: The store's uid.
            clock: Source of time.
            reach: Called with the name of each failpoint that a mutation passes.
            release: Called by `close` once the connections are closed.
        """
        super().__init__(Transactions(database, seal, clock, reach))
        self.uid: Final = uid
        self._database = database
        self._seal = seal
        self._release = release
        self._floors = floors.Floors()
        self._versions = Versions()
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
        stored = self._transactions.fetch(
            clusters.reading([name]),
            lambda unit: clusters.the_one(clusters.of(rows_of(unit.answers), self._seal)),
        )
        floors.hold(name, stored, floor)
        return stored.cluster if stored is not None else None

    def named(self, names: Sequence[str]) -> dict[str, Cluster | Unusable]:
        """Reads clusters by name and verifies every row of them, in one statement."""
        known = {name: self._floors.of(name) for name in names}
        found = self._transactions.fetch(
            clusters.reading(names),
            lambda unit: clusters.of(rows_of(unit.answers), self._seal),
        )
        return {name: floors.held(name, each, known.get(name)) for name, each in found.items()}

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

    def clusters(self, which: ClusterFilter, after: str, limit: int) -> list[Cluster | Unusable]:
        """Reads up to `limit` clusters whose names follow `after`, by name."""
        where = listing.page(which, after, limit)
        bans = listing.rowless_bans(which, after, limit)
        found = self._transactions.read(lambda c: clusters.read(c, self._seal, where, bans))
        listed = islice(found.values(), limit)
        return [s.cluster if isinstance(s, StoredCluster) else s for s in listed]

    def requested(
        self, name: str, key: RequestKey | None, claim: Claim | None = None
    ) -> tuple[Cluster | Tombstone | Unusable | None, RecordedRequest | None, frozenset[Holder]]:
        """Reads a cluster, a request's record, and who has what it claims, in one round trip."""
        floor = self._floors.of(name)
        recorded = requests.reading([key] if key is not None else [])
        wanted = () if claim is None else claim.holders
        organization = None if claim is None else claim.organization
        looking = holders.looking(organization, wanted, cluster=name)

        def work(
            unit: Unit,
        ) -> tuple[
            StoredCluster | Tombstone | Unusable | None, RecordedRequest | None, frozenset[Holder]
        ]:
            found, *others = unit.answers
            looked, others = others[: len(looking)], others[len(looking) :]
            known = requests.of(rows_of(others), self._seal)
            stored = clusters.of(found.rows, self._seal).get(name)
            tombstone = clusters.tombstones(found.rows, self._seal).get(name)
            own = organization
            if own is None and isinstance(stored, StoredCluster):
                own = stored.cluster.organization
            return (
                stored or tombstone,
                None if key is None else known.get(requests.scope(key)),
                holders.elsewhere(own, wanted, looked),
            )

        steps = [*clusters.reading([name]), *looking, *recorded]
        stored, request, elsewhere = self._transactions.fetch(steps, work)
        if isinstance(stored, Tombstone):
            return floors.held(name, None, floor) or stored, request, elsewhere
        return floors.held(name, stored, floor), request, elsewhere

    def apply(self, changes: Sequence[Change]) -> list[CommittedChange | Exception]:
        """Carries out changes in one transaction; a change that raises drops out alone.

        The transaction locks clusters' rows in sorted order, and the head of the log last
        (protocol S8).
        """
        if not changes:
            return []

        reach = self._transactions.reach
        batch = Batch(changes, self._database.dialect, reach, self._floors)

        def work(unit: Unit) -> tuple[list[CommittedChange | Exception], HighWaterMark]:
            return batch.apply(unit, self._transactions.stamp(unit)), unit.mark

        try:
            made, mark = self._transactions.write("apply", work, batch.first)
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
        for number, organization, floor in batch.floors:
            self._floors.raise_to(number, floor_name(organization), floor)
        for each in made:
            if not isinstance(each, Exception):
                self._transactions.history.advance(Position(each.number, each.entry_id), mark)
                if each.floor is not None:
                    self._floors.raise_to(each.number, each.cluster.name, each.floor)
        return made

    def ban(self, wanted: Ban) -> CommittedBan | None:
        """Bans the name of a cluster whose rows are not authentic, or are gone (protocol A6)."""

        def work(unit: Unit) -> tuple[bans.Banned | None, HighWaterMark]:
            stamp, reach = self._transactions.stamp(unit), self._transactions.reach
            return bans.record(unit, wanted, stamp, reach), unit.mark

        first = bans.first(wanted, self._database.dialect)
        try:
            made, mark = self._transactions.write("ban", work, first)
        except LostRaceError as error:
            raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error
        if made is None:
            return None
        self._transactions.history.advance(made.newest, mark)
        self._floors.raise_to(made.ban.number, wanted.cluster, made.floor)
        return made.ban

    def attempted(self, wanted: Sequence[Attempt]) -> list[RecordedAttempt | ClusterNotFoundError]:
        """Appends attempts that changed nothing to the log, in one transaction (protocol R5)."""

        def work(unit: Unit) -> list[RecordedAttempt | ClusterNotFoundError]:
            made = attempts.record(unit, wanted, self._transactions.stamp(unit))
            self._transactions.reach("attempt:numbered")
            return made

        first = attempts.first(wanted, self._database.dialect)
        return self._transactions.write_or_fail("attempt", work, first) if wanted else []

    def refused(
        self, root: str, observation: Observation, replica: str, kek: bytes | None = None
    ) -> int:
        """Records a refusal: an observation and one entry of the log (protocol F2)."""
        dialect, reach = self._database.dialect, self._transactions.reach
        event = AuditEvent(
            "",
            "kms:root_key:refuse",
            observation.health.value,
            _json(transitions.detail_of(observation)),
            message=observation.message,
            kms_request_id=observation.request_id,
        )
        first = [
            root_names.reading(root),
            observations.writing([observation], dialect),
            *log.closing(dialect, wake=True),
        ]

        def work(unit: Unit) -> int:
            reach("refused:observed")
            named = replace(event, key=root_names.of(unit.answers[0].rows, self._seal))
            draft = Draft(EntryKind.REFUSAL, named, root=root, kek=kek)
            stamp = replace(self._transactions.stamp(unit), replica=replica)
            head = log_head.of(unit.answers[-1].rows, self._seal)
            [made], unit.ending = log.ended(head, [draft], stamp)
            reach("refused:numbered")
            return made.number

        return self._transactions.write_or_fail("refused", work, first)

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest entry (protocol S4)."""
        registered = self._membership.register(beat)
        self._versions.clear()
        return registered

    def poll(self, beat: Heartbeat) -> list[Entry]:
        """Writes a heartbeat and reads the entries after its number, oldest first."""
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

    def seen(
        self,
        subjects: Collection[str],
        kek_ids: Collection[bytes],
        *,
        with_replicas: bool = False,
    ) -> Seen:
        """Reads what replicas observed and, if asked for, the replicas, in one round trip."""
        observed, used = observations.reading(set(subjects)), uses.reading(set(kek_ids))
        asking = self._membership.asking_rows() if with_replicas else []
        asked = self._transactions.clock.monotonic()

        def work(unit: Unit) -> Seen:
            answers = iter(unit.answers)
            seen = observations.of(rows_of(islice(answers, len(observed))))
            last_uses = uses.of(rows_of(islice(answers, len(used))))
            if not with_replicas:
                return Seen(seen, last_uses)
            rows = self._membership.rows_of(list(answers), asked, unit.now)
            return Seen(seen, last_uses, rows)

        steps = [*observed, *used, *asking]
        return self._transactions.fetch(steps, work) if steps else Seen({}, {})

    def prune(self, now_ms: int, log_retention_ms: int) -> None:
        """Removes requests and silent replicas after 24 hours, and entries of the log.

        The last of the older entries stays, and so does every entry that a live replica has not
        applied yet, that is after a live cursor (protocol S11), or that came after an operation was
        started which has not ended. Each cluster keeps its floor.
        Operations that ended as long ago as such entries go, too.
        """

        def work(unit: Unit) -> bool:
            connection, stamp = unit.connection, self._transactions.stamp(unit)
            # The store's clock limits the time: a replica's fast clock removes nothing early.
            until = min(now_ms, stamp.now)
            requests.prune(connection, until - RETENTION)
            replicas.prune(connection, until - RETENTION)
            before = operations.kept_from(connection, until - log_retention_ms)
            operations.prune(connection, until - log_retention_ms)
            passed = self._membership.passed(unit)
            self._transactions.reach("prune:cleared")
            return log_pruning.prune(connection, before, passed, stamp)

        while self._transactions.write_or_fail("prune", work):
            pass

    def prune_history(self, now_ms: int, retention_ms: int) -> list[str]:
        """Removes superseded wraps that no backup needs any more (protocol C6)."""
        return history_pruning.prune(self._transactions, now_ms, retention_ms)

    def reconcile(self, reason: str) -> Position:
        """Records an operator's decision that the store is right as it is (protocol S1).

        Replicas that refuse because the store lacks what they knew then drop every key and go on.

        Returns:
            The position of the newest entry that the operator accepted.
        """

        def work(unit: Unit) -> Position:
            stamp = replace(self._transactions.stamp(unit), replica="reconcile")
            closing = log.closing(stamp.dialect, wake=True)
            *_, locked = stamp.dialect.trip(unit.connection, closing)
            head = log_head.of(locked.rows, self._seal)
            newest = head.newest
            detail = {
                "entry": newest.number,
                "entry_id": newest.entry_id.hex(),
                "reason": reason,
            }
            event = AuditEvent("local", "command:store:reconcile", "done", _json(detail))
            _, unit.ending = log.ended(head, [Draft(EntryKind.RECONCILIATION, event)], stamp)
            self._transactions.reach("reconcile:numbered")
            return newest

        try:
            # On the store as it is, whatever this process has seen.
            return self._transactions.write_unchecked("reconcile", work)
        except LostRaceError as error:
            raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error


def _json(detail: Mapping[str, object]) -> str:
    return json.dumps(detail, sort_keys=True, separators=(",", ":"))
