"""A store whose every row is known: `vectors/store.json`, and its export `vectors/export.jsonl`.

Both pin formats: the bytes under a row's MAC, the rows, and the export.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Connection, column, insert, select, table

import postgres
from audit_chain import verified_events
from builders import NOW, a_request, record_of
from fakes import FakeClock
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.health import Health
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.store.database.engine import Database
from keyfold_server.store.migrations import migrate
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.postgresql import address
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.sqlite import connections as sqlite
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.transfer import archive
from keyfold_server.store.transfer.records import ExportedEntry

VECTORS: Final = Path(__file__).with_name("vectors")
EXPORT: Final = VECTORS / "export.jsonl"
_MADE: Final = json.loads((VECTORS / "store.json").read_text(encoding="utf-8"))
_BEAT: Final = Heartbeat("two", 0, b"", 120.0, NOW)


def _value(name: str, found: object) -> object:
    """Returns a value as the driver takes it."""
    if isinstance(found, dict):
        return bytes.fromhex(found["hex"])
    return bool(found) if name.startswith("can_") and found is not None else found


ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    name: [{key: _value(key, found) for key, found in row.items()} for row in rows]
    for name, rows in _MADE["tables"].items()
}
"""The rows of each table, as values by column."""


class Place(Protocol):
    """A place for a store."""

    migrates_itself: bool
    url: str
    password_file: Path | None

    def connected(self) -> Database: ...

    def open(self) -> SqlStore: ...

    def migrate(self) -> None: ...


class _Sqlite:
    """A file."""

    migrates_itself = True

    def __init__(self, key: Path) -> None:
        self._file, self._key = key.with_name("keyfold.db"), key
        self.url = f"sqlite:///{self._file}"
        self.password_file: Path | None = None

    def connected(self) -> Database:
        if not self._file.exists():
            sqlite.make(self._file)
        return sqlite.connected(self._file)

    def open(self) -> SqlStore:
        return open_store(self.url, self._key, clock=FakeClock(), takes_key=True)

    def migrate(self) -> None:
        with closing(self.connected()) as database:
            migrate.upgrade(database)


class _Postgres:
    """A database of a real server."""

    migrates_itself = False

    def __init__(self, key: Path) -> None:
        self._server, self._key = postgres.shared("15"), key
        self._name = self._server.create()
        self.url = self._server.url(self._name)
        self.password_file: Path | None = self._server.password_file

    def connected(self) -> Database:
        return postgresql.connected(address.parse(self.url, self.password_file))

    def open(self) -> SqlStore:
        return self._server.open(self._name, self._key)

    def migrate(self) -> None:
        migrate_store(self.url, password_file=self.password_file)

    def drop(self) -> None:
        self._server.drop(self._name)


KINDS: tuple[str, ...] = ("sqlite", "postgresql")
"""Kinds of places."""


def service_key(folder: Path) -> Path:
    """Puts the vector's service key into a file."""
    path = folder / "service.key"
    path.touch(0o600)
    path.write_bytes(bytes.fromhex(_MADE["service_key"]))
    return path


@contextmanager
def a_place(kind: str, folder: Path) -> Iterator[Place]:
    """Yields an empty place of a kind; its service key is in `folder`."""
    key = service_key(folder)
    if kind == "sqlite":
        yield _Sqlite(key)
        return
    made = _Postgres(key)
    try:
        yield made
    finally:
        made.drop()


def write(place: Place) -> None:
    """Writes the vector's rows, naming the columns that this release knows."""

    def work(connection: Connection) -> None:
        for name, rows in ROWS.items():
            into = table(name, *map(column, rows[0]))
            connection.execute(into.delete())
            connection.execute(insert(into), rows)

    with closing(place.connected()) as database:
        database.write(work)


def stored(connection: Connection) -> dict[str, set[tuple[object, ...]]]:
    """Reads this release's columns of every row."""
    found = {}
    for name, rows in ROWS.items():
        known = select(table(name, *map(column, rows[0])))
        found[name] = {tuple(row) for row in connection.execute(known)}
    return found


def values() -> dict[str, set[tuple[object, ...]]]:
    """Returns the vector's rows as `stored` reads them."""
    return {name: {tuple(row.values()) for row in rows} for name, rows in ROWS.items()}


def everything(store: SqlStore) -> dict[str, tuple[Cluster, int]]:
    """Reads every cluster, which verifies each of its rows, and counts its entries in the log."""
    found = store.clusters(ClusterFilter(), "", 99)
    assert all(isinstance(each, Cluster) for each in found)
    return {c.name: (c, verified_events(store, c.name)) for c in found if isinstance(c, Cluster)}


def exported(key: Path) -> dict[str, tuple[Cluster, int]]:
    """Reads the clusters of the vector's export, and how many entries of the log each has."""
    with archive.verified(EXPORT, archive.seal_of(key)) as verified:
        records = list(verified.records())
    entries = Counter(r.record()["cluster"] for r in records if isinstance(r, ExportedEntry))
    return {
        each.cluster.name: (each.cluster, entries[each.cluster.name])
        for each in records
        if isinstance(each, StoredCluster)
    }


def check(store: SqlStore, key: Path) -> None:
    """Checks that a store holds what the vector says, and that every row of it verifies."""
    assert everything(store) == exported(key)
    request = record_of(store, a_request("acme"))
    assert request is not None
    assert request.version == 1
    assert [noted.number for noted in store.poll(_BEAT)] == list(range(1, 11))
    assert "one" in {row.replica for row in store.replicas()}
    good, refused = (store.observations([s])[s] for s in ("root:ab12", "root:cd34"))
    assert (good.health, good.can_wrap) == (Health.HEALTHY, True)
    assert (good.reason, good.missing_permission) == ("", "")
    assert (refused.reason, refused.missing_permission) == ("ACCESS_DENIED", "kms:Decrypt")
    assert (store.external_id("org"), store.external_id("acme")) == ("id-of-org", None)
    [used] = ROWS["generation_uses"]
    assert store.seen((), [used["kek_id"]]).last_uses == {used["kek_id"]: NOW}
