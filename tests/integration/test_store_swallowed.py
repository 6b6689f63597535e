"""Databases that do not keep what Keyfold writes, and report success (protocol S10).

Whoever may alter the tables can attach triggers, rules and policies to them. No Revoke may then be
answered as done while calls go on.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

import postgres
from builders import NOW, a_cluster, an_event, applied, enabled, enabling
from fakes import FakeClock
from keyfold_server.domain.changes import Change, CommittedChange, restored, revoked
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import RowNotAuthenticError, StoreUnavailableError
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.store import opening
from keyfold_server.store.opening import open_store
from keyfold_server.store.schema import metadata
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import floors

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)

STORES: Final = ("sqlite", "postgresql-15", "postgresql-18")

NOTHING: Final = (
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
)

DECIDING: Final = ("clusters", "regions", "log", "log_head")
"""Tables of which a revocation writes a row."""


class Bench:
    """A store, and a session of somebody who may alter its tables."""

    def __init__(self, kind: str, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.is_sqlite = kind == "sqlite"
        self._file, self._key = folder / "keyfold.db", folder / "service.key"
        if not self.is_sqlite:
            postgres.a_service_key(folder)
            self._server = postgres.shared(kind.removeprefix("postgresql-"))
            self._name = self._server.create(self._server.migrated)
            stack.callback(self._server.drop, self._name)

    @property
    def url(self) -> str:
        return f"sqlite:///{self._file}" if self.is_sqlite else self._server.url(self._name)

    @property
    def password_file(self) -> Path | None:
        return None if self.is_sqlite else self._server.password_file

    def open(self) -> SqlStore:
        """Opens the store, as a process of its own does."""
        store = open_store(self.url, self._key, clock=FakeClock(), password_file=self.password_file)
        self._stack.callback(store.close)
        return store

    def run(self, *statements: str) -> None:
        """Alters the database."""
        if not self.is_sqlite:
            for statement in statements:
                self._server.run(statement, self._name)
            return
        with closing(sqlite3.connect(self._file)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def swallow(self, table: str) -> None:
        """Drops each write of a row of a table."""
        if self.is_sqlite:
            for event in ("INSERT", "UPDATE"):
                self.run(
                    f"CREATE TRIGGER drop_{event} BEFORE {event} ON {table} "
                    "BEGIN SELECT RAISE(IGNORE); END"
                )
            return
        self.run(
            NOTHING,
            f"CREATE TRIGGER drop_it BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION nothing()",
        )


@pytest.fixture(params=STORES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Gives an empty store of each kind."""
    with ExitStack() as stack:
        yield Bench(request.param, tmp_path, stack)


@pytest.fixture(params=STORES[1:])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Gives an empty store in PostgreSQL."""
    with ExitStack() as stack:
        yield Bench(request.param, tmp_path, stack)


def revoking(name: str = "acme") -> Change:
    """Makes a revocation."""
    return Change(name, revoked(name, (), NOW), an_event("rpc:cluster:revoke"))


@pytest.mark.parametrize("table", DECIDING)
def test_a_write_that_is_dropped_fails_the_change(bench: Bench, table: str) -> None:
    """S10: a revocation that lost a row is not answered as done, and leaves nothing."""
    store = bench.open()
    before = enabled(store)
    bench.swallow(table)
    [refused] = store.apply([revoking()])
    assert isinstance(refused, RowNotAuthenticError)
    assert f"did not take a row of {table}" in refused.message
    assert store.cluster("acme") == before
    assert [noted.number for noted in store.poll(BEAT)] == [1]


def test_a_heartbeat_that_is_dropped_fails_the_poll(bench: Bench) -> None:
    """S2, S10: a store that does not keep heartbeats makes its replicas stale."""
    store = bench.open()
    store.register(BEAT)
    bench.swallow("replicas")
    with pytest.raises(RowNotAuthenticError, match="did not take a row of replicas"):
        store.poll(BEAT)


def test_a_dropped_write_takes_nobody_along(bench: Bench) -> None:
    """S10, R9: in a group of changes, one whose row is dropped fails alone."""
    store = bench.open()
    for name in ("acme", "other"):
        enabled(store, name)
    if bench.is_sqlite:
        bench.run(
            "CREATE TRIGGER t BEFORE UPDATE ON clusters WHEN old.name = 'acme' "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        bench.run(
            NOTHING,
            "CREATE TRIGGER t BEFORE UPDATE ON clusters FOR EACH ROW WHEN (old.name = 'acme') "
            "EXECUTE FUNCTION nothing()",
        )
    bad, good = store.apply([revoking(), revoking("other")])
    assert isinstance(bad, RowNotAuthenticError)
    assert isinstance(good, CommittedChange)


def put_back(bench: Bench) -> None:
    """Puts the rows of cluster acme back whenever a change has written them."""
    kept = ("clusters", "regions")
    columns = {
        table: [c.name for c in metadata.tables[table].columns if not c.primary_key]
        for table in kept
    }
    undo = {
        table: f"UPDATE {table} SET "
        + ", ".join(f"{c} = (SELECT {c} FROM kept_{table})" for c in columns[table])
        + ";"
        for table in kept
    }
    if bench.is_sqlite:
        bench.run(
            *(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}" for table in kept),
            "CREATE TRIGGER undo AFTER INSERT ON log BEGIN "
            f"{undo['clusters']} {undo['regions']} END",
        )
        return
    bench.run(
        *(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}" for table in kept),
        "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF pg_trigger_depth() = 1 THEN {undo['clusters']} {undo['regions']} END IF; "
        "RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER undo AFTER UPDATE ON clusters DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION undo()",
    )


def test_rows_that_a_trigger_puts_back_are_not_authentic(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: rows that verify, but lie below the newest change, serve nobody on any replica."""
    one, two = bench.open(), None if bench.is_sqlite else bench.open()
    seen = enabled(one)
    put_back(bench)
    one.apply([revoking()])
    for store in filter(None, (one, two)):
        with pytest.raises(RowNotAuthenticError):
            store.cluster("acme")
        [listed] = store.clusters(ClusterFilter(), "", 9)
        assert isinstance(listed, RowNotAuthenticError)
        [refused] = store.apply([Change("acme", restored(seen, ["eu"], NOW), an_event())])
        assert isinstance(refused, RowNotAuthenticError)
    one.close()
    with closing(bench.open()) as again, pytest.raises(RowNotAuthenticError):
        again.cluster("acme")
    # Nothing but the log shows it: the old rows verify.
    monkeypatch.setattr(floors, "hold", lambda *_: 0)
    assert bench.open().cluster("acme") == seen


def test_what_is_deferred_runs_before_the_number(shared: Bench) -> None:
    """S10: a deferred trigger has run when the change gets its number, not at the commit."""
    store = shared.open()
    enabled(store)
    shared.run(
        "CREATE TABLE seen (number BIGINT)",
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO seen SELECT number FROM log_head; RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON clusters DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION look()",
    )
    assert applied(store, revoking()).number == 2
    assert shared._server.run("SELECT number FROM seen", shared._name) == [(1,)]


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
def test_a_rule_that_does_nothing_instead(shared: Bench, event: str) -> None:
    """S10: a rule that drops writes fails the change."""
    store = shared.open()
    before = enabled(store)
    table = {"INSERT": "log", "UPDATE": "regions"}[event]
    shared.run(f"CREATE RULE nothing AS ON {event} TO {table} DO INSTEAD NOTHING")
    [refused] = store.apply([revoking()])
    assert isinstance(refused, RowNotAuthenticError)
    assert store.cluster("acme") == before


def test_rows_that_a_policy_hides_from_writes(shared: Bench, tmp_path: Path) -> None:
    """S10: row-level security that lets Keyfold read rows and not write them fails the change."""
    server, name = shared._server, shared._name
    enabled(shared.open())
    role = f"careful_{name}"
    server.run(f"CREATE ROLE {role} LOGIN PASSWORD '{server.password}'")
    shared._stack.callback(server.run, f"DROP ROLE {role}")
    shared._stack.callback(server.run, f"DROP OWNED BY {role}", name)
    server.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", name)
    server.run(f"GRANT USAGE ON SCHEMA test_time TO {role}", name)
    server.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA test_time TO {role}", name)
    shared.run(
        "ALTER TABLE regions ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY look ON regions FOR SELECT USING (true)",
    )
    store = open_store(
        server.url(name).replace(postgres.USER, role, 1),
        shared._key,
        clock=FakeClock(),
        password_file=server.password_file,
    )
    with closing(store):
        [refused] = store.apply([revoking()])
        assert isinstance(refused, RowNotAuthenticError)
        # An insert that a policy forbids is the database's own error.
        with pytest.raises(StoreUnavailableError):
            store.apply([enabling(a_cluster("later"))])


def test_a_floor_outlives_the_change(bench: Bench) -> None:
    """S10: a process that has seen a decision takes nothing below it, though the change is gone."""
    store = bench.open()
    enabled(store)
    put_back(bench)
    store.apply([revoking()])
    bench.run("DELETE FROM log")
    with pytest.raises(RowNotAuthenticError):
        store.cluster("acme")


def test_a_read_that_began_before_a_change_is_no_older_row(bench: Bench) -> None:
    """S10: a floor counts for reads that begin after it."""
    store = bench.open()
    enabled(store)
    for _ in range(3):
        made = applied(store, revoking())
        assert store.cluster("acme") == made.cluster
    found = store.clusters(ClusterFilter(), "", 9)
    assert all(isinstance(each, Cluster) for each in found)


def test_extras_are_warned_of(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """S10: the server names each trigger, rule, policy and view, at its start and in check."""
    bench.open().close()
    assert opening.warnings(bench.url, bench.password_file) == []
    bench.swallow("CLUSTERS" if bench.is_sqlite else "clusters")
    expected = ["trigger drop_INSERT on CLUSTERS", "trigger drop_UPDATE on CLUSTERS"]
    if not bench.is_sqlite:
        bench.run(
            "CREATE RULE nothing AS ON INSERT TO log DO INSTEAD NOTHING",
            "ALTER TABLE regions ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY look ON regions FOR SELECT USING (true)",
            "ALTER TABLE observations RENAME TO observations_2",
            "CREATE VIEW observations AS SELECT * FROM observations_2",
            "CREATE TABLE more_wraps () INHERITS (wraps)",
        )
        expected = [
            "child table more_wraps of wraps",
            "policy look on regions",
            "row security on regions",
            "rule nothing on log",
            "trigger drop_it on clusters",
            "view observations",
        ]
    found = opening.warnings(bench.url, bench.password_file)
    assert len(found) == len(expected)
    assert all(f"a {extra}, which" in text for extra, text in zip(expected, found, strict=True))
    with caplog.at_level(logging.WARNING):
        bench.open()
    assert [text for text in found if text in caplog.text] == found
