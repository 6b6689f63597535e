"""An import never brings an erased KEK back, and brings the rest into a store in use (A4, D5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, Table, delete, insert, select

import store_vector
from builders import NOW, a_cluster, a_region, an_event, applied, enabled, enabling
from fakes import FakeClock
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    deleted,
    revoked,
    undeleted,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.erasure import Due, erased
from keyfold_server.domain.errors import (
    OrganizationMismatchError,
    RowNotAuthenticError,
    SetupError,
)
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.seats import Seat, SeatClaim
from keyfold_server.store import blessing, schema
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import rows
from keyfold_server.store.tables.cluster_rows import CHILDREN
from keyfold_server.store.transfer import archive, export, import_, return_
from spoilt_store import edit

DAY: Final = 86_400_000
CLOCK: Final = FakeClock((NOW + 100 * DAY) / 1000)


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """Gives an empty store of each kind in turn, under the vector's service key."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as opened:
            yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SqlStore]:
    """Gives another store under the same service key."""
    folder = tmp_path / "other"
    folder.mkdir()
    key = store_vector.service_key(folder)
    url = f"sqlite:///{folder / 'keyfold.db'}"
    with closing(open_store(url, key, clock=CLOCK, takes_key=True)) as opened:
        yield opened


def two_regions(name: str = "acme", organization: str | None = None) -> Cluster:
    """Makes a cluster of two regions."""
    return a_cluster(name, [a_region("eu"), a_region("us")], organization=organization)


def erase(store: SqlStore, name: str, *regions: str) -> None:
    """Revokes, deletes and erases regions."""
    applied(store, Change(name, revoked(name, regions, NOW), an_event()))
    applied(store, Change(name, deleted(name, regions, 0), an_event()))
    applied(store, Change(name, erased(Due(name, regions), 1 << 50), an_event()))


def exported(store: SqlStore, folder: Path, cluster: str | None = None) -> Path:
    """Exports a store, or one cluster."""
    path = folder / f"export-{cluster}-{len(list(folder.iterdir()))}.jsonl"
    with archive.target(path) as file, export.opened(store) as snapshot:
        export.write(snapshot, file, cluster=cluster, now=NOW)
    return path


def brought(store: SqlStore, path: Path, name: str = "acme") -> Cluster:
    """Brings a cluster from an export into a store that may have others."""
    with archive.verified(path, store.parts[1]) as verified:
        return_.bring_back(store, verified, name, CLOCK)
    store.poll(Heartbeat("one", 0, b"", 120.0, NOW))
    found = store.cluster(name)
    assert found is not None
    return found


def test_what_was_erased_is_refused(store: SqlStore, tmp_path: Path) -> None:
    """D5: an export from before the erasure brings the cluster into no store that erased it."""
    applied(store, enabling(two_regions()))
    path = exported(store, tmp_path, "acme")
    erase(store, "acme", "eu", "us")
    told = "the export holds KEK [0-9a-f]{32} of region (eu|us), which this store has erased"
    with pytest.raises(SetupError, match=told):
        brought(store, path)
    applied(store, enabling(two_regions()))
    # Neither does it once the name is banned.
    edit(store, "UPDATE clusters SET updated_at = updated_at + 1")
    store.ban(Ban("acme", an_event()))
    with pytest.raises(SetupError, match=told):
        brought(store, path)


def test_an_erased_region_is_refused(store: SqlStore, tmp_path: Path) -> None:
    """D5: neither does an export of a cluster of which one region was erased since."""
    applied(store, enabling(two_regions()))
    before = exported(store, tmp_path)
    erase(store, "acme", "eu")
    after = exported(store, tmp_path)
    edit(store, "UPDATE clusters SET updated_at = updated_at + 1")
    store.ban(Ban("acme", an_event()))
    with pytest.raises(SetupError, match="of region eu, which this store has erased"):
        brought(store, before)
    assert [region.name for region in brought(store, after).regions] == ["us"]


def test_no_seal_brings_an_erased_kek_back(store: SqlStore) -> None:
    """A1, D5: an operator cannot bless rows that hold an erased KEK, or those of a tombstone."""
    applied(store, enabling(two_regions()))
    saved = _saved(store)
    erase(store, "acme", "eu")
    _put_back(store, saved)
    with pytest.raises(RowNotAuthenticError):
        store.cluster("acme")
    seen = blessing.look(store, "acme")
    assert "region eu: the log does not have it" in seen.differences
    with pytest.raises(SetupError, match="of region eu, which this store has erased"):
        blessing.bless(store, seen, "they look right", CLOCK)


def test_no_seal_brings_an_erased_cluster_back(store: SqlStore) -> None:
    """A1, D5: an operator cannot bless the rows of a cluster that is erased."""
    applied(store, enabling(two_regions()))
    saved = _saved(store)
    erase(store, "acme", "eu", "us")
    for _ in range(2):
        with pytest.raises(SetupError, match=r"was deleted and erased \(entry 4 of the log\)"):
            blessing.look(store, "acme")
        _put_back(store, saved)
        saved = {}


def _saved(store: SqlStore) -> dict[Table, list[tuple[object, ...]]]:
    """Copies the rows of all clusters."""
    tables = (schema.clusters, *CHILDREN)
    return store.parts[0].read(
        lambda c: {table: [tuple(r) for r in c.execute(select(*table.c))] for table in tables}
    )


def _put_back(store: SqlStore, saved: dict[Table, list[tuple[object, ...]]]) -> None:
    """Puts a copy in the place of the rows."""

    def work(connection: Connection) -> None:
        if saved:
            for table in reversed(saved):
                connection.execute(delete(table))
        for table, cells in saved.items():
            connection.execute(insert(table), [rows.named(table, row) for row in cells])

    store.parts[0].write(work)


@pytest.mark.parametrize("there", ["nobody's", "reserved", "another's"])
def test_a_cluster_brings_its_seat(
    store: SqlStore, other: SqlStore, tmp_path: Path, there: str
) -> None:
    """C2, A4: an import takes the seat along, and is refused where the seat is another's here."""
    owner, pool = "cluster:acme", [Seat("seat-1", "FAKE", "eu", "role/1", ("agent/1",))]
    store.reserve_seats(owner, pool, 1, an_event())
    taking = replace(enabling(two_regions()), seats=(SeatClaim("seat-1", owner, "eu"),))
    applied(store, taking)
    path = exported(store, tmp_path, "acme")
    if there != "nobody's":
        whose = owner if there == "reserved" else "cluster:beta"
        other.reserve_seats(whose, pool, 1, an_event())
    if there == "another's":
        with pytest.raises(SetupError, match="has seat seat-1 in the export"):
            brought(other, path)
        assert other.cluster("acme") is None
        return
    brought(other, path)
    (mine,), (theirs,) = store.issued_to(owner).seats, other.issued_to(owner).seats
    assert replace(theirs, created_at=mine.created_at) == mine
    assert mine.used


def test_a_cluster_comes_into_a_store_in_use(
    store: SqlStore, other: SqlStore, tmp_path: Path
) -> None:
    """A4: an export of one cluster goes into a store that has others, if its name is free."""
    store.issue_external_id("cluster:acme", "id-of-acme", an_event())
    source = applied(store, enabling(two_regions())).cluster
    path = exported(store, tmp_path, "acme")
    enabled(other, "there")
    made = brought(other, path)
    assert {region.state for region in made.regions} == {State.REVOKED}
    assert [r.generations for r in made.regions] == [r.generations for r in source.regions]
    assert other.external_id("cluster:acme") is None  # No root key of the cluster uses it.
    assert other.cluster("there") is not None
    with pytest.raises(SetupError, match="is not banned"):
        brought(other, path)
    with pytest.raises(SetupError, match="is not banned"):
        brought(other, exported(other, tmp_path), "there")
    assert other.check_log(None, 99).complete


def test_a_name_whose_rows_are_gone_by_hand_is_not_free(store: SqlStore, tmp_path: Path) -> None:
    """A6: who removes a cluster's rows does not thereby make room for an old copy of it."""
    applied(store, enabling(two_regions()))
    path = exported(store, tmp_path, "acme")
    edit(
        store,
        "DELETE FROM wraps",
        "DELETE FROM generations",
        "DELETE FROM regions",
        "DELETE FROM clusters",
    )
    with pytest.raises(SetupError, match="is not banned"):
        brought(store, path)


def test_an_imported_cluster_begins_above_a_tombstone(
    store: SqlStore, other: SqlStore, tmp_path: Path
) -> None:
    """S10, D5: a cluster of another store takes a name that was used here, if it may."""
    applied(store, enabling(two_regions(organization="org")))
    path = exported(store, tmp_path, "acme")
    applied(other, enabling(two_regions(organization="another")))
    erase(other, "acme", "eu", "us")
    with pytest.raises(SetupError, match="of another organization was deleted"):
        brought(other, path)
    applied(store, enabling(two_regions("mine", "org")))
    path = exported(store, tmp_path, "mine")
    for _ in range(2):
        applied(other, enabling(two_regions("mine", "org")))
        erase(other, "mine", "eu", "us")
    before, *_ = other.requested("mine", None)
    assert not isinstance(before, Cluster | Exception)
    assert before is not None
    made = brought(other, path, "mine")
    assert (made.version, made.epoch) == (before.version + 1, before.epoch + 1)


def test_a_deletion_survives_an_import_and_waits(
    store: SqlStore, other: SqlStore, tmp_path: Path
) -> None:
    """A4: a deleted region arrives deleted, and nobody erases it within a week of the import."""
    applied(store, enabling(two_regions()))
    applied(store, Change("acme", revoked("acme", (), NOW), an_event()))
    applied(store, Change("acme", deleted("acme", ["us"], DAY), an_event()))
    erase_later = exported(store, tmp_path)
    with archive.verified(erase_later, other.parts[1]) as verified:
        import_.bring_in(other, verified, CLOCK)
    now = int(CLOCK.wall() * 1000)
    found = other.cluster("acme")
    assert found is not None
    eu, us = found.regions
    assert (eu.state, eu.purge_time) == (State.REVOKED, None)
    assert (us.state, us.purge_time) == (State.DELETED, now + 7 * DAY)
    turn = other.erasure_turn(0)
    assert turn is not None
    assert (turn.due, turn.overdue) == ((), 0)
    back = applied(other, Change("acme", undeleted("acme", (), NOW), an_event())).cluster
    assert {region.state for region in back.regions} == {State.REVOKED}


def test_a_whole_import_keeps_tombstones(store: SqlStore, other: SqlStore, tmp_path: Path) -> None:
    """D5: the log in an export of a store keeps what was erased out of the new store as well."""
    applied(store, enabling(two_regions(organization="org")))
    single = exported(store, tmp_path, "acme")
    erase(store, "acme", "eu", "us")
    with archive.verified(exported(store, tmp_path), other.parts[1]) as verified:
        import_.bring_in(other, verified, CLOCK)
    with pytest.raises(SetupError, match="which this store has erased"):
        brought(other, single)
    [refused] = other.apply([enabling(two_regions(organization="another"))])
    assert isinstance(refused, OrganizationMismatchError)
    [made] = other.apply([enabling(two_regions(organization="org"))])
    assert isinstance(made, CommittedChange)
    assert made.cluster.version == 5
