"""Every store keeps the mark of a cluster that nobody used, and excludes use and deletion (D6)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from audit_chain import verified_events
from builders import NOW, a_cluster, a_region, a_request, a_rotation, an_event, applied, enabling
from contract.test_store import EVERY_TEST, STORES, Bench
from fakes import FakeClock
from keyfold_server.domain.changes import Change, CommittedChange, used, with_regions
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.erasure import at_once
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    RowNotAuthenticError,
)
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store.blessing import bless, look
from keyfold_server.store.opening import open_store
from keyfold_server.store.schema import clusters
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.transfer import archive, export, import_


@pytest.fixture(params=EVERY_TEST)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Gives each kind of store in turn."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(bench: Bench) -> Iterator[SqlStore]:
    """Gives a new store."""
    with closing(bench.open()) as opened:
        yield opened


def fresh(store: SqlStore, name: str = "acme") -> Cluster:
    """Stores a cluster as Enable does, with the mark."""
    made = replace(a_cluster(name, [a_region("eu"), a_region("us")]), first_use=0)
    return applied(store, enabling(made)).cluster


def use(seen: Cluster) -> Change:
    """Makes the change that comes before a first use."""
    return Change(seen.name, used(seen), an_event("server:cluster:use"))


def delete(seen: Cluster, *regions: str) -> Change:
    """Makes the change that deletes a cluster, or some of its regions, at once."""
    return Change(seen.name, at_once(seen, regions), an_event("rpc:cluster:deletecluster"))


def test_the_mark_is_kept(store: SqlStore) -> None:
    """D6: it is there until the first use, which is one change of the cluster and nothing else."""
    seen = fresh(store)
    assert store.cluster("acme") == seen
    assert seen.unused
    after = applied(store, use(seen)).cluster
    assert after == replace(seen, version=2, first_use=2)
    assert store.cluster("acme") == after
    [again] = store.apply([use(seen)])
    assert isinstance(again, ConcurrentChangeError)
    assert verified_events(store, "acme") == 2
    [_, entry] = store.poll(Heartbeat("one", 0, b"", 120.0, NOW))
    assert entry.is_news
    assert entry.floor is not None


def test_the_mark_cannot_be_put_back(store: SqlStore) -> None:
    """A2, D6: whoever edits the mark, or puts the old row back, breaks the cluster's seal."""
    seen = fresh(store)
    database, _ = store.parts
    with database.engine.connect() as connection:
        before = dict(connection.execute(clusters.select()).mappings().one())
    applied(store, use(seen))
    for values in ({"first_use": 0}, {"first_use": None}, before):
        edit = update(clusters).values(**values)
        database.write(partial(Connection.execute, statement=edit))
        with pytest.raises(RowNotAuthenticError):
            store.cluster("acme")
        [result] = store.apply([delete(seen)])
        assert isinstance(result, RowNotAuthenticError)


def test_a_first_use_is_no_change_to_others(store: SqlStore) -> None:
    """S5, R6: what was decided on the cluster before its first use commits after it."""
    key = a_request()
    seen = replace(a_cluster("acme"), first_use=0)
    seen = applied(store, enabling(seen, key)).cluster
    after = applied(store, use(seen)).cluster
    assert not after.changed_since(1)
    moved = [a_rotation(region, "local:two") for region in seen.regions]
    rotated = applied(store, Change("acme", with_regions(seen, moved, NOW), an_event())).cluster
    assert (rotated.version, rotated.first_use) == (3, 2)
    assert rotated.changed_since(1)
    assert rotated.changed_since(2)
    [late] = store.apply([Change("acme", with_regions(after, moved, NOW), an_event())])
    assert isinstance(late, ConcurrentChangeError)


def test_a_deletion_at_once(store: SqlStore) -> None:
    """D6: the rows go in the change itself, and the name is free; the log has what went."""
    seen = fresh(store)
    left = applied(store, delete(seen, "us")).cluster
    assert [region.name for region in left.regions] == ["eu"]
    assert left.unused
    applied(store, delete(left))
    assert store.cluster("acme") is None
    for region in seen.regions:
        assert store.owner_of(region.newest.kek_id) is None
    [gone] = store.apply([use(left)])
    assert isinstance(gone, ClusterNotFoundError)
    anew = fresh(store)
    assert anew.uid != seen.uid
    for change in (use(seen), delete(seen)):
        [result] = store.apply([change])
        assert isinstance(result, ConcurrentChangeError)
    applied(store, use(anew))
    [result] = store.apply([delete(anew)])
    assert isinstance(result, ConcurrentChangeError)


@pytest.mark.parametrize("seed", range(4))
def test_use_and_deletion_exclude_each_other(store: SqlStore, seed: int) -> None:
    """D6: of uses and deletions of one cluster at once, in any order, exactly one wins."""
    chance = random.Random(seed)
    seen = {name: fresh(store, name) for name in (f"c-{number}" for number in range(8))}
    changes = [make(each) for each in seen.values() for make in (use, delete) for _ in range(3)]
    chance.shuffle(changes)
    groups = [changes[first : first + 2] for first in range(0, len(changes), 2)]
    with ThreadPoolExecutor(6) as pool:
        results = [each for some in pool.map(store.apply, groups) for each in some]
    won = [each.cluster for each in results if isinstance(each, CommittedChange)]
    assert sorted(each.name for each in won) == sorted(seen)
    for each in won:
        found = store.cluster(each.name)
        assert found == (each if each.regions else None)
        assert each.unused == (not each.regions)
    verified_events(store, None)


def test_an_imported_cluster_was_never_unused(
    store: SqlStore, bench: Bench, tmp_path: Path
) -> None:
    """D6: an export may be older than a use, so no import brings the mark."""
    fresh(store)
    file = tmp_path / "export.jsonl"
    with archive.new_file(file) as out, export.opened(store) as source:
        export.write(source, out, cluster=None, now=NOW)
    with ExitStack() as stack:
        clock = FakeClock(bench.clock.wall())
        url, key = f"sqlite:///{tmp_path / 'there.db'}", tmp_path / "service.key"
        into = stack.enter_context(closing(open_store(url, key, clock=clock, takes_key=True)))
        verified = stack.enter_context(archive.verified(file, archive.seal_of(key)))
        import_.bring_in(into, verified, clock)
        found = into.cluster("acme")
        assert found is not None
        assert found.first_use is None
        [result] = into.apply([delete(found)])
        assert isinstance(result, ConcurrentChangeError)


def test_a_blessed_cluster_was_never_unused(store: SqlStore, bench: Bench) -> None:
    """D6, A1: nobody vouches for the rows that an operator seals as they stand."""
    fresh(store)
    database, _ = store.parts
    database.write(lambda c: c.execute(update(clusters).values(epoch=7)))
    bless(store, look(store, "acme"), "a drill", bench.clock)
    found = store.cluster("acme")
    assert found is not None
    assert found.first_use is None
