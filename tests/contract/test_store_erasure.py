"""Every store erases what is deleted, once its time has come, and nothing of it comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, delete, func, insert, select, update

from builders import (
    NOW,
    a_cluster,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    enabled,
    enabling,
    record_of,
)
from contract.test_store import EVERY_TEST, KEEP, SHARED, STORES, Bench, at, beat, revoking
from fakes import FakeClock
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    created,
    deleted,
    undeleted,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.erasure import Due, Tombstone, erased
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ClusterNotFoundError,
    ConcurrentChangeError,
    OrganizationMismatchError,
    RowNotAuthenticError,
    SetupError,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store import schema
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import erased_keks, rows

MINUTE: Final = 60_000
DAY: Final = 24 * 60 * MINUTE
EVERY: Final = MINUTE

KEYRING: Final = (
    schema.regions,
    schema.generations,
    schema.wraps,
    schema.wrap_history,
    schema.history_checkpoints,
)
"""The tables of a cluster's rows besides its own."""


@pytest.fixture(params=EVERY_TEST)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Gives each kind of store in turn."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock(bench: Bench) -> FakeClock:
    """Gives the store's time."""
    return bench.clock


@pytest.fixture
def store(bench: Bench) -> Iterator[SqlStore]:
    """Gives a new store."""
    with closing(bench.open()) as opened:
        yield opened


def deleting(name: str, *regions: str, waiting: int = DAY) -> Change:
    """Makes a deletion."""
    return Change(name, deleted(name, regions, waiting), an_event("rpc:cluster:deletecluster"))


def erasing(name: str, *regions: str, by: int = NOW + 999 * DAY) -> Change:
    """Makes an erasure."""
    return Change(name, erased(Due(name, regions), by), an_event("server:cluster:erase"))


def gone(store: SqlStore, clock: FakeClock, name: str, *regions: str) -> CommittedChange:
    """Revokes, deletes and erases regions."""
    applied(store, revoking(name, *regions))
    applied(store, deleting(name, *regions, waiting=0))
    del clock
    return applied(store, erasing(name, *regions))


def refusal(store: SqlStore, change: Change) -> Exception:
    """Applies a change that must be refused."""
    [error] = store.apply([change])
    assert isinstance(error, Exception)
    return error


def count(store: SqlStore, table: Any, **where: object) -> int:
    """Counts rows."""
    asked = select(func.count()).select_from(table)
    for name, value in where.items():
        asked = asked.where(table.c[name] == value)
    return store.parts[0].read(lambda c: int(c.execute(asked).scalar_one()))


def two_regions(organization: str | None = None) -> Cluster:
    """Makes a cluster of two regions."""
    return a_cluster("acme", [a_region("eu"), a_region("us")], organization=organization)


def run(store: SqlStore, work: Callable[[Connection], object]) -> None:
    """Writes to the database by hand."""
    store.parts[0].write(work)


def test_the_purge_time_is_by_the_stores_clock(store: SqlStore, clock: FakeClock) -> None:
    """D3: the store counts the waiting period, and UndeleteCluster takes it back (D2)."""
    applied(store, enabling(two_regions()))
    applied(store, revoking("acme", "eu"))
    clock.advance(1_000)
    made = applied(store, deleting("acme", "eu")).cluster
    now = int(clock.wall() * 1000)
    eu = made.region("eu")
    assert eu.state is State.DELETED
    assert eu.purge_time is not None
    assert abs(eu.purge_time - now - DAY) < 10_000
    assert eu.purge_time - eu.state_since == DAY
    assert store.cluster("acme") == made
    assert store.clusters(ClusterFilter(state=State.DELETED), "", 9) == [made]
    back = applied(store, Change("acme", undeleted("acme", (), NOW), an_event())).cluster
    assert (back.region("eu").state, back.region("eu").purge_time) == (State.REVOKED, None)
    assert (made.epoch, back.epoch) == (2, 3)
    assert store.cluster("acme") == back


def test_one_region_is_erased(store: SqlStore, clock: FakeClock) -> None:
    """D3: an erased region leaves the cluster with all that the store has of its KEKs."""
    cluster = applied(store, enabling(two_regions(), a_request())).cluster
    moved = [a_rotation(region, "local:two", fresh=True) for region in cluster.regions]
    applied(store, Change("acme", with_regions(cluster, moved, NOW), an_event()))
    keks = {r.name: [g.kek_id for g in r.generations] for r in moved}
    store.used({kek: NOW for some in keks.values() for kek in some})
    store.observe(
        [
            Observation(f"kek:{kek.hex()}{of}", Health.KEY_DISABLED, NOW, NOW)
            for name, some in keks.items()
            for kek in some
            for of in ("", f":{name}")
        ]
    )
    done = gone(store, clock, "acme", "eu")
    assert [region.name for region in done.cluster.regions] == ["us"]
    assert store.cluster("acme") == done.cluster
    assert (done.cluster.epoch, done.cluster.version) == (3, 5)
    assert [store.owner_of(kek) for kek in keks["eu"]] == [None, None]
    assert [store.owner_of(kek) for kek in keks["us"]] == ["acme", "acme"]
    assert store.seen((), [*keks["eu"], *keks["us"]]).last_uses.keys() == set(keks["us"])
    subjects = [f"kek:{k.hex()}{of}" for r in keks for k in keks[r] for of in ("", f":{r}")]
    assert store.observations(subjects).keys() == set(subjects[4:])
    # The history is one chain, and tells which root keys open backups.
    assert len(store.superseded_wraps("acme")) == 2
    assert record_of(store, a_request()) is not None
    last = store.poll(beat())[-1]
    assert (last.kind, last.cluster, last.is_news) == (EntryKind.ERASURE, "acme", True)
    assert last.told is not None
    assert last.told().decision == {
        "regions": {
            "eu": {"state": None, "removed": sorted([k.hex(), w] for k, w in wraps(moved[0]))}
        }
    }
    # The rest goes on as ever.
    assert applied(store, revoking("acme")).cluster.version == 6


def wraps(region: Any) -> list[tuple[bytes, int]]:
    """Returns the ids of a region's KEKs and the numbers of their wraps."""
    return [(g.kek_id, g.current.number) for g in region.generations]


def test_a_cluster_is_erased_whole(store: SqlStore, clock: FakeClock) -> None:
    """D3, D5: once no region is left, no row of the cluster is, and no request of its name."""
    neighbour = enabled(store, "neighbour")
    cluster = applied(store, enabling(two_regions(), a_request())).cluster
    moved = [a_rotation(region, "local:two") for region in cluster.regions]
    applied(store, Change("acme", with_regions(cluster, moved, NOW), an_event()))
    before = applied(store, revoking("acme")).cluster
    clock.advance(60)
    store.prune_history(NOW + DAY, 0)
    assert count(store, schema.history_checkpoints) == 1
    applied(store, deleting("acme", "eu", "us", waiting=0))
    done = applied(store, replace(erasing("acme", "eu", "us"), request=a_request("acme", "last")))
    assert done.cluster.regions == ()
    assert done.floor is not None
    assert (done.floor.erased, done.floor.version) == (True, before.version + 2)
    for table in KEYRING:
        assert count(store, table, cluster_uid=cluster.uid) == 0
    assert count(store, schema.clusters) == 1
    assert count(store, schema.requests) == 0
    assert store.cluster("acme") is None
    assert store.named(["acme", "neighbour"]) == {"neighbour": neighbour}
    assert store.clusters(ClusterFilter(), "", 9) == [neighbour]
    assert [store.owner_of(kek) for _, kek in keks_of(cluster)] == [None, None]
    tombstone, record, _ = store.requested("acme", a_request())
    assert isinstance(tombstone, Tombstone)
    assert (tombstone.uid, tombstone.version, tombstone.epoch) == (
        cluster.uid,
        before.version + 2,
        before.epoch + 2,
    )
    assert record is None
    assert isinstance(refusal(store, erasing("acme", "eu")), ClusterNotFoundError)
    assert isinstance(refusal(store, revoking("acme")), ClusterNotFoundError)
    last = store.poll(beat())[-1]
    assert last.floor == done.floor
    assert store.check_log(None, 99).complete


def keks_of(cluster: Cluster) -> list[tuple[str, bytes]]:
    """Returns regions and ids of a cluster's KEKs."""
    return [(r.name, g.kek_id) for r in cluster.regions for g in r.generations]


def test_a_name_is_used_again(store: SqlStore, clock: FakeClock) -> None:
    """D5, S10: a new cluster of the name begins above the old one, and inherits nothing."""
    key = a_request()
    old = applied(store, enabling(two_regions("org"), key)).cluster
    kept = store.issue_external_id("cluster:acme", "first", an_event())
    last = gone(store, clock, "acme", "eu", "us").cluster
    other = refusal(store, enabling(two_regions("other")))
    assert isinstance(other, OrganizationMismatchError)
    assert isinstance(refusal(store, enabling(two_regions())), OrganizationMismatchError)
    assert record_of(store, key) is None
    new = applied(store, enabling(two_regions("org"), key)).cluster
    assert (new.version, new.epoch) == (last.version + 1, last.epoch + 1)
    assert new.uid != old.uid
    assert store.cluster("acme") == new
    assert record_of(store, key) is not None
    assert applied(store, revoking("acme")).cluster.version == new.version + 1
    # C2: what was issued for the old one stays its own for good.
    assert store.external_id("cluster:acme") is None
    assert store.external_id(f"erased:{old.uid.hex()}") == kept
    again = gone(store, clock, "acme", "eu", "us").cluster
    assert again.version > new.version
    assert applied(store, enabling(two_regions("org"))).cluster.version == again.version + 1


@pytest.mark.parametrize("bench", SHARED, indirect=True)
def test_replicas_follow_a_name(bench: Bench, store: SqlStore, clock: FakeClock) -> None:
    """S10: a process that has seen the old cluster reads the new one, before any poll tells."""
    with closing(bench.open()) as other:
        applied(other, enabling(two_regions()))
        assert other.cluster("acme") is not None
        gone(store, clock, "acme", "eu", "us")
        assert other.cluster("acme") is None
        new = applied(store, enabling(two_regions())).cluster
        assert other.cluster("acme") == new


def test_rows_that_somebody_puts_back_never_verify(store: SqlStore, clock: FakeClock) -> None:
    """S10, D5: the rows of an erased cluster serve nobody, and not even their Revoke bans."""
    cluster = applied(store, enabling(two_regions())).cluster
    saved = {
        table: store.parts[0].read(
            lambda c, t=table: [tuple(r) for r in c.execute(select(*t.c))]  # type: ignore[misc]
        )
        for table in (schema.clusters, *KEYRING)
    }
    gone(store, clock, "acme", "eu", "us")

    def put_back(connection: Connection) -> None:
        for table, cells in saved.items():
            if cells:
                connection.execute(insert(table), [rows.named(table, row) for row in cells])

    run(store, put_back)
    for read in (lambda: store.cluster("acme"), lambda: store.superseded_wraps("acme")):
        with pytest.raises(RowNotAuthenticError):
            read()
    assert isinstance(store.named(["acme"])["acme"], RowNotAuthenticError)
    assert isinstance(refusal(store, enabling(two_regions())), RowNotAuthenticError)
    with pytest.raises(ClusterNotFoundError):
        store.ban(Ban("acme", an_event(), cluster))


def test_what_is_erased_is_no_ban(store: SqlStore, clock: FakeClock) -> None:
    """A6: a Revoke of an erased cluster finds none; of one whose rows somebody removed, it bans."""
    cluster = applied(store, enabling(two_regions())).cluster
    gone(store, clock, "acme", "eu", "us")
    with pytest.raises(ClusterNotFoundError):
        store.ban(Ban("acme", an_event(), cluster))
    applied(store, enabling(two_regions()))

    def remove(connection: Connection) -> None:
        for table in (*reversed(KEYRING), schema.clusters):
            connection.execute(delete(table))

    run(store, remove)
    assert store.ban(Ban("acme", an_event())) is not None
    with pytest.raises(ClusterBannedError):
        store.cluster("acme")
    assert isinstance(refusal(store, enabling(two_regions())), ClusterBannedError)
    for prefix, count in (("ac", 1), ("b", 0)):
        assert len(store.clusters(ClusterFilter(name_prefix=prefix), "", 9)) == count


def test_a_spoilt_entry_is_no_way_to_a_tombstone(store: SqlStore, clock: FakeClock) -> None:
    """A6: whoever spoils the newer entries of a name, and removes its rows, keeps no Revoke out."""
    applied(store, enabling(two_regions()))
    gone(store, clock, "acme", "eu", "us")
    new = applied(store, enabling(two_regions()))

    def spoil(connection: Connection) -> None:
        for table in (*reversed(KEYRING), schema.clusters):
            connection.execute(delete(table))
        connection.execute(update(schema.log).values(caller="x").where(_number(new.number)))

    run(store, spoil)
    assert store.ban(Ban("acme", an_event())) is not None


def _number(number: int) -> Any:
    return schema.log.c.number == number


def test_a_forged_tombstone_is_refused(store: SqlStore) -> None:
    """A2: an entry that somebody turned into a tombstone makes no name free."""
    made = applied(store, enabling(two_regions()))

    def forge(connection: Connection) -> None:
        for table in (*reversed(KEYRING), schema.clusters):
            connection.execute(delete(table))
        connection.execute(update(schema.log).values(row_mac=None).where(_number(made.number)))

    run(store, forge)
    with pytest.raises(RowNotAuthenticError):
        store.cluster("acme")
    assert isinstance(refusal(store, enabling(two_regions())), RowNotAuthenticError)


def test_only_what_is_due_is_erased(store: SqlStore, clock: FakeClock) -> None:
    """D3: state and time are checked again in the erasure's own transaction."""
    applied(store, enabling(two_regions()))
    due = erasing("acme", "eu", "us")
    for change in (due, erasing("acme")):
        assert isinstance(refusal(store, change), ConcurrentChangeError)
    applied(store, revoking("acme"))
    assert isinstance(refusal(store, due), ConcurrentChangeError)
    made = applied(store, deleting("acme", "eu", "us")).cluster
    assert isinstance(refusal(store, due), ConcurrentChangeError)
    purge_time = made.region("eu").purge_time
    assert purge_time is not None
    clock.advance(DAY / 1000 + 60)
    # Whoever found it due before its time came goes by the time at which they looked.
    early = erasing("acme", "eu", "us", by=purge_time - 1)
    assert isinstance(refusal(store, early), ConcurrentChangeError)
    applied(store, Change("acme", undeleted("acme", ["eu"], NOW), an_event()))
    left = applied(store, due).cluster
    assert [(r.name, r.state) for r in left.regions] == [("eu", State.REVOKED)]
    # Taken back and deleted again, it waits anew.
    applied(store, deleting("acme", "eu"))
    assert isinstance(refusal(store, due), ConcurrentChangeError)


def test_undelete_and_erasure_at_once(store: SqlStore, clock: FakeClock) -> None:
    """D2, D3: of an Undelete and an erasure at the same time one comes first, and holds."""
    for turn in range(12):
        name = f"c-{turn}"
        applied(store, enabling(a_cluster(name)))
        applied(store, revoking(name))
        applied(store, deleting(name, "eu", waiting=0))
        back = Change(name, undeleted(name, (), NOW), an_event())
        results: dict[str, object] = {}
        barrier = threading.Barrier(2)

        def go(what: str, change: Change) -> None:
            barrier.wait()  # noqa: B023
            [results[what]] = store.apply([change])  # noqa: B023

        threads = [
            threading.Thread(target=partial(go, "undelete", back)),
            threading.Thread(target=partial(go, "erase", erasing(name, "eu"))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if isinstance(results["undelete"], CommittedChange):
            assert isinstance(results["erase"], ConcurrentChangeError)
            found = store.cluster(name)
            assert found is not None
            assert found.region("eu").state is State.REVOKED
        else:
            assert isinstance(results["undelete"], ClusterNotFoundError)
            assert isinstance(results["erase"], CommittedChange)
            assert store.cluster(name) is None


def test_an_erasure_in_a_group(store: SqlStore, clock: FakeClock) -> None:
    """S8: nothing follows an erasure of the same cluster in one transaction; others are let be."""
    for name in ("a", "b"):
        applied(store, enabling(a_cluster(name)))
        applied(store, revoking(name))
    applied(store, deleting("a", "eu", waiting=0))
    first, second, third = store.apply(
        [erasing("a", "eu"), enabling(a_cluster("a")), revoking("b")]
    )
    assert isinstance(first, CommittedChange)
    assert isinstance(second, ConcurrentChangeError)
    assert isinstance(third, CommittedChange)
    assert store.cluster("a") is None


def test_makers_of_a_name_at_once(store: SqlStore, clock: FakeClock) -> None:
    """S10: whoever makes a cluster while its name gets a tombstone begins above it."""
    for _ in range(8):
        results: list[object] = []

        def make() -> None:
            results.extend(store.apply([enabling(two_regions())]))  # noqa: B023

        def end() -> None:
            results.extend(store.apply([enabling(two_regions())]))  # noqa: B023
            store.apply([revoking("acme")])
            store.apply([deleting("acme", "eu", "us", waiting=0)])
            store.apply([erasing("acme", "eu", "us")])

        threads = [threading.Thread(target=make), threading.Thread(target=end)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = store.cluster("acme")
        if found is not None:
            gone(store, clock, "acme", "eu", "us")
    floors = select(schema.log.c.version, schema.log.c.epoch).where(
        schema.log.c.version.is_not(None)
    )
    told = store.parts[0].read(
        lambda c: [tuple(r) for r in c.execute(floors.order_by(schema.log.c.number))]
    )
    assert [v for v, _ in told] == list(range(1, len(told) + 1))
    assert [e for _, e in told] == sorted(e for _, e in told)


def test_pruning_carries_tombstones_forward(store: SqlStore, clock: FakeClock) -> None:
    """S10, D5: a tombstone, its organization and the ids of erased KEKs outlive every pruning."""
    store.register(beat())
    cluster = applied(store, enabling(two_regions("org"))).cluster
    partly = applied(store, enabling(replace(two_regions("org"), name="partly"))).cluster
    last = gone(store, clock, "acme", "eu", "us").cluster
    gone(store, clock, "partly", "eu")
    for _ in range(3):
        clock.advance(2 * DAY / 1000)
        applied(store, revoking("partly"))
        store.prune(int(clock.wall() * 1000), KEEP)
    found, *_ = store.requested("acme", None)
    assert isinstance(found, Tombstone)
    assert (found.uid, found.organization) == (cluster.uid, "org")
    assert (found.version, found.epoch) == (last.version, last.epoch)
    kinds = {entry.kind for entry in store.poll(beat_of_pruned(store))}
    assert EntryKind.ERASURE not in kinds
    _, seal = store.parts
    for erased_cluster in (cluster, replace(partly, regions=(partly.region("eu"),))):
        with pytest.raises(SetupError, match="never comes back"):
            store.parts[0].read(lambda c: erased_keks.refuse(c, erased_cluster, seal, "it"))  # noqa: B023
    us = replace(partly, regions=(partly.region("us"),))
    store.parts[0].read(lambda c: erased_keks.refuse(c, us, seal, "it"))
    assert isinstance(refusal(store, enabling(two_regions("other"))), OrganizationMismatchError)
    new = applied(store, enabling(two_regions("org"))).cluster
    assert (new.version, new.epoch) == (last.version + 1, last.epoch + 1)
    # Of a name in use the ids still stay, and the floor is the new cluster's.
    clock.advance(2 * DAY / 1000)
    new = applied(store, revoking("acme")).cluster
    store.prune(int(clock.wall() * 1000), KEEP)
    with pytest.raises(SetupError, match="never comes back"):
        store.parts[0].read(lambda c: erased_keks.refuse(c, cluster, seal, "it"))
    assert store.cluster("acme") == new


def beat_of_pruned(store: SqlStore) -> Any:
    """Returns the heartbeat of a replica that has applied what was pruned."""
    pruned = store.log_marks(()).pruned
    return beat("one", pruned.number, pruned.entry_id)


def test_a_silent_replica_learns_of_an_erasure(store: SqlStore, clock: FakeClock) -> None:
    """S1: the poll tells every replica, which drops the cluster's KEKs."""
    applied(store, enabling(two_regions()))
    store.register(beat("late"))
    [first] = store.poll(beat("late"))
    gone(store, clock, "acme", "eu", "us")
    news = [e for e in store.poll(at("late", first)) if e.is_news]
    assert [(e.kind, e.cluster) for e in news][-1] == (EntryKind.ERASURE, "acme")


def test_one_replica_has_the_turn(bench: Bench, store: SqlStore, clock: FakeClock) -> None:
    """D3: of all replicas one erases at a time, the oldest deletions first."""
    for name in ("late", "soon", "not"):
        applied(store, enabling(a_cluster(name)))
        applied(store, revoking(name))
    first = store.erasure_turn(EVERY)
    assert first is not None
    assert (first.due, first.overdue, first.resumes) == ((), 0, None)
    applied(store, deleting("soon", "eu", waiting=MINUTE))
    applied(store, deleting("late", "eu", waiting=2 * MINUTE))
    applied(store, deleting("not", "eu"))
    assert store.erasure_turn(EVERY) is None
    clock.advance(300)
    turn = store.erasure_turn(EVERY)
    assert turn is not None
    assert turn.due == (Due("soon", ("eu",)), Due("late", ("eu",)))
    assert (turn.overdue, turn.gap, turn.traces) == (2, None, False)
    assert store.erasure_turn(EVERY) is None
    for due in turn.due:
        change = Change(due.cluster, erased(due, turn.now), an_event())
        applied(store, change)
    clock.advance(90)
    after = store.erasure_turn(EVERY)
    assert after is not None
    assert (after.due, after.overdue, after.traces) == ((), 0, True)
    assert store.clear_traces()
    clock.advance(90)
    clean = store.erasure_turn(EVERY)
    assert clean is not None
    assert not clean.traces


def test_a_step_of_the_clock_pauses(store: SqlStore, clock: FakeClock) -> None:
    """D3: after a gap nothing is erased for as long as the gap was, for a day at most."""
    applied(store, enabling(a_cluster("acme")))
    applied(store, revoking("acme"))
    applied(store, deleting("acme", "eu", waiting=10 * DAY))
    assert store.erasure_turn(EVERY) is not None

    def turn(after: float) -> tuple[int, int | None, float | None]:
        """Takes a turn after some seconds; returns what is due, the gap and the pause's rest."""
        clock.advance(after)
        found = store.erasure_turn(EVERY)
        assert found is not None
        left = None if found.resumes is None else round((found.resumes - found.now) / MINUTE)
        return len(found.due), found.gap and round(found.gap / MINUTE), left

    assert turn(9 * 60) == (0, None, None)
    assert turn(20 * 60) == (0, 20, 20)
    assert turn(9 * 60) == (0, None, 11)
    assert turn(9 * 60) == (0, None, 2)
    assert turn(9 * 60) == (0, None, None)
    # A step past the due time.
    assert turn(20 * DAY / 1000) == (0, 20 * 24 * 60, 24 * 60)
    # A second gap makes it no longer than a day from then on.
    assert turn(3 * 3600) == (0, 180, 21 * 60)
    # The clock is set right again: what was not due is not, and the pause is not for weeks.
    assert turn(-20 * DAY / 1000) == (0, None, 24 * 60)
    lasted = 0.0
    while turn(9 * 60 + 30)[2] is not None:
        lasted += 9.5
    assert 23.5 * 60 < lasted < 24 * 60


def test_the_turn_is_durable(bench: Bench) -> None:
    """D3: a restart ends no pause, and the time when no server ran counts as a gap."""
    with closing(bench.open()) as store:
        applied(store, enabling(a_cluster("acme")))
        applied(store, revoking("acme"))
        applied(store, deleting("acme", "eu", waiting=0))
        assert store.erasure_turn(EVERY) is not None
    bench.clock.advance(3_600)
    for left in (60, 55):
        with closing(bench.open()) as store:
            turn = store.erasure_turn(EVERY)
            assert turn is not None
            assert (turn.due, turn.overdue) == ((), 1)
            assert turn.resumes is not None
            assert round((turn.resumes - turn.now) / MINUTE) == left
        bench.clock.advance(300)


def test_creation_is_as_before_without_a_tombstone(store: SqlStore) -> None:
    """S10: a cluster of a name that never was begins at version 1 and epoch 0."""
    made = applied(store, Change("new", created(a_cluster("new")), an_event())).cluster
    assert (made.version, made.epoch) == (1, 0)
