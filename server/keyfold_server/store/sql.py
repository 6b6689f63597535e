"""SqlStore: the store's port on a relational database, a transaction per method."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, delete, select

from keyfold_server.domain.cluster import existing
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    RowNotAuthenticError,
    SetupError,
    StoreUnavailableError,
)
from keyfold_server.store import audit, changes, listing, observations, replicas, requests, rows
from keyfold_server.store.changes import Subject
from keyfold_server.store.faults import CollisionError, LostRaceError
from keyfold_server.store.marks import nowhere
from keyfold_server.store.schema import clusters, generations
from keyfold_server.store.schema import requests as requests_table
from keyfold_server.store.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.ports import (
        Applied,
        Change,
        Clock,
        ClusterFilter,
        Heartbeat,
        Noted,
        RecordedRequest,
        ReplicaRow,
        RequestKey,
    )
    from keyfold_server.store.engine import Database
    from keyfold_server.store.seal import Seal

T = TypeVar("T")

KEPT: Final = 24 * 60 * 60 * 1000
"""Milliseconds that requests and changes are kept at least (protocol section 7)."""

_AGAIN: Final = "the store was changed by others again and again; ask again"


class SqlStore:
    """A `domain.ports.Store`; may be called from any number of threads."""

    def __init__(
        self,
        database: Database,
        seal: Seal,
        *,
        clock: Clock,
        reach: Callable[[str], None] = nowhere,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes an opened database; `opening.open_store` makes one.

        Args:
            database: The store's connections.
            seal: Seals and checks its rows.
            clock: Time.
            reach: Called with each of `marks.MARKS` that a mutation passes.
            release: Called by `close`, after the connections are closed.
        """
        self._database = database
        self._seal = seal
        self._clock = clock
        self._reach = reach
        self._release = release
        self._mine: set[str] = set()
        self._replica = ""
        self._mine_lock = threading.Lock()

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
        stored = self._database.read(lambda c: self._stored(c, name))
        return stored.cluster if stored is not None else None

    def owner_of(self, kek_id: bytes) -> str | None:
        """Returns the name of the cluster that a KEK belongs to, or None."""
        statement = (
            select(*clusters.c, *generations.c)
            .join(generations, generations.c.cluster_uid == clusters.c.uid)
            .where(generations.c.kek_id == kek_id)
        )
        row = self._database.read(lambda c: c.execute(statement).first())
        if row is None:
            return None
        own, generation = tuple(row)[: len(clusters.c)], tuple(row)[len(clusters.c) :]
        rows.check_own_row(own, self._seal)
        self._seal.check("generations", generation, own[1])
        return str(own[1])

    def clusters(
        self, which: ClusterFilter, after: str, limit: int
    ) -> list[Cluster | RowNotAuthenticError]:
        """Reads up to `limit` clusters whose names follow `after`, by name."""
        where = listing.page(which, after, limit)
        found = self._database.read(lambda c: rows.read(c, self._seal, where))
        return [s if isinstance(s, RowNotAuthenticError) else s.cluster for s in found.values()]

    def census(self) -> dict[tuple[str, str], int]:
        """Counts regions by state and last health."""
        return self._database.read(listing.census)

    def request(self, key: RequestKey) -> RecordedRequest | None:
        """Reads what was recorded of a request_id."""
        found = self._database.read(lambda c: requests.read(c, [key], self._seal))
        return found.get(requests.scope(key))

    def apply(self, changes: Sequence[Change]) -> list[Applied | Exception]:
        """Carries out changes in one transaction; a change that raises drops out alone.

        Cluster rows are locked in sorted order, the counter's row is taken last (protocol S8).
        """
        if not changes:
            return []
        try:
            return self._write("apply", lambda c: self._unit(c).carry_out(c, changes))
        except LostRaceError:
            if len(changes) > 1:
                # One of them collides whenever it is tried: it must not take the others along.
                return [result for change in changes for result in self.apply([change])]
            name = changes[0].cluster
            return [
                ConcurrentChangeError(
                    f"cluster {name} collides with what another request made; ask again",
                    cluster=name,
                )
            ]

    def refused(self, root: str, observation: Observation, replica: str) -> None:
        """Records a refusal: an observation and one numbered change (protocol F2)."""
        dialect = self._database.dialect

        def work(connection: Connection) -> None:
            observations.write(connection, [observation], dialect)
            self._reach("refused:observed")
            now = dialect.now(connection, self._clock)
            changes.note(connection, [Subject(root=root)], replica, now, self._seal, dialect)
            self._reach("refused:numbered")

        self._write_or_fail("refused", work)

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest change (protocol S4).

        Raises:
            SetupError: Another replica has this name.
        """
        with self._mine_lock:
            mine = {*self._mine, beat.replica}

            def work(connection: Connection) -> Heartbeat:
                return self._registered(connection, beat, mine)

            try:
                current = self._write("register", work)
            except CollisionError:
                raise SetupError(
                    f"another replica is named {beat.replica}; give this one a name of its own"
                ) from None
            except LostRaceError as error:
                raise StoreUnavailableError(_AGAIN) from error
            self._mine, self._replica = mine, beat.replica
        return current

    def poll(self, beat: Heartbeat) -> list[Noted]:
        """Writes a heartbeat and reads the changes after its number, oldest first.

        Raises:
            StoreRolledBackError: The store does not have the change that the beat names. Then
                no heartbeat is written: this replica is not one of this store's.
        """

        def work(connection: Connection) -> list[Noted]:
            self._beat(connection, beat)
            self._reach("poll:written")
            return changes.since(connection, beat, self._seal)

        return self._write_or_fail("poll", work, polling=True)

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        self._write_or_fail("leave", lambda c: replicas.remove(c, replica))
        with self._mine_lock:
            self._mine.discard(replica)

    def replicas(self) -> list[ReplicaRow]:
        """Reads every replica that has not left."""

        def work(connection: Connection) -> list[ReplicaRow]:
            now = self._database.dialect.now(connection, self._clock)
            return replicas.read(connection, now, self._seal)

        return self._database.read(work)

    def observe(self, observations: Sequence[Observation]) -> None:
        """Writes what was seen of root keys; plain upserts, no number (protocol S7)."""
        if observations:
            self._write_or_fail("observe", lambda c: self._observe(c, observations))

    def observations(self, subjects: Sequence[str]) -> dict[str, Observation]:
        """Reads what was last seen, by subject."""
        return self._database.read(lambda c: observations.read(c, subjects))

    def prune(self, now_ms: int) -> None:
        """Removes requests, changes and replicas older than 24 h, the newest change never."""
        dialect = self._database.dialect

        def work(connection: Connection) -> None:
            # By the store's clock at most: a replica's that is ahead removes nothing early.
            before = min(now_ms, dialect.now(connection, self._clock)) - KEPT
            connection.execute(delete(requests_table).where(requests_table.c.created_at < before))
            changes.prune(connection, before, self._seal)
            replicas.prune(connection, before)

        self._write_or_fail("prune", work)

    def verify_audit(self, cluster_name: str) -> int:
        """Walks a cluster's audit chain and returns how many events it has.

        Raises:
            RowNotAuthenticError: The chain is broken.
            ClusterNotFoundError: There is no such cluster.
        """

        def work(connection: Connection) -> int:
            stored = self._stored(connection, cluster_name)
            if stored is None:
                existing(None, cluster_name)
                return 0
            return audit.verify(connection, stored, self._seal)

        return self._database.read(work)

    def _stored(self, connection: Connection, name: str) -> rows.Stored | None:
        found = rows.read(connection, self._seal, clusters.c.name == name)
        return _believed(found[name]) if name in found else None

    def _registered(self, connection: Connection, beat: Heartbeat, mine: set[str]) -> Heartbeat:
        dialect = self._database.dialect
        if dialect.one_process:
            replicas.remove_others(connection, mine)
        self._reach("register:cleared")
        last = changes.newest(connection, self._seal)
        current = replace(beat, number=last.number, change_id=last.change_id)
        if dialect.one_process or beat.replica in self._mine:
            self._beat(connection, current)
        else:
            now = dialect.now(connection, self._clock)
            replicas.add(connection, current, now, self._seal)
        self._reach("register:written")
        return current

    def _unit(self, connection: Connection) -> Unit:
        dialect = self._database.dialect
        now = dialect.now(connection, self._clock)
        return Unit(dialect, self._seal, self._replica, now, reach=self._reach)

    def _beat(self, connection: Connection, beat: Heartbeat) -> None:
        dialect = self._database.dialect
        now = dialect.now(connection, self._clock)
        replicas.write(connection, beat, now, self._seal, dialect)

    def _observe(self, connection: Connection, seen: Sequence[Observation]) -> None:
        observations.write(connection, seen, self._database.dialect)

    def _write(self, name: str, work: Callable[[Connection], T], *, polling: bool = False) -> T:
        def marked(connection: Connection) -> T:
            self._reach(f"{name}:begun")
            result = work(connection)
            self._reach(f"{name}:before-commit")
            return result

        result = self._database.write(marked, polling=polling)
        self._reach(f"{name}:after-commit")
        return result

    def _write_or_fail(
        self, name: str, work: Callable[[Connection], T], *, polling: bool = False
    ) -> T:
        try:
            return self._write(name, work, polling=polling)
        except LostRaceError as error:
            raise StoreUnavailableError(_AGAIN) from error


def _believed(stored: rows.Stored | RowNotAuthenticError) -> rows.Stored:
    if isinstance(stored, RowNotAuthenticError):
        raise stored
    return stored
