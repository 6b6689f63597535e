"""The promises of every store about who needs a root key (C6, C7); see test_store.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from sqlalchemy import text

from builders import (
    HOLDER,
    NOW,
    a_cluster,
    a_region,
    a_rotation,
    an_event,
    applied,
    enabled,
    enabling,
)
from contract.test_store import bench as bench  # noqa: PLC0414  the fixtures of every store
from contract.test_store import clock as clock  # noqa: PLC0414
from contract.test_store import pytest_generate_tests as pytest_generate_tests  # noqa: PLC0414
from contract.test_store import store as store  # noqa: PLC0414
from fakes import FakeClock
from key_usage_oracle import EVERYTHING, Scan, World, counted, paged, sees
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import Change, Decision, parts, with_regions
from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError
from keyfold_server.domain.key_usage import KeyQuery, KeyUse, KeyUsePage, UsePlace
from keyfold_server.domain.rights import Coverage
from keyfold_server.store.sql.store import SqlStore

ONE: Final = KeyQuery(family="local:one")


def every(store: SqlStore, query: KeyQuery = ONE) -> KeyUsePage:
    """Reads all uses at once."""
    return store.key_usage(query, EVERYTHING, None, 1_000)


def places(page: KeyUsePage) -> list[UsePlace]:
    """Returns the places of a page's uses."""
    return [each.place for each in page.entries if isinstance(each, KeyUse)]


def spoil(store: SqlStore, statement: str) -> None:
    """Edits the database as somebody else."""
    store.parts[0].write(lambda connection: connection.execute(text(statement)))


# Each of the thousands of changes is a transaction, and the machines of CI are slow.
@pytest.mark.timeout(300)
def test_uses_are_those_of_a_full_scan(store: SqlStore, clock: FakeClock) -> None:
    """C6: after thousands of changes, each question gets exactly what a scan of all finds."""
    world = World(store, clock, seed=18)
    for part in range(1, 5):
        for _ in range(500):
            world.turn()
        every, oldest = Scan(store), world.now - 4_000_000
        for wanted in world.selectors():
            if part == 4 or world.pick(20) == 1:
                query, covered = world.groups.query(wanted), world.rights()
                meant = every.of(wanted)
                visible = [use for use in meant if sees(covered, use)]
                assert paged(store, query, covered, world.pick(200, 10)) == visible
                summary = store.key_usage_summary(query, covered, oldest)
                assert set(summary.groups) == counted(meant, covered, query.uri, oldest)
                assert summary.lost == 0
    assert len(world.done) == 10
    assert all(count > 10 for count in world.done.values())


def test_pages_follow_each_other(store: SqlStore) -> None:
    """C6: pages of any size hold every use once, by cluster, region, generation and wrap."""
    for name in ("b", "B", "a-2", "a"):
        regions = [a_region("us"), a_region("eu")]
        cluster = applied(store, enabling(a_cluster(name, regions))).cluster
        for number in (1, 2):
            moved = [a_rotation(r, "local:one", fresh=number == 1) for r in cluster.regions]
            change = Change(name, with_regions(cluster, moved, NOW + number), an_event())
            cluster = applied(store, change).cluster
    whole = paged(store, ONE, EVERYTHING, 1_000)
    assert [use.place for use in whole] == sorted(use.place for use in whole)
    assert len(whole) == 4 * 2 * (3 + 2)
    for limit in range(1, 8):
        assert paged(store, ONE, EVERYTHING, limit) == whole
    assert store.key_usage(ONE, (), None, 10) == KeyUsePage((), None, more=False)


def test_a_removed_region_has_no_uses(store: SqlStore) -> None:
    """C6: the wraps of a region that has left its cluster open nothing any more."""
    cluster = applied(store, enabling(a_cluster("acme", [a_region("eu"), a_region("us")]))).cluster
    region = a_rotation(cluster.region("us"), "local:two")
    change = Change("acme", with_regions(cluster, [region], NOW + 1), an_event())
    cluster = applied(store, change).cluster
    assert [(use.region, use.wrap) for use in paged(store, ONE, EVERYTHING, 9)] == [
        ("eu", 1),
        ("us", 1),
    ]
    left = replace(cluster, version=3, regions=(cluster.region("eu"),))
    decision = Decision(left, removed=parts([cluster.region("us")]))
    applied(store, Change("acme", lambda _: decision, an_event()))
    assert places(every(store)) == [UsePlace("acme", "eu", 1, 1)]
    [group] = store.key_usage_summary(ONE, EVERYTHING, NOW).groups
    assert group.count == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE wraps SET root_uri = 'local:two' WHERE cluster = 'b'",
        "UPDATE wraps SET cluster = 'bb' WHERE cluster = 'b'",
        "UPDATE wraps SET cluster = 'c' WHERE cluster = 'b'",
        "UPDATE clusters SET epoch = 7 WHERE name = 'b'",
        "UPDATE regions SET state = 'LOST' WHERE state_since = 7",
    ],
)
def test_uses_of_rows_that_somebody_edited(store: SqlStore, statement: str) -> None:
    """A1, C6: an error stands in the place of a cluster whose rows are not authentic."""
    for name in ("a", "b", "c"):
        applied(store, enabling(a_cluster(name, [a_region(at=7 if name == "b" else NOW)])))
    spoil(store, statement)
    page = every(store)
    [error] = [each for each in page.entries if isinstance(each, RowNotAuthenticError)]
    assert error.cluster in ("b", "bb", "c")
    assert {"a"} <= {place.cluster for place in places(page)} <= {"a", "c"}
    assert len(page.entries) == 3
    assert sum(group.count for group in store.key_usage_summary(ONE, (), NOW).groups) == 3


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE wrap_history SET created_at = 1",
        "UPDATE wrap_history SET key_version = '9', wrap = 3",
    ],
)
def test_uses_of_a_history_that_somebody_edited(store: SqlStore, statement: str) -> None:
    """A1, C6: a superseded wrap counts only with its seal."""
    cluster = enabled(store, "a")
    moved = [a_rotation(region, "local:two") for region in cluster.regions]
    applied(store, Change("a", with_regions(cluster, moved, NOW + 1), an_event()))
    assert places(every(store)) == [UsePlace("a", "eu", 1, 1)]
    spoil(store, statement)
    [error] = every(store).entries
    assert isinstance(error, RowNotAuthenticError)


def test_uses_of_banned_clusters(store: SqlStore) -> None:
    """A6, C6: a ban stands in the place of its cluster; one without rows could need any key."""
    enabled(store, "a")
    enabled(store, "b")
    spoil(store, "UPDATE clusters SET epoch = 7 WHERE name = 'b'")
    for name in ("b", "ghost"):
        assert store.ban(Ban(name, an_event(), a_cluster(name))) is not None
    page = every(store)
    assert places(page) == [UsePlace("a", "eu", 1, 1)]
    assert isinstance(page.entries[1], ClusterBannedError)
    assert store.key_usage_summary(ONE, EVERYTHING, NOW).lost == 1


def test_a_pattern_tells_letters_apart(store: SqlStore) -> None:
    """C7: names that differ in capitals are two names, also for a pattern."""
    for name in ("app-1", "App-1", "app_1"):
        enabled(store, name)
    for pattern, names in (
        ("app-*", ["app-1"]),
        ("A*", ["App-1"]),
        ("app?1*", []),
        ("[a]pp*", []),
        ("app_*", ["app_1"]),
    ):
        covered = (Coverage((pattern,), None),)
        uses = paged(store, ONE, covered, 5)
        assert [use.cluster for use in uses] == names
        visible = [g.count for g in store.key_usage_summary(ONE, covered, NOW).groups if g.visible]
        assert sum(visible) == len(names)


def test_who_holds_a_key(store: SqlStore) -> None:
    """C6: a holder finds the uses of all its keys, and other conditions narrow them."""
    enabled(store, "a")
    applied(store, enabling(a_cluster("b", [a_region("eu", "local:two")])))
    assert [use.cluster for use in paged(store, KeyQuery(holder=HOLDER), EVERYTHING, 1)] == [
        "a",
        "b",
    ]
    assert len(paged(store, KeyQuery(holder=HOLDER, key_version="1"), EVERYTHING, 9)) == 2
    assert paged(store, KeyQuery(holder=HOLDER, key_version="2"), EVERYTHING, 9) == []
    assert paged(store, KeyQuery(holder=HOLDER, principal="x"), EVERYTHING, 9) == []
    assert len(paged(store, replace(ONE, holder=HOLDER, principal=""), EVERYTHING, 9)) == 1
    assert paged(store, replace(ONE, holder="nobody"), EVERYTHING, 9) == []


def test_a_version_and_all_older_ones(store: SqlStore) -> None:
    """C6: where a KMS can stop old versions only together, a question is about all of them."""
    for number in range(1, 13):
        region = a_region()
        wrap = replace(region.newest.current, key_version=str(number))
        made = replace(region, generations=(replace(region.newest, current=wrap),))
        applied(store, enabling(a_cluster(f"c-{number}", [made])))
    for version, count in (("1", 1), ("9", 9), ("10", 10), ("12", 12), ("100", 12)):
        query = replace(ONE, key_version=version, and_older=True)
        versions = {use.key_version for use in paged(store, query, EVERYTHING, 5)}
        assert versions == {str(number) for number in range(1, min(count, 12) + 1)}
        assert sum(g.count for g in store.key_usage_summary(query, (), NOW).groups) == count
