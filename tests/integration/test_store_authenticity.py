"""Without the service key, whoever writes the store can break it and forge nothing (A1, A2)."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection

from audit_chain import verified_events
from builders import (
    NOW,
    a_cluster,
    a_generation,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    enabling,
    record_of,
)
from fakes import FakeClock
from keyfold_server.domain.changes import Change, CommittedChange, revoked, with_regions
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.cursors import CursorKey
from keyfold_server.domain.errors import (
    KeyfoldError,
    RowNotAuthenticError,
    SetupError,
    StoreRolledBackError,
)
from keyfold_server.domain.events import LogCheck
from keyfold_server.domain.log import START
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.domain.seats import Seat, SeatClaim
from keyfold_server.store import schema
from keyfold_server.store.opening import open_store
from keyfold_server.store.seal import Seal, encode
from keyfold_server.store.service_key import ServiceKey, is_exposed
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import log_chain, log_head
from organization_builders import organized

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


class Bench:
    """A store that tests open, and edit behind Keyfold's back."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keyfold.db"
        self.key = folder / "service.key"

    def fill(self) -> None:
        with closing(self.open()) as store:
            for name in ("acme", "other"):
                cluster = a_cluster(name, [a_region("eu"), a_region("us")], organization="org")
                cluster = applied(store, enabling(cluster, a_request(name))).cluster
                moved = a_rotation(cluster.regions[0], "local:two", fresh=True)
                applied(store, Change(name, with_regions(cluster, [moved], NOW), an_event()))
                applied(store, Change(name, revoked(name, ["us"], NOW), an_event()))
            store.register(BEAT)
            store.reconcile("a drill")
            store.issue_external_id("acme", "id-of-acme", an_event())
            store.take_cursor(CursorKey("local", "siem"), b"s" * 16, b"d" * 16, START, an_event())
            organized(store, organization="acme")

    def open(self) -> SqlStore:
        return open_store(f"sqlite:///{self.file}", self.key, clock=FakeClock())

    def edit(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.file)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement
            connection.commit()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Gives a store with two clusters of two regions, for copies."""
    bench = Bench(tmp_path_factory.mktemp("filled"))
    bench.fill()
    return bench


@pytest.fixture
def bench(filled: Bench, tmp_path: Path) -> Bench:
    """Gives a store with two clusters of two regions."""
    # The last one that closes a store of SQLite leaves all of it in this one file.
    assert not filled.file.with_name(f"{filled.file.name}-wal").exists()
    bench = Bench(tmp_path)
    for source, target in ((filled.file, bench.file), (filled.key, bench.key)):
        shutil.copy(source, target)
    return bench


@pytest.fixture
def opened(bench: Bench) -> Iterator[Callable[[], SqlStore]]:
    """Gives a function that opens the store; closes it in the end."""
    stores: list[SqlStore] = []

    def open_it() -> SqlStore:
        stores.append(bench.open())
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


READS: Final[dict[str, Callable[[SqlStore], object]]] = {
    "clusters": lambda store: store.cluster("acme"),
    "regions": lambda store: store.cluster("acme"),
    "generations": lambda store: store.cluster("acme"),
    "wraps": lambda store: store.cluster("acme"),
    "wrap_history": lambda store: store.superseded_wraps("acme"),
    "organizations": lambda store: store.organization("acme"),
    "key_links": lambda store: store.organization("acme"),
    "requests": lambda store: record_of(store, a_request("acme")),
    "log": lambda store: verified_events(store, "other"),
    "log_head": lambda store: store.poll(BEAT),
    "replicas": lambda store: store.replicas(),
    "lineage": lambda store: store.replicas(),
    "identities": lambda store: store.external_id("acme"),
    "cursors": lambda store: store.cursors(),
}
"""Calls that read and verify a row of each table."""

WHERE: Final = {
    "clusters": "name = 'acme'",
    "regions": "name = 'us' AND cluster_uid = (SELECT uid FROM clusters WHERE name = 'acme')",
    "generations": "number = 2 AND cluster_uid = (SELECT uid FROM clusters WHERE name = 'acme')",
    "wraps": "number = 2 AND cluster_uid = (SELECT uid FROM clusters WHERE name = 'acme')",
    "wrap_history": "number = 1 AND cluster_uid = (SELECT uid FROM clusters WHERE name = 'acme')",
    "organizations": "name = 'acme'",
    "key_links": "organization = 'acme'",
    "requests": "cluster = 'acme'",
    "log": "number = 3",
    "log_head": "id = 1",
    "replicas": "replica = 'one'",
    "lineage": "id = 1",
    "identities": "owner = 'acme'",
    "cursors": "name = 'siem'",
}
"""A condition for one row, or several, of each table."""

IDENTITIES: Final = {
    # With an edited key a row is not found, or its parent lacks a row: other tests below.
    "clusters": {"name"},
    "requests": {"caller", "rpc", "cluster", "request_id"},
    "log_head": {"id"},
    "wrap_history": {"cluster_uid"},
    "identities": {"kind", "owner"},
}

COLUMNS: Final = [
    (table, column.name)
    for table in READS
    for column in schema.metadata.tables[table].columns
    if column.name not in IDENTITIES.get(table, set())
]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_an_edited_column_is_refused(
    bench: Bench, opened: Callable[[], SqlStore], table: str, column: str
) -> None:
    """A2: an edit of any column is noticed, in every table that decides something."""
    bench.edit(
        f"UPDATE {table} SET {column} = CASE typeof({column}) WHEN 'integer' THEN {column} + 70 "
        f"WHEN 'blob' THEN randomblob(16) WHEN 'null' THEN 5 ELSE {column} || 'x' END "
        f"WHERE {WHERE[table]}"
    )
    store = opened()
    with pytest.raises(RowNotAuthenticError) as caught:
        READS[table](store)
    assert caught.value.reason == "ROW_NOT_AUTHENTIC"


@pytest.mark.parametrize("table", ["clusters", "regions", "generations", "wraps"])
@pytest.mark.parametrize("value", ["9000000000000000", "'text'", "NULL", "x''", "1.5"])
def test_a_value_of_another_type_is_refused(
    bench: Bench, opened: Callable[[], SqlStore], table: str, value: str
) -> None:
    """A1: SQLite does not enforce types; a value of another type is refused, not converted."""
    column = {"clusters": "history_head", "regions": "state", "generations": "number"}.get(
        table, "ciphertext"
    )
    bench.edit(
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = replace(sql, '{column} BLOB NOT NULL', '{column}') "
        f"WHERE name = '{table}'",
        f"UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = '{table}'",
    )
    bench.edit(f"UPDATE {table} SET {column} = {value} WHERE {WHERE[table]}")
    with pytest.raises(RowNotAuthenticError):
        opened().cluster("acme")


def test_un_revoking_by_hand(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """A2: a state that somebody set back is refused: in use, in lists and in further changes."""
    bench.edit(f"UPDATE regions SET state = 'ENABLED' WHERE {WHERE['regions']}")
    store = opened()
    with pytest.raises(RowNotAuthenticError) as caught:
        READS["regions"](store)
    assert caught.value.cluster == "acme"
    [listed, other] = store.clusters(ClusterFilter(), "", 9)
    assert isinstance(listed, RowNotAuthenticError)
    assert listed.cluster == "acme"
    assert isinstance(other, Cluster)
    [bad, good] = store.apply(
        [Change(n, revoked(n, (), NOW), an_event()) for n in ("acme", "other")]
    )
    assert isinstance(bad, RowNotAuthenticError)
    assert isinstance(good, CommittedChange)


@pytest.mark.parametrize("table", ["regions", "generations", "wraps"])
def test_a_deleted_row_is_missed(bench: Bench, opened: Callable[[], SqlStore], table: str) -> None:
    """A2: the cluster's row vouches for every row below it."""
    bench.edit(f"DELETE FROM {table} WHERE {WHERE[table]}")
    with pytest.raises(RowNotAuthenticError):
        opened().cluster("acme")


@pytest.mark.parametrize("table", ["regions", "generations", "wraps"])
def test_rows_swapped_between_clusters(
    bench: Bench, opened: Callable[[], SqlStore], table: str
) -> None:
    """A2: a row belongs to its cluster, so another cluster's sealed row is refused."""
    bench.edit(
        "CREATE TEMP TABLE u AS SELECT (SELECT uid FROM clusters WHERE name = 'acme') AS a, "
        "(SELECT uid FROM clusters WHERE name = 'other') AS b",
        f"UPDATE {table} SET cluster_uid = x'00' WHERE cluster_uid = (SELECT a FROM u)",
        f"UPDATE {table} SET cluster_uid = (SELECT a FROM u) WHERE cluster_uid = (SELECT b FROM u)",
        f"UPDATE {table} SET cluster_uid = (SELECT b FROM u) WHERE cluster_uid = x'00'",
    )
    store = opened()
    for name in ("acme", "other"):
        with pytest.raises(RowNotAuthenticError):
            store.cluster(name)


def test_a_planted_row(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """A2: nobody can add a KEK that they know, not even with an old sealed row."""
    columns = [c.name for c in schema.generations.columns]
    planted = ["x'00112233445566778899aabbccddeeff'", *columns[1:3], "9", *columns[4:]]
    bench.edit(
        f"INSERT INTO generations ({', '.join(columns)}) SELECT {', '.join(planted)} "
        f"FROM generations "
        f"WHERE {WHERE['generations']}"
    )
    store = opened()
    with pytest.raises(RowNotAuthenticError):
        store.cluster("acme")
    with pytest.raises(RowNotAuthenticError):
        store.owner_of(bytes.fromhex("00112233445566778899aabbccddeeff"))


@pytest.mark.parametrize("table", ["regions", "wraps"])
def test_an_old_row_put_back(bench: Bench, opened: Callable[[], SqlStore], table: str) -> None:
    """A2: an old sealed row is refused beside the newer rows."""
    columns = [c.name for c in schema.metadata.tables[table].columns]
    old = bench.rows(f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE {WHERE[table]}")
    store = opened()
    seen = store.cluster("acme")
    assert seen is not None
    moved = [a_rotation(region, "local:three") for region in seen.regions]
    applied(store, Change("acme", with_regions(seen, moved, NOW), an_event()))
    store.close()
    settings = ", ".join(f"{name} = ?" for name in columns)
    with closing(sqlite3.connect(bench.file)) as connection:
        for rowid, *cells in old:
            connection.execute(f"UPDATE {table} SET {settings} WHERE rowid = {rowid}", cells)
        connection.commit()
    with closing(bench.open()) as again, pytest.raises(RowNotAuthenticError):
        again.cluster("acme")


def test_an_old_own_row_put_back(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """A2: an old row of the cluster itself does not match the newer rows below it."""
    columns = [c.name for c in schema.clusters.columns]
    [(rowid, *cells)] = bench.rows(
        f"SELECT rowid, {', '.join(columns)} FROM clusters WHERE name = 'acme'"
    )
    store = opened()
    applied(store, Change("acme", revoked("acme", (), NOW), an_event()))
    store.close()
    names = ", ".join(f"{name} = ?" for name in columns)
    with closing(sqlite3.connect(bench.file)) as connection:
        connection.execute(f"UPDATE clusters SET {names} WHERE rowid = {rowid}", cells)
        connection.commit()
    with closing(bench.open()) as again, pytest.raises(RowNotAuthenticError):
        again.cluster("acme")


def test_a_row_of_another_history_at_the_same_version(
    bench: Bench, opened: Callable[[], SqlStore]
) -> None:
    """S10: rows of one version are those of the decision in the log, and no others that verify."""
    old = bench.file.read_bytes()
    tables = ("clusters", "regions")
    histories = []
    for regions in (("eu",), ("us",)):
        bench.file.write_bytes(old)
        with closing(bench.open()) as store:
            applied(store, Change("acme", revoked("acme", regions, NOW), an_event()))
        histories.append({table: bench.rows(f"SELECT * FROM {table}") for table in tables})
    with closing(sqlite3.connect(bench.file)) as connection:
        for table, rows in histories[0].items():
            connection.execute(f"DELETE FROM {table}")
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        connection.commit()
    store = opened()
    with pytest.raises(RowNotAuthenticError, match="clusters of cluster acme"):
        store.cluster("acme")
    assert store.cluster("other") is not None


def test_a_renamed_cluster(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """A2: a cluster under another cluster's name is refused."""
    bench.edit(
        "DELETE FROM clusters WHERE name = 'acme'",
        "UPDATE clusters SET name = 'acme' WHERE name = 'other'",
    )
    with pytest.raises(RowNotAuthenticError):
        opened().cluster("acme")


def verify(store: SqlStore) -> int:
    """Verifies the whole log, and returns the number of its entries."""
    database, seal = store.parts

    def work(connection: Connection) -> int:
        head = log_head.read(connection, seal)
        return sum(1 for _ in log_chain.verified(connection, head, seal))

    return database.read(work)


_ENTRY: Final = ", ".join(c.name for c in list(schema.log.columns)[1:])


@pytest.mark.parametrize(
    ("edit", "first"),
    [
        ("DELETE FROM log WHERE number = 1", 1),
        ("DELETE FROM log WHERE number = 3", 3),
        # The newest, and everything.
        ("DELETE FROM log WHERE number = 9", 9),
        ("DELETE FROM log", 1),
        ("DELETE FROM log WHERE number > 4", 5),
        ("UPDATE log SET outcome = 'x' WHERE number = 4", 4),
        ("UPDATE log SET number = number + 10 WHERE number = 3", 3),
        ("UPDATE log SET number = -number WHERE number = 3", 3),
        # Two entries in each other's place.
        ("UPDATE log SET number = CASE number WHEN 3 THEN -5 WHEN 5 THEN -3 ELSE number END", 3),
        (f"INSERT INTO log SELECT 12, {_ENTRY} FROM log WHERE number = 9", 12),
        (f"INSERT INTO log SELECT 0, {_ENTRY} FROM log WHERE number = 9", 0),
        ("UPDATE log SET prev = zeroblob(32) WHERE number = 2", 2),
    ],
)
def test_a_log_that_somebody_changed(
    bench: Bench, opened: Callable[[], SqlStore], edit: str, first: int
) -> None:
    """A3, S0: nobody can change, remove, move or add an entry; the first bad one is named."""
    bench.edit(edit)
    if "CASE" in edit:
        bench.edit("UPDATE log SET number = -number WHERE number < 0")
    store = opened()
    with pytest.raises(RowNotAuthenticError, match=f"entry {first} of the log"):
        verify(store)
    for size in (1, 3, 100):
        assert walked(store, size).broken == first


def walked(store: SqlStore, size: int) -> LogCheck:
    """Walks the log in parts, until it is whole or broken."""
    check = store.check_log(None, size)
    while not check.complete and check.broken is None:
        check = store.check_log(check.last, size)
    return check


_HISTORY: Final = "SELECT cluster_uid, number, " + ", ".join(
    c.name for c in list(schema.wrap_history.columns)[2:]
)


@pytest.mark.parametrize(
    "edit",
    [
        f"DELETE FROM wrap_history WHERE {WHERE['wrap_history']}",
        "DELETE FROM wrap_history WHERE number = (SELECT max(number) FROM wrap_history)",
        "DELETE FROM wrap_history",
        "UPDATE wrap_history SET number = number + 10",
        "UPDATE wrap_history SET number = -number",
        f"UPDATE wrap_history SET cluster_uid = x'00' WHERE {WHERE['wrap_history']}",
        f"INSERT INTO wrap_history {_HISTORY.replace('number', 'number + 1')} FROM wrap_history",
        f"INSERT INTO wrap_history {_HISTORY.replace('number', '-number')} FROM wrap_history",
        f"UPDATE wrap_history SET root_uri = 'local:x' WHERE {WHERE['wrap_history']}",
    ],
)
def test_an_edited_history(bench: Bench, opened: Callable[[], SqlStore], edit: str) -> None:
    """A2, S12: an edit of the history shows where it is read, and reads of the cluster go on."""
    bench.edit(edit)
    store = opened()
    assert store.cluster("acme") is not None
    with pytest.raises(RowNotAuthenticError, match="wrap_history of cluster acme"):
        store.superseded_wraps("acme")
    with pytest.raises(RowNotAuthenticError, match="wrap_history of cluster acme"):
        verified_events(store, "acme")
    applied(store, Change("acme", revoked("acme", (), NOW), an_event()))


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM log WHERE number = 3",
        "DELETE FROM log WHERE number = 8",
        "UPDATE log SET number = number + 10 WHERE number = 3",
        "DELETE FROM log_head",
    ],
)
def test_a_hidden_entry(bench: Bench, opened: Callable[[], SqlStore], edit: str) -> None:
    """S1: after somebody removes an entry, replicas refuse instead of missing the entry."""
    bench.edit(edit)
    with pytest.raises(KeyfoldError) as caught:
        opened().poll(BEAT)
    assert caught.value.reason in {"ROW_NOT_AUTHENTIC", "STORE_ROLLED_BACK"}


def test_an_entry_of_another_history(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """S1: a sealed entry of a rolled-back history does not match the head of the log."""
    old = bench.file.read_bytes()
    histories = []
    for _ in range(2):
        bench.file.write_bytes(old)
        with closing(bench.open()) as store:
            applied(store, Change("acme", revoked("acme", (), NOW), an_event()))
        histories.append(bench.rows("SELECT * FROM log WHERE number = 12"))
    marks = ", ".join("?" * len(histories[0][0]))
    with closing(sqlite3.connect(bench.file)) as connection:
        connection.execute("DELETE FROM log WHERE number = 12")
        connection.execute(f"INSERT INTO log VALUES ({marks})", histories[0][0])
        connection.commit()
    with pytest.raises(StoreRolledBackError):
        opened().poll(BEAT)


LATER: Final = [
    ("clusters", "declared"),
    ("clusters", "first_use"),
    ("regions", "auto_rotate"),
    ("regions", "purge_time"),
    ("regions", "replica_of"),
    ("regions", "geo"),
    ("regions", "link"),
    ("generations", "retired_at"),
    ("wraps", "root_external_id"),
]
"""Later columns of the rows of clusters: see `store/schema.py`."""

OF_SEATS: Final = (
    "provider",
    "region",
    "principal",
    "also",
    "cluster",
    "cluster_uid",
    "taken_in",
)
"""Later columns of `identities`, which seats alone use."""


def test_every_later_column_is_tried() -> None:
    """A2: the tests below cover every later column."""
    later = {
        (table.name, column.name)
        for table in schema.metadata.tables.values()
        for column in table.columns
        if column.info.get("later") and "mac" in table.columns
    }
    of_seats = {("identities", column) for column in OF_SEATS}
    assert later == {*LATER, *of_seats, ("replicas", "serves")}


@pytest.mark.parametrize("planted", [None, "eu", ""], ids=["cleared", "planted", "emptied"])
def test_what_a_replica_serves_is_sealed(
    bench: Bench, opened: Callable[[], SqlStore], planted: str | None
) -> None:
    """A2: nobody makes a replica seem to serve all regions, or others, to hide that none does."""
    with closing(bench.open()) as store:
        store.register(replace(BEAT, serves=frozenset({"us"})))
    value = "NULL" if planted is None else f"'{planted}'"
    bench.edit(f"UPDATE replicas SET serves = {value}")
    with pytest.raises(RowNotAuthenticError):
        opened().replicas()


@pytest.mark.parametrize("column", OF_SEATS)
@pytest.mark.parametrize("planted", [False, True], ids=["cleared", "planted"])
def test_a_seats_columns_are_sealed(
    bench: Bench,
    opened: Callable[[], SqlStore],
    column: str,
    planted: bool,  # noqa: FBT001
) -> None:
    """A2, C2: nobody clears what a seat says by hand, nor makes an external id say such a thing."""
    owner, seat = "organization:later", Seat("seat-1", "FAKE", "us", "role/1", ("agent/1",))
    with closing(bench.open()) as store:
        store.reserve_seats(owner, [seat], 1, an_event())
        store.issue_external_id("organization:other", "id-of-other", an_event())
        change = enabling(a_cluster("later", [a_region("us")], organization="later"))
        applied(store, replace(change, seats=(SeatClaim("seat-1", owner, "us"),)))
        assert store.issued_to(owner).seats[0].used
    value = "NULL"
    if planted:
        # The seat's own value; but no two rows may have one principal.
        own = f"(SELECT held.{column} FROM identities AS held WHERE held.principal IS NOT NULL)"
        owner, value = "organization:other", "'role/2'" if column == "principal" else own
    bench.edit(f"UPDATE identities SET {column} = {value} WHERE owner = '{owner}'")
    with pytest.raises(RowNotAuthenticError, match="identities"):
        opened().issued_to(owner)


@pytest.fixture
def using(bench: Bench) -> Bench:
    """Gives the store with a cluster that uses every later column, below it in `us` alone."""
    with closing(bench.open()) as store:
        region = a_region("us")
        root = replace(region.newest.current.root, external_id="id-of-later")
        wrap = replace(region.newest.current, root=root)
        first = replace(region.newest, current=wrap, retired_at=NOW)
        region = replace(
            region,
            policy=replace(region.policy, auto_rotate=True),
            generations=(first, a_generation(number=2)),
            purge_time=NOW,
            replica_of="eu",
            geo="EU",
            link="main",
        )
        later = a_cluster("later", [a_region("eu"), region])
        later = replace(later, declared=("eu", "us"), first_use=1)
        made = applied(store, enabling(later)).cluster
        assert store.cluster("later") == made
    return bench


_OF_LATER: Final = "(SELECT uid FROM clusters WHERE name = 'later')"


@pytest.mark.parametrize(("table", "column"), LATER)
@pytest.mark.parametrize("value", ["NULL", "0", "''", "7"])
def test_a_later_column_is_sealed(
    using: Bench, opened: Callable[[], SqlStore], table: str, column: str, value: str
) -> None:
    """A2: nobody can change or clear a later column by hand."""
    uid = "uid" if table == "clusters" else "cluster_uid"
    using.edit(
        f"UPDATE {table} SET {column} = {value} WHERE {column} IS NOT NULL AND {uid} = {_OF_LATER}"
    )
    with pytest.raises(RowNotAuthenticError, match=f"{table} of cluster later"):
        opened().cluster("later")


@pytest.mark.parametrize(("table", "column"), LATER)
@pytest.mark.parametrize("value", ["0", "''", "1", "'id'"])
def test_a_later_column_cannot_be_planted(
    using: Bench, opened: Callable[[], SqlStore], table: str, column: str, value: str
) -> None:
    """A2: nobody can set a later column by hand, not even to zero."""
    using.edit(f"UPDATE {table} SET {column} = {value} WHERE {column} IS NULL")
    store = opened()
    for name in ("acme",) if table == "clusters" else ("acme", "later"):
        with pytest.raises(RowNotAuthenticError, match=f"{table} of cluster {name}"):
            store.cluster(name)


@pytest.mark.parametrize(("table", "column"), LATER)
def test_a_release_that_does_not_know_a_column(using: Bench, table: str, column: str) -> None:
    """S6, A1: a release that does not know a later column refuses only the rows that use it."""
    seal = Seal(ServiceKey(using.key.read_bytes()))
    known = [c.name for c in schema.metadata.tables[table].columns if not c.info.get("later")]
    seen = using.rows(f"SELECT {column} IS NOT NULL, {', '.join(known)} FROM {table}")
    refused = 0
    for used, *row in seen:
        try:
            seal.check(table, tuple(row))
        except RowNotAuthenticError:
            assert used
            refused += 1
        else:
            assert not used
    assert 0 < refused < len(seen)


def test_later_columns_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A2: no two rows have the same bytes, whichever of several later columns they use."""
    values = (None, "", "x", b"x", 0, 1)
    rows = list(itertools.product(values, repeat=4))
    monkeypatch.setitem(schema.ALWAYS_SEALED, "pretended", 2)
    assert len({encode("pretended", row) for row in rows}) == len(rows)
    # NULLs of other columns keep their bytes.
    monkeypatch.setitem(schema.ALWAYS_SEALED, "pretended", 4)
    first = {row: encode("pretended", row) for row in rows}
    monkeypatch.setitem(schema.ALWAYS_SEALED, "pretended", 2)
    for row, raw in first.items():
        assert (encode("pretended", row) == raw) == (row[-1] is not None)


def test_the_message_names_no_contents(bench: Bench, opened: Callable[[], SqlStore]) -> None:
    """A1: the error names the table and the cluster, and no contents."""
    bench.edit(f"UPDATE wraps SET root_uri = 'planted' WHERE {WHERE['wraps']}")
    with pytest.raises(RowNotAuthenticError, match="wraps of cluster acme") as caught:
        opened().cluster("acme")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("column", ["store_uid", "mac", "created_at", "service_key_id"])
def test_the_stores_own_row(bench: Bench, column: str) -> None:
    """A1: an edit of the store's own row is noticed too."""
    bench.edit(f"UPDATE meta SET {column} = 5")
    with pytest.raises((RowNotAuthenticError, SetupError)):
        bench.open()
    bench.edit("DELETE FROM meta")
    with pytest.raises(RowNotAuthenticError):
        bench.open()


def test_another_service_key(bench: Bench) -> None:
    """A1: the error names a wrong service key, instead of a row that does not match."""
    right = ServiceKey(bench.key.read_bytes()).service_key_id
    bench.key.write_bytes(bytes(32))
    with pytest.raises(SetupError, match=f"the service key {right} sealed the store"):
        bench.open()


def test_a_missing_service_key(bench: Bench) -> None:
    """A1: Keyfold makes no key for a store that exists, not even for an emptied one."""
    bench.key.unlink()
    for _ in range(2):
        with pytest.raises(SetupError, match="is missing"):
            bench.open()
        assert not bench.key.exists()
        bench.file.write_bytes(b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_service_key_of_another_length(bench: Bench, size: int) -> None:
    """A1: a truncated or foreign file does not pass for a key."""
    bench.key.write_bytes(bytes(size))
    with pytest.raises(SetupError, match="does not have 32 bytes"):
        bench.open()


def test_a_service_key_that_others_can_read(bench: Bench) -> None:
    """A1: a key file that others may read is refused, and the message has the remedy."""
    bench.key.chmod(0o640)
    with pytest.raises(SetupError, match="chmod 600"):
        bench.open()


@pytest.mark.parametrize(
    ("owner", "user", "mode", "exposed"),
    [
        (0, 65532, 0o440, False),
        (0, 65532, 0o640, False),
        (0, 65532, 0o460, True),
        (0, 65532, 0o444, True),
        (0, 0, 0o440, True),
        (0, 0, 0o400, False),
        (65532, 65532, 0o440, True),
        (65532, 65532, 0o600, False),
        (7, 65532, 0o440, True),
    ],
)
def test_a_service_key_of_root_lent_to_a_group(
    owner: int, user: int, mode: int, *, exposed: bool
) -> None:
    """A1: a group may read the key of root, as in a Secret of Kubernetes, and no other's."""
    status = os.stat_result((0o100000 | mode, 0, 0, 1, owner, 65532, 32, 0, 0, 0))
    assert is_exposed(status, user) is exposed


def test_a_service_key_shows_only_its_id(bench: Bench) -> None:
    """No repr shows the key."""
    raw = bench.key.read_bytes()
    shown = repr(ServiceKey(raw))
    assert raw.hex() not in shown
    assert repr(raw) not in shown
    assert "service_key_id=" in shown
