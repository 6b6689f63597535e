"""A store goes from one schema to the next while servers of both releases serve on it (S6).

The next schema is that of `next_schema`, which exists for tests alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import pytest
from sqlalchemy import Connection, text

import store_vector
from builders import NOW, an_event, applied
from keyfold.checks import Finding, Outcome
from keyfold_server.bootstrap.checking.stored import StoreChecks
from keyfold_server.domain.changes import Change, with_regions
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.settings import Settings
from keyfold_server.store.migrations import migrate
from keyfold_server.store.migrations.migrate import SchemaAge
from keyfold_server.store.tables.log import Draft, Stamp, append
from next_schema import ADDED, UNKNOWN, NextRelease
from store_vector import Place, check, everything, stored, values

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


@pytest.fixture(params=store_vector.KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Gives an empty place for a store, of each kind in turn."""
    with store_vector.a_place(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NextRelease:
    """Gives what acts as the release after this one."""
    return NextRelease(tmp_path, monkeypatch)


def test_it_comes_up_as_it_was(place: Place, release: NextRelease, tmp_path: Path) -> None:
    """S6, A1: the next release migrates a store of this one, and no row changes.

    A file migrates itself. A shared store is refused, with what to do, until somebody migrates it.
    """
    place.migrate()
    store_vector.write(place)
    release.use(newer=True)
    if not place.migrates_itself:
        with pytest.raises(SetupError, match=r"older release: run `keyfold-server migrate`"):
            place.open()
        place.migrate()
    with closing(place.open()) as store:
        database, _ = store.parts
        assert database.read(migrate.check) is SchemaAge.CURRENT
        # To the letter: nothing was sealed again.
        assert database.read(stored) == values()
        check(store, tmp_path / "service.key")


def _schema(place: Place, key: Path) -> Finding:
    """Returns what `keyfold-server check` says of a store's schema."""
    settings = Settings(
        store=place.url, service_key=key, store_password_file=place.password_file, migrate="manual"
    )
    looked = StoreChecks(settings, ())
    with closing(looked):
        found = [one for _, question in looked.questions() for one in question()]
    return next(one for one in found if one.check == "store schema")


def test_check_tells_the_age_of_a_schema(
    place: Place, release: NextRelease, tmp_path: Path
) -> None:
    """S6: an older schema is mended by a migration, the next one is served, others are refused."""
    key = tmp_path / "service.key"
    place.migrate()
    store_vector.write(place)
    assert _schema(place, key).seen == "it is whole"
    release.use(newer=True)
    older = _schema(place, key)
    assert older.seen.startswith("it is that of an older release")
    assert older.outcome is (Outcome.OK if place.migrates_itself else Outcome.FAILURE)
    assert place.migrates_itself or "keyfold-server migrate" in older.do
    place.migrate()
    release.use(newer=False)
    assert _schema(place, key).seen == "it is that of the next release"
    with closing(place.connected()) as database:
        database.write(
            lambda c: c.execute(text(f"UPDATE alembic_version SET version_num = '{UNKNOWN}'"))
        )
    unknown = _schema(place, key)
    assert unknown.outcome is Outcome.FAILURE
    assert f"schema {UNKNOWN}, which this release does not know" in unknown.seen


def test_it_goes_on_with_what_is_new(place: Place, release: NextRelease, tmp_path: Path) -> None:
    """S6: this release serves on the next schema: it reads every row, and what it writes stays."""
    place.migrate()
    store_vector.write(place)
    release.use(newer=True)
    place.migrate()
    release.use(newer=False)
    with closing(place.open()) as store:
        assert store.parts[0].read(migrate.check) is SchemaAge.NEXT
        check(store, tmp_path / "service.key")
        seen = store.cluster("acme")
        assert seen is not None
        eu = seen.region("eu")
        old = replace(eu.generations[0], retired_at=NOW + 1)
        policy = replace(eu.policy, auto_rotate=True)
        changed = replace(eu, policy=policy, generations=(old, *eu.generations[1:]))
        change = Change("acme", with_regions(seen, [changed], NOW + 1), an_event())
        now = applied(store, change).cluster
        store.issue_external_id("acme", "id", an_event())
        before = everything(store)
    release.use(newer=True)
    with closing(place.open()) as store:
        assert store.cluster("acme") == now
        assert now.region("eu") == changed
        assert store.external_id("acme") == "id"
        assert everything(store) == before
        assert {name: events for name, (_, events) in before.items()} == {
            "acme": 3,
            "gone": 3,
            "Zoo": 1,
        }


def test_what_the_former_release_writes_meanwhile(
    place: Place, release: NextRelease, tmp_path: Path
) -> None:
    """S6: once the store is migrated, rows that name the former schema's columns alone are whole.

    The columns of the next schema are empty in them.
    """
    release.use(newer=True)
    place.migrate()
    store_vector.write(place)
    with closing(place.open()) as store:
        check(store, tmp_path / "service.key")
        assert {*store.parts[0].read(_novelties)} == {None}


def test_an_entry_of_a_newer_kind(place: Place) -> None:
    """S6: this release drops what such an entry names, and the log stays whole with it."""
    place.migrate()
    store_vector.write(place)
    with closing(place.open()) as store:
        database, seal = store.parts
        before, (_, events) = store.poll(BEAT), everything(store)["acme"]
        kind = cast("EntryKind", SimpleNamespace(value="NOVELTY"))
        draft = Draft(kind, an_event(), cluster="acme")
        stamp = Stamp("newer", NOW, seal, database.dialect)
        database.write(lambda connection: append(connection, [draft], stamp))
        [entry] = store.poll(BEAT)[len(before) :]
        assert (entry.kind, entry.is_news, entry.cluster) == (EntryKind.UNKNOWN, True, "acme")
        # An export verifies the whole log.
        assert everything(store)["acme"][1] == events + 1


def test_a_migration_that_died_half_way_is_finished(place: Place, release: NextRelease) -> None:
    """S6: what a migration added before it died does not keep the next one from the rest."""
    place.migrate()
    store_vector.write(place)
    with closing(place.connected()) as database:
        database.write(lambda c: c.execute(text("ALTER TABLE regions ADD COLUMN novelty TEXT")))
        database.write(lambda c: c.execute(text("CREATE TABLE novelties (id INTEGER)")))
    release.use(newer=True)
    place.migrate()
    with closing(place.open()) as store:
        assert store.parts[0].read(migrate.check) is SchemaAge.CURRENT
        assert {*store.parts[0].read(_novelties)} == {None}
        assert store.parts[0].read(stored) == values()


def _novelties(connection: Connection) -> list[object]:
    """Reads the columns that the next schema added."""
    return [
        value
        for table in ADDED
        for value in connection.execute(text(f"SELECT novelty FROM {table}")).scalars()
    ]
