"""`million`: a store with a million cluster-regions, on SQLite and on PostgreSQL.

The case measures how many bytes one takes, how long a server takes to start, and how long the store
takes for a call, a poll and a slot of the sweep, and whether each statement still finds its rows by
an index. It calls the store's methods in this process, one by one; what a server adds to them is
measured by the other cases.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import plans
from bench import bulk, servers, stock
from bench.goals import Figure, Plan, SkippedError, percentile
from bench.processes import running
from bench.scale import START_GOAL
from builders import a_cluster, a_request, an_event, enabling
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.domain.health import Health
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.life.listing import DEFAULT_PAGE
from keyfold_server.service.upkeep.turns import SLOTS
from keyfold_server.store.database.dialect import ACCESS_MODE, AccessMode
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.sql.store import SqlStore

COUNT: Final = 1_000_000
COUNT_QUICK: Final = 2_000
_TIMES: Final = 100
_TIMES_QUICK: Final = 5
_STARTS: Final = 3
_COUNTS: Final = 3
"""Times that the case counts all regions, which takes seconds."""

_STALENESS: Final = 120.0

_SETTINGS: Final = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
}
"""Of PostgreSQL, as for a database of this size."""

_PARTS: Final = """
SELECT sum(pg_table_size(c.oid)), sum(pg_indexes_size(c.oid)) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind = 'r'
"""


class _Store(NamedTuple):
    """One kind of store with its million.

    Attributes:
        kind: Its name in the figures.
        store: The store.
        tables: Bytes of the tables.
        indexes: Bytes of the indexes.
        settings: Settings with which a server runs on it.
        scanned: Says which tables a statement would scan.
    """

    kind: str
    store: SqlStore
    tables: int
    indexes: int
    settings: Mapping[str, str]
    scanned: Callable[[Any, str, Any], set[str]]


def measure(plan: Plan) -> list[Figure]:
    """Measures the case, on PostgreSQL too if this machine has it."""
    count = COUNT_QUICK if plan.quick else COUNT
    times = _TIMES_QUICK if plan.quick else _TIMES
    began = time.perf_counter()
    stock.stocked(plan.folder, count, in_bulk=True)
    print(f"million: the store was there after {time.perf_counter() - began:.0f} s", flush=True)
    figures: list[Figure] = []
    try:
        # First of all, because what the case changes in SQLite must not be copied.
        with _postgresql(plan.folder) as store:
            figures += _measured(store, plan.folder, count, times)
    except SkippedError as skipped:
        print(f"million: PostgreSQL is left out: {skipped}", flush=True)
    with _sqlite(plan.folder) as store:
        figures += _measured(store, plan.folder, count, times)
    return figures


@contextmanager
def _sqlite(folder: Path) -> Iterator[_Store]:
    path = folder / "keyfold.db"
    with closing(sqlite3.connect(path)) as connection:
        [(pages,)] = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
        parts: dict[str, int] = {}
        names = dict(connection.execute("SELECT name, type FROM sqlite_master").fetchall())
        # Not every build of SQLite knows this table.
        with contextlib.suppress(sqlite3.OperationalError):
            for name, size in connection.execute(
                "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
            ):
                kind = names.get(name, "table")
                parts[kind] = parts.get(kind, 0) + size
    store = open_store(f"sqlite:///{path}", None, clock=SystemClock())
    yield _Store(
        "SQLite",
        store,
        pages - parts.get("index", 0),
        parts.get("index", 0),
        {},
        plans.scanned_by_sqlite,
    )


@contextmanager
def _postgresql(folder: Path) -> Iterator[_Store]:
    with servers.database(**_SETTINGS) as database:
        name = database.create()
        url, password = database.url(name), database.password_file
        # One service key, since the rows are the same.
        key = folder / "keyfold.db.service-key"
        migrate_store(url, password_file=password)
        store = open_store(url, key, clock=SystemClock(), password_file=password)
        began = time.perf_counter()
        bulk.copied(folder / "keyfold.db", database, name)
        print(f"million: copied into PostgreSQL in {time.perf_counter() - began:.0f} s", flush=True)
        [(tables, indexes)] = database.run(_PARTS, name)
        settings = {
            "store": url,
            "store_password_file": str(password),
            "service_key": str(key),
        }
        yield _Store(
            "PostgreSQL", store, int(tables), int(indexes), settings, plans.scanned_by_postgresql
        )


def _measured(store: _Store, folder: Path, count: int, times: int) -> list[Figure]:
    of = f"{count:,} cluster-regions on {store.kind}"
    figures = [
        Figure("million", f"{of}: bytes of one, tables", store.tables / count, "", 1),
        Figure("million", f"{of}: bytes of one, indexes", store.indexes / count, "", 1),
    ]
    with closing(store.store), plans.collected() as statements:
        for what, work in _calls(store.store, count).items():
            seconds = [_timed(work) for _ in range(times)]
            figures += [
                _figure(f"{of}: {what}, p50", percentile(seconds, 0.50), times),
                _figure(f"{of}: {what}, p99", percentile(seconds, 0.99), times),
            ]
        asked = dict(statements)
        seconds = [_timed(lambda: _count(store.store)) for _ in range(_COUNTS)]
        figures.append(_figure(f"{of}: count of all regions, median", median(seconds), _COUNTS))
        scans = _scans(store, asked)
    for scan in sorted(scans):
        print(f"million: {store.kind} scans {scan}", flush=True)
    figures.append(
        # A database may scan a small store.
        Figure(
            "million",
            f"{of}: statements that scan",
            len(scans),
            "",
            len(asked),
            0 if count == COUNT else None,
        )
    )
    starts, spent = [], []
    for _ in range(_STARTS):
        environment = servers.environment(folder, **store.settings)
        began = time.perf_counter()
        with running("server", servers.command(), environment) as server:
            starts.append(time.perf_counter() - began)
            spent.append(server.cpu())
    what = f"{of}: start to ready, slowest"
    cpu = f"{of}: the server's CPU until it is ready, median"
    return [
        *figures,
        Figure("million", what, max(starts), "s", _STARTS, START_GOAL),
        Figure("million", cpu, median(spent), "s", _STARTS),
    ]


def _calls(store: SqlStore, count: int) -> dict[str, Callable[[], object]]:
    """Returns what is timed, by name."""
    numbers = iter(random.sample(range(count), min(count, 1_000)))
    made = iter(range(1_000))
    beat = store.register(Heartbeat("bench", 0, b"", _STALENESS, int(time.time() * 1000)))

    def name() -> str:
        return stock.cluster(next(numbers))

    def a_slot() -> str:
        return f"{random.randrange(SLOTS):02x}"  # noqa: S311

    def enable() -> None:
        one = f"new-{next(made)}"
        _apply(store, enabling(a_cluster(one), a_request(one)))

    def revoke() -> None:
        one = name()
        decide = revoked(one, (), int(time.time() * 1000))
        _apply(store, Change(one, decide, an_event("rpc:cluster:revoke"), a_request(one)))

    def of_key() -> ClusterFilter:
        return ClusterFilter(key_uri=f"local:root-{random.randrange(stock.ROOT_KEYS)}")  # noqa: S311

    return {
        "poll without news": lambda: store.poll(beat),
        "cold load": lambda: store.cluster(name()),
        "page of ListClusters": lambda: store.clusters(ClusterFilter(), name(), DEFAULT_PAGE),
        "page of a root key's clusters": lambda: store.clusters(of_key(), "", DEFAULT_PAGE),
        "page of a root key that nobody uses": lambda: store.clusters(
            ClusterFilter(key_uri="local:none"), "", DEFAULT_PAGE
        ),
        "page of a state": lambda: store.clusters(
            ClusterFilter(state=State.ENABLED), name(), DEFAULT_PAGE
        ),
        "page of a health": lambda: store.clusters(
            ClusterFilter(health=Health.HEALTHY), name(), DEFAULT_PAGE
        ),
        "page of a health that no region has": lambda: store.clusters(
            ClusterFilter(health=Health.THROTTLED), "", DEFAULT_PAGE
        ),
        "turn of the sweep at another replica": lambda: store.roots_in_use(a_slot()),
        "turn of the sweep": lambda: store.samples(a_slot()),
        "Enable": enable,
        "Revoke": revoke,
    }


def _apply(store: SqlStore, change: Change) -> None:
    [result] = store.apply([change])
    if isinstance(result, Exception):
        raise result


def _count(store: SqlStore) -> None:
    """Counts the regions, as one replica of all does every 30 seconds."""
    store.census(0)
    store.cannot_wrap(0)
    store.failing(0)


def _scans(store: _Store, statements: Mapping[str, Any]) -> set[str]:
    """Returns the large tables that some statement scans, each with the statement."""
    found = set()
    with store.store.parts[0].engine.connect() as bare:
        connection = bare.execution_options(**{ACCESS_MODE: AccessMode.WRITE})
        for statement, parameters in statements.items():
            # Tables that are still small may be scanned.
            scanned = store.scanned(connection, statement, parameters) & bulk.FILLED
            found |= {f"{table}: {' '.join(statement.split())}" for table in scanned}
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _figure(what: str, seconds: float, samples: int) -> Figure:
    return Figure("million", what, seconds * 1e3, "ms", samples)
