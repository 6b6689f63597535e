"""Fills a new store with so many clusters that making each as Enable does would take too long.

Every row is sealed by the store's own code, and every entry of the log is chained to the one
before, so a server takes the store for one that it has filled itself. What is saved are the
transactions: worker processes wrap and seal, one process chains the entries, and the rows go into
tables without their indexes, which come back at the end. Each KEK has been swept and used, as in a
store that has served for a while.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from psycopg import sql

import postgres
from builders import an_event
from keyfold_server.domain.changes import Change, Timed
from keyfold_server.domain.health import Health
from keyfold_server.domain.log import EntryKind, Floor
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.service.clock import SystemClock
from keyfold_server.store import schema, service_key
from keyfold_server.store.opening import open_store
from keyfold_server.store.seal import Seal
from keyfold_server.store.tables import cluster_rows, clusters, log, log_head
from keyfold_server.store.tables.clusters import StoredCluster

Enabling = Callable[[LocalProvider, int], Change]
"""Makes the change that makes the cluster of a number."""

_CHUNK: Final = 2_000
"""Clusters that a worker makes at once."""

_TABLES: Final = (
    schema.clusters,
    *cluster_rows.CHILDREN,
    schema.log,
    schema.observations,
    schema.generation_uses,
)

FILLED: Final = {table.name for table in _TABLES}
"""The tables that get rows for each cluster."""


_COPY: Final = sql.SQL("COPY {} FROM STDIN")

_DROP_INDEXES: Final = """
CREATE TEMP TABLE dropped ON COMMIT DROP AS
SELECT indexname AS name, indexdef AS made FROM pg_indexes
WHERE schemaname = current_schema() AND indexname LIKE 'ix\\_%';
DO $$ DECLARE each RECORD; BEGIN
    FOR each IN SELECT name FROM dropped LOOP EXECUTE format('DROP INDEX %I', each.name); END LOOP;
END $$
"""

_MAKE_INDEXES: Final = """
DO $$ DECLARE each RECORD; BEGIN
    FOR each IN SELECT made FROM dropped LOOP EXECUTE each.made; END LOOP;
END $$
"""


class _Made(NamedTuple):
    """A cluster that a worker made: its rows by table, and what its entry of the log has."""

    rows: dict[str, list[schema.Cells]]
    name: str
    organization: str | None
    floor: Floor
    decision: str


class _Maker:
    """What a worker process keeps between two chunks."""

    seal: Seal
    provider: LocalProvider
    enabling: Enabling


def fill(folder: Path, count: int, enabling: Enabling) -> None:
    """Fills the store of a server's folder, which has the root keys and no store yet.

    Args:
        folder: The folder.
        count: The number of clusters.
        enabling: Makes the changes; a function at the top of its module.
    """
    path = folder / "keyfold.db"
    store = open_store(f"sqlite:///{path}", None, clock=SystemClock())
    database, seal = store.parts
    head = database.read(lambda connection: log_head.read(connection, seal))
    stamp = log.Stamp("", int(time.time() * 1000), seal, database.dialect)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # A store that is not finished is thrown away, so nothing needs to survive a crash.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("BEGIN")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        for chunk in _chunks(folder, count, enabling):
            drafts = [
                log.Draft(
                    EntryKind.DECISION,
                    an_event(),
                    cluster=made.name,
                    floor=made.floor,
                    decision=made.decision,
                    organization=made.organization,
                )
                for made in chunk
            ]
            _, ending = log.ended(head, drafts, stamp)
            head = log_head.of([ending.row], seal)
            for table in _TABLES:
                rows = (row for made in chunk for row in made.rows.get(table.name, ()))
                _insert(connection, table.name, ending.rows if table is schema.log else rows)
        connection.execute("DELETE FROM log_head")
        _insert(connection, schema.log_head.name, [log_head.sealed(head, seal)])
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[schema.Cells]) -> None:
    marks = ", ".join("?" * len(schema.metadata.tables[table].columns))
    # A root key's observation comes with each of its clusters.
    statement = f"INSERT OR IGNORE INTO {table} VALUES ({marks})"  # noqa: S608  our own names
    connection.executemany(statement, rows)


def _chunks(folder: Path, count: int, enabling: Enabling) -> Iterator[list[_Made]]:
    """Has worker processes make the clusters, and yields them in their order."""
    workers = os.cpu_count() or 1
    starts = iter(range(0, count, _CHUNK))
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(folder, enabling))
    waiting: deque[Future[list[_Made]]] = deque()
    try:
        while True:
            # No more than a few ahead, because the rows of a million clusters fill the memory.
            while len(waiting) < 2 * workers and (first := next(starts, None)) is not None:
                waiting.append(pool.submit(_make, first, min(first + _CHUNK, count)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(folder: Path, enabling: Enabling) -> None:
    _Maker.seal = Seal(
        service_key.load(folder / "keyfold.db.service-key", store=folder / "keyfold.db")
    )
    _Maker.provider = LocalProvider(folder / "root-keys.json")
    _Maker.enabling = staticmethod(enabling)


def _make(first: int, last: int) -> list[_Made]:
    return [_made(_Maker.enabling(_Maker.provider, number)) for number in range(first, last)]


def _made(change: Change) -> _Made:
    decide = change.decide
    assert not isinstance(decide, Timed)  # noqa: S101  what makes a cluster needs no time
    decision = decide(None)
    cluster = decision.cluster
    children = cluster_rows.encoded(cluster, _Maker.seal)
    stored = clusters.sealed(StoredCluster(cluster, children), _Maker.seal)
    rows: dict[str, list[schema.Cells]] = {schema.clusters.name: [stored.own]}
    for table in cluster_rows.CHILDREN:
        rows[table.name] = list(children[table].values())
    at = cluster.created_at
    for region in cluster.regions:
        newest = region.newest
        subjects = (f"root:{newest.current.root_id}", f"kek:{newest.kek_id.hex()}")
        rows.setdefault(schema.observations.name, []).extend(
            _healthy(subject, at) for subject in subjects
        )
        rows.setdefault(schema.generation_uses.name, []).append((newest.kek_id, at))
    return _Made(rows, cluster.name, cluster.organization, stored.floor, decision.described(None))


def _healthy(subject: str, at: int) -> tuple[Any, ...]:
    return (subject, Health.HEALTHY.value, at, at, at, "", "", 1, 1, None, None)


def copied(path: Path, server: postgres.Server, database: str) -> None:
    """Copies what `fill` put into a store into a new PostgreSQL store under the same service key.

    Args:
        path: The file of the first store, which no server uses.
        server: PostgreSQL.
        database: The database of the other store, which has its schema, and no cluster.
    """
    with (
        closing(sqlite3.connect(path)) as source,
        server.connect(database) as session,
        session.transaction(),
    ):
        # Those of constraints stay. A loop of the database's own, which quotes the names.
        session.execute(_DROP_INDEXES)
        for table in _TABLES:
            rows = source.execute(f"SELECT * FROM {table.name}")  # noqa: S608  our own names
            with session.cursor().copy(_COPY.format(sql.Identifier(table.name))) as copy:
                for row in rows:
                    copy.write_row(row)
        names = [column.name for column in schema.log_head.columns]
        changed = sql.SQL(", ").join(
            sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names
        )
        [head] = source.execute("SELECT * FROM log_head")
        session.execute(sql.SQL("UPDATE log_head SET {}").format(changed), head)
        session.execute(_MAKE_INDEXES)
    server.run("VACUUM ANALYZE", database)
