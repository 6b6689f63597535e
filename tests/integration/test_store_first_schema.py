"""A store that the release of the first schema made comes up under this one, as it was (S6).

`vectors/store-schema-1.json` holds every row of such a store, and `vectors/export-form-1.jsonl`
what that release exported of it. Both are in people's hands, so neither file changes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from sqlalchemy import Connection, column, insert, select, table

import postgres
from builders import NOW, a_request, an_event, applied
from fakes import FakeClock
from keyfold_server.domain.changes import Change, with_regions
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.health import Health
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.store.database.engine import Database
from keyfold_server.store.migrations import migrate
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.postgresql import address
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.sqlite import connections as sqlite_file
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.transfer import archive

VECTORS: Final = Path(__file__).parents[1] / "vectors"
EXPORT: Final = VECTORS / "export-form-1.jsonl"
MADE: Final = json.loads((VECTORS / "store-schema-1.json").read_text(encoding="utf-8"))
BEAT: Final = Heartbeat("two", 0, b"", 120.0, NOW)


def value(name: str, found: object) -> object:
    """Returns a value as the driver takes it."""
    if isinstance(found, dict):
        return bytes.fromhex(found["hex"])
    return bool(found) if name.startswith("can_") and found is not None else found


ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    name: [{key: value(key, found) for key, found in row.items()} for row in rows]
    for name, rows in MADE["tables"].items()
}


FILLED: Final = [name for name, rows in ROWS.items() if rows and name != "alembic_version"]


class Place(Protocol):
    """Where a store can be."""

    migrates_itself: bool

    def connected(self) -> Database: ...

    def open(self) -> SqlStore: ...

    def migrate(self) -> None: ...


class Sqlite:
    """A file."""

    migrates_itself = True

    def __init__(self, folder: Path) -> None:
        self._file, self._key = folder / "keyfold.db", a_key(folder)

    def connected(self) -> Database:
        if not self._file.exists():
            sqlite_file.make(self._file)
        return sqlite_file.connected(self._file)

    def open(self) -> SqlStore:
        return open_store(f"sqlite:///{self._file}", self._key, clock=FakeClock())

    def migrate(self) -> None:
        with closing(self.connected()) as database:
            migrate.upgrade(database)


class Postgres:
    """A database of a real server."""

    migrates_itself = False

    def __init__(self, folder: Path) -> None:
        self._server, self._key = postgres.shared("15"), a_key(folder)
        self._name = self._server.create()

    def connected(self) -> Database:
        url, password = self._server.url(self._name), self._server.password_file
        return postgresql.connected(address.parse(url, password))

    def open(self) -> SqlStore:
        return self._server.open(self._name, self._key)

    def migrate(self) -> None:
        migrate_store(self._server.url(self._name), password_file=self._server.password_file)

    def close(self) -> None:
        self._server.drop(self._name)


def a_key(folder: Path) -> Path:
    """Puts the store's service key into a file."""
    path = folder / "service.key"
    path.touch(0o600)
    path.write_bytes(bytes.fromhex(MADE["service_key"]))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Gives room for a store, of each kind in turn."""
    if request.param == "sqlite":
        yield Sqlite(tmp_path)
        return
    made = Postgres(tmp_path)
    yield made
    made.close()


@pytest.fixture
def first_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Place], None]:
    """Gives what makes a store's schema as the first release did."""

    def make(place: Place) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migrate._SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for script in (folder / "versions").glob("[0-9]*.py"):
            if not script.name.startswith("0001_"):
                script.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "_SCRIPTS", folder)
            place.migrate()

    return make


def write(place: Place, leave_out: str = "") -> None:
    """Writes the rows of the first release, naming the columns that it knew."""

    def work(connection: Connection) -> None:
        for name, rows in ROWS.items():
            if rows and name != leave_out:
                into = table(name, *map(column, rows[0]))
                connection.execute(into.delete())
                connection.execute(insert(into), rows)

    with closing(place.connected()) as database:
        database.write(work)


def values(name: str) -> set[tuple[object, ...]]:
    """Returns the rows of a table as the first release wrote them."""
    return {tuple(row.values()) for row in ROWS[name]}


def stored(connection: Connection) -> dict[str, set[tuple[object, ...]]]:
    """Reads the first release's columns of every row."""
    found = {}
    for name in FILLED:
        known = select(table(name, *map(column, ROWS[name][0])))
        found[name] = {tuple(row) for row in connection.execute(known)}
    return found


def everything(store: SqlStore) -> dict[str, tuple[Cluster, int]]:
    """Reads every cluster, which verifies each of its rows, and walks its audit chain."""
    found = store.clusters(ClusterFilter(), "", 99)
    assert all(isinstance(each, Cluster) for each in found)
    return {c.name: (c, store.verify_audit(c.name)) for c in found if isinstance(c, Cluster)}


def exported(key: Path) -> dict[str, tuple[Cluster, int]]:
    """Returns what the first release exported of the store."""
    with archive.checked(EXPORT, archive.key_of(key)) as checked:
        records = [each for each in checked.records() if isinstance(each, StoredCluster)]
    return {each.cluster.name: (each.cluster, each.events) for each in records}


def check(store: SqlStore, tmp_path: Path) -> None:
    """Checks that the store tells what the first release knew, and that every row is believed."""
    assert everything(store) == exported(tmp_path / "service.key")
    request = store.request(a_request("acme"))
    assert request is not None
    assert request.version == 1
    assert [noted.number for noted in store.poll(BEAT)] == [1, 2, 3, 4, 5, 6]
    assert "one" in {row.replica for row in store.replicas()}
    seen = store.observations(["root:ab12"])["root:ab12"]
    assert (seen.health, seen.can_wrap) == (Health.HEALTHY, True)
    assert (seen.reason, seen.missing_permission) == ("", "")
    kek = ROWS["generations"][0]["kek_id"]
    assert store.external_id("acme") is None
    assert store.last_uses([kek]) == {}


def test_it_comes_up_as_it_was(
    place: Place, first_release: Callable[[Place], None], tmp_path: Path
) -> None:
    """S6, A1: a store of the first schema is migrated, every row as authentic as it was.

    A file migrates itself; a shared store is refused with what to do until somebody does it.
    """
    first_release(place)
    write(place)
    if not place.migrates_itself:
        with pytest.raises(SetupError, match=r"older release: run `keyfold-server migrate`"):
            place.open()
        place.migrate()
    with closing(place.open()) as store:
        database, _ = store.parts
        assert database.read(migrate.check) is migrate.SchemaAge.CURRENT
        # To the letter: nothing was sealed again.
        assert database.read(stored) == {name: values(name) for name in FILLED}
        check(store, tmp_path)


def test_it_goes_on_with_what_is_new(place: Place, first_release: Callable[[Place], None]) -> None:
    """S6: what a store of the first schema gets of the new columns is there after a restart."""
    first_release(place)
    write(place)
    place.migrate()
    with closing(place.open()) as store:
        seen = store.cluster("acme")
        assert seen is not None
        eu = seen.region("eu")
        old = replace(eu.generations[0], retired_at=NOW + 1)
        policy = replace(eu.policy, auto_rotate=True)
        changed = replace(eu, policy=policy, generations=(old, *eu.generations[1:]))
        change = Change("acme", with_regions(seen, [changed], NOW + 1), an_event())
        now = applied(store, change).cluster
        store.issue_external_id("acme", "id", NOW)
    with closing(place.open()) as store:
        assert store.cluster("acme") == now
        assert now.region("eu") == changed
        assert store.external_id("acme") == "id"
        assert {name: events for name, (_, events) in everything(store).items()} == {
            "acme": 3,
            "gone": 3,
            "zoo": 1,
        }


def test_what_the_former_release_writes_meanwhile(place: Place, tmp_path: Path) -> None:
    """S6: once the store is migrated, rows that name the first schema's columns alone are whole."""
    place.migrate()
    write(place, leave_out="alembic_version")
    with closing(place.open()) as store:
        check(store, tmp_path)
