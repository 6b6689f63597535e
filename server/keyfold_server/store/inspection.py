"""A look into a store for `keyfold-server check`, which changes nothing and needs no server.

Each question is a transaction of its own that reads, whether a server runs on the store or not. So
whoever asks may give up on one and go on with the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, func, inspect, literal, select, text, true

from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.lifecycle import State
from keyfold_server.store import schema
from keyfold_server.store.database import extras
from keyfold_server.store.database.dialect import SQLITE
from keyfold_server.store.migrations import migrate
from keyfold_server.store.postgresql import address as addresses
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.seal import Seal, not_authentic
from keyfold_server.store.sqlite import connections as sqlite
from keyfold_server.store.tables import clusters, listing, log_chain, log_reading, replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from keyfold_server.domain.cluster import Cluster, Region
    from keyfold_server.domain.events import LogCheck, LogMark, LogMarks
    from keyfold_server.domain.ports import Clock, ReplicaRow
    from keyfold_server.domain.served_regions import ServedRegions
    from keyfold_server.store.database.engine import Database

_T = TypeVar("_T")

_TIMEOUTS: Final = addresses.Timeouts(statement=5.0, answer=8.0, poll=5.0)


class Inspection:
    """A store, for whoever looks into it.

    Attributes:
        label: The store's name for messages: its file, or its host and database.
    """

    def __init__(self, url: str, password_file: Path | None, clock: Clock) -> None:
        """Takes where the store is; connects when it is first asked.

        Args:
            url: The store's url.
            password_file: The file with the database's password, or None.
            clock: The process's own clock.

        Raises:
            SetupError: The url cannot be used.
        """
        self._clock = clock
        self._database: Database | None = None
        self._path: Path | None = None
        self._address: addresses.Address | None = None
        if url.startswith(addresses.SCHEMES):
            self._address = addresses.parse(url, password_file, _TIMEOUTS)
            self.label = self._address.label
        else:
            self._path = sqlite.path_of(url)
            self.label = str(self._path)

    @property
    def exists(self) -> bool:
        """Whether there is a store; an embedded one is made by the first start."""
        return self._path is None or self._path.exists()

    @property
    def is_embedded(self) -> bool:
        """Whether the store is a file that its one server migrates by itself."""
        return self._path is not None

    def reach(self) -> str:
        """Returns what answers.

        Raises:
            SetupError: The file is not a database, or the driver is missing.
            StoreUnavailableError: Nothing answers, or it lets nobody in.
        """
        if self._path is not None:
            sqlite.check(self._path)
            found = self._read(lambda c: c.execute(text("SELECT sqlite_version()")).scalar_one())
            return f"SQLite {found}"
        found = self._read(lambda c: c.execute(text("SHOW server_version")).scalar_one())
        return f"PostgreSQL {found}"

    def schema(self) -> migrate.SchemaAge:
        """Compares the store's schema with this release's.

        Raises:
            SetupError: This release does not serve on it, or it is another program's database.
            StoreUnavailableError: The store did not answer.
        """
        return self._read(migrate.check)

    def missing(self) -> list[str]:
        """Returns the tables, columns and indexes of this release's schema that somebody dropped.

        Only a store with that schema has to have them.
        """
        return self._read(_missing)

    def extras(self) -> list[str]:
        """Returns what somebody attached to Keyfold's tables (protocol S10)."""
        if self._path is not None:
            return self._read(extras.of_sqlite)
        return self._read(self._connected().dialect.extras)

    def own_row(self, seal: Seal) -> int | None:
        """Returns when the store was made, in milliseconds of Unix time; None: it is empty.

        Raises:
            SetupError: Another service key sealed the store.
            RowNotAuthenticError: Somebody changed the row, or took it from a store in use.
        """
        row, empty = self._read(_own_row)
        if row is None:
            if not empty:
                raise not_authentic("meta")
            return None
        seal.require_key(row[2])
        seal.check("meta", tuple(row))
        return int(row[4])

    def time(self) -> float | None:
        """Returns the database's time in seconds of Unix time; None: it is this machine's."""
        if self._path is not None:
            return None
        dialect = self._connected().dialect
        return self._read(lambda c: dialect.now(c, self._clock)) / 1000

    def replicas(self, seal: Seal) -> list[ReplicaRow]:
        """Returns the replicas that have registered, and for how long each has been silent.

        Raises:
            RowNotAuthenticError: A row is not authentic.
        """
        dialect = SQLITE if self._path is not None else self._connected().dialect

        def work(connection: Connection) -> list[ReplicaRow]:
            now = dialect.now(connection, self._clock)
            return replicas.of([tuple(r) for r in connection.execute(replicas.READ)], now, seal)

        return self._read(work)

    def unserved(self, serves: frozenset[str], most: int) -> dict[str, int]:
        """Counts enabled regions by name, other than those that some replicas serve."""
        return self._read(lambda c: listing.unserved(c, serves, most))

    def marks(self, seal: Seal, numbers: Collection[int]) -> LogMarks:
        """Returns the ends of the log, and the entries of some numbers, each by its own seal."""
        dialect = SQLITE if self._path is not None else self._connected().dialect

        def work(connection: Connection) -> LogMarks:
            answers = dialect.trip(connection, log_reading.marking(numbers))
            return log_reading.marks(answers, seal, dialect.now(connection, self._clock))

        return self._read(work)

    def chain(self, seal: Seal, after: LogMark | None, limit: int) -> LogCheck:
        """Verifies the next part of the log's chain, up to `limit` entries."""
        return self._read(lambda c: log_chain.checked(c, after, limit, seal))

    def root_keys(
        self, seal: Seal, most: int, served: ServedRegions
    ) -> list[tuple[Cluster, Region] | KeyfoldError]:
        """Returns a region in service for each of the first root keys; one more than `most`.

        In place of a region there is an error if the rows of its cluster serve nobody.

        Args:
            seal: Checks the rows.
            most: Most root keys.
            served: The regions whose root keys count.
        """
        regions = schema.regions
        first = (
            select(regions.c.root_subject, func.min(schema.clusters.c.name))
            .join(schema.clusters, schema.clusters.c.uid == regions.c.cluster_uid)
            .where(
                regions.c.state == State.ENABLED.value,
                true() if served.names is None else regions.c.name.in_(sorted(served.names)),
            )
            .group_by(regions.c.root_subject)
            .order_by(regions.c.root_subject)
            .limit(most + 1)
        )

        def work(connection: Connection) -> list[tuple[Cluster, Region] | KeyfoldError]:
            found: list[tuple[Cluster, Region] | KeyfoldError] = []
            for subject, name in connection.execute(first).all():
                try:
                    stored = clusters.named(connection, seal, name)
                except KeyfoldError as error:
                    found.append(error)
                    continue
                if stored is not None:
                    found += [
                        (stored.cluster, region)
                        for region in stored.cluster.regions
                        if served.serves(region.name)
                        and subject.endswith(region.newest.current.root_id)
                    ][:1]
            return found

        return self._read(work)

    def close(self) -> None:
        """Closes the connections."""
        if self._database is not None:
            self._database.close()

    def _connected(self) -> Database:
        if self._database is None:
            if self._address is None:
                raise SetupError("the store is in a file")
            self._database = postgresql.connected(self._address)
        return self._database

    def _read(self, work: Callable[[Connection], _T]) -> _T:
        if self._path is None:
            return self._connected().read(work)
        with sqlite.reading(self._path) as connection:
            return work(connection)


def _own_row(connection: Connection) -> tuple[Any, bool]:
    """Returns the store's own row, or None, and whether the store is empty."""
    row = connection.execute(select(*schema.meta.c)).first()
    full = any(
        connection.execute(select(literal(1)).select_from(table).limit(1)).first()
        for table in schema.metadata.sorted_tables
    )
    return row, not full


def _missing(connection: Connection) -> list[str]:
    there: Any = inspect(connection)
    tables = set(there.get_table_names())
    missing = []
    for table in schema.metadata.sorted_tables:
        if table.name not in tables:
            missing.append(f"table {table.name}")
            continue
        columns = {column["name"] for column in there.get_columns(table.name)}
        missing += [f"column {table.name}.{c.name}" for c in table.columns if c.name not in columns]
        indexes = {index["name"] for index in there.get_indexes(table.name)}
        missing += [
            f"index {index.name} on {table.name}"
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.name not in indexes
        ]
    return missing
