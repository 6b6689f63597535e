"""Counts of uses, the same on every store (protocol S7)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from builders import NOW, a_cluster, applied, enabling
from contract.test_store import bench as bench  # noqa: PLC0414  the fixtures of every store
from contract.test_store import clock as clock  # noqa: PLC0414
from contract.test_store import pytest_generate_tests as pytest_generate_tests  # noqa: PLC0414
from contract.test_store import store as store  # noqa: PLC0414
from fakes import FakeClock
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.usage import MINUTE, UsageFilter, UsageKey, UsageQuery
from keyfold_server.store.sql.store import SqlStore

DAY: Final = 24 * 60 * MINUTE

EVERYTHING: Final = (Coverage(None, None),)
START: Final = NOW - NOW % (60 * MINUTE) - 60 * MINUTE


def key(
    minute: int = 0, cluster: str = "a", region: str = "eu", caller: str = "me", outcome: str = "OK"
) -> UsageKey:
    """Makes what uses have in common, in a minute of the hour before now."""
    return UsageKey(START + minute * MINUTE, cluster, region, caller, "Wrap", outcome)


def count(
    store: SqlStore, writer: str, flush: int, counts: Mapping[UsageKey, int], within: int = DAY
) -> None:
    """Adds counts of the minutes before now."""
    store.count_usage(writer, flush, counts, within)


def counted(
    store: SqlStore,
    which: UsageFilter | None = None,
    covered: tuple[Coverage, ...] = EVERYTHING,
    after: UsageKey | None = None,
    limit: int = 100,
) -> dict[UsageKey, int]:
    """Reads counts."""
    rows = store.usage(UsageQuery(which or UsageFilter(), covered, after, limit)).rows
    assert [each for each, _ in rows] == sorted(each for each, _ in rows)
    return dict(rows)


def test_counts_of_all_replicas_add_up(store: SqlStore) -> None:
    """S7: what several processes counted in one minute is one count."""
    count(store, "one", 1, {key(): 3, key(1): 1})
    count(store, "two", 1, {key(): 4})
    count(store, "one", 2, {key(): 5})
    assert counted(store) == {key(): 12, key(1): 1}


def test_a_repeated_flush_adds_nothing(store: SqlStore) -> None:
    """S7: a process that does not know how a flush ended may repeat it."""
    for _ in range(3):
        count(store, "one", 1, {key(): 3})
    count(store, "one", 2, {key(): 1})
    count(store, "one", 1, {key(): 3})
    assert counted(store) == {key(): 4}


def test_counts_are_chosen_and_added_up(store: SqlStore) -> None:
    """A query selects by cluster, caller and time, and adds up over its span."""
    count(
        store,
        "one",
        1,
        {
            key(0): 1,
            key(59): 2,
            key(60): 4,
            key(0, cluster="b"): 8,
            key(0, caller="you"): 16,
            key(0, outcome="REVOKED"): 32,
        },
    )
    hour = UsageFilter(cluster="a", caller="me", span=60 * MINUTE)
    assert counted(store, hour) == {key(0): 3, key(60): 4, key(0, outcome="REVOKED"): 32}
    late = UsageFilter(start=key(59).time, end=key(60).time)
    assert counted(store, late) == {key(59): 2}


def test_pages_follow_one_another(store: SqlStore) -> None:
    """Pages of any size show each count once, whatever the span."""
    counts = {key(m, cluster=c, outcome=o): 1 for m in (0, 1, 60) for c in "ab" for o in "xy"}
    count(store, "one", 1, counts)
    for which in (UsageFilter(), UsageFilter(span=60 * MINUTE)):
        whole = counted(store, which)
        for limit in (1, 3, 5):
            found: dict[UsageKey, int] = {}
            page = counted(store, which, limit=limit)
            while page:
                assert not found.keys() & page.keys()
                found |= page
                page = counted(store, which, after=max(page), limit=limit)
            assert found == whole


def test_only_covered_clusters_are_read(store: SqlStore) -> None:
    """C7: a narrowed query reads counts of existing clusters that it covers, and no others."""
    applied(store, enabling(a_cluster("a", organization="acme")))
    applied(store, enabling(a_cluster("b", organization="rival")))
    count(store, "one", 1, {key(cluster=name): 1 for name in ("a", "b", "gone")})
    acme = (Coverage(None, ("acme",)),)
    assert counted(store, covered=acme) == {key(cluster="a"): 1}
    named = (Coverage(("b", "gone"), None),)
    assert counted(store, covered=named) == {key(cluster="b"): 1}
    assert counted(store, UsageFilter(organization="rival")) == {key(cluster="b"): 1}
    assert len(counted(store)) == 3


def test_old_counts_go(store: SqlStore, clock: FakeClock) -> None:
    """Counts stay for their retention, by the store's clock."""
    count(store, "one", 1, {key(0): 1, key(10): 2})
    far = NOW + DAY
    store.prune_usage(far, 65 * MINUTE)
    assert len(counted(store)) == 2
    clock.advance(600)
    store.prune_usage(far, 65 * MINUTE)
    assert counted(store) == {key(10): 2}


def test_a_flush_that_overtakes_itself_adds_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7: a flush that is repeated while its first try still runs is counted once."""
    held, go_on, again = threading.Event(), threading.Event(), threading.Event()
    begun = itertools.count()

    def reach(failpoint: str) -> None:
        if failpoint == "usage:begun" and next(begun):
            again.set()
        if failpoint == "usage:before-commit" and not held.is_set():
            held.set()
            assert go_on.wait(20)

    monkeypatch.setattr(store._transactions, "reach", reach)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(count, store, "one", 1, {key(): 3})
        assert held.wait(20)
        second = pool.submit(count, store, "one", 1, {key(): 3})
        # SQLite lets it begin only when the first has ended; PostgreSQL, when it needs what the
        # first has locked.
        again.wait(0.3)
        time.sleep(0.2)
        go_on.set()
        first.result(20)
        second.result(20)
    assert counted(store) == {key(): 3}


def test_a_wrong_clock_moves_no_use_far(store: SqlStore, clock: FakeClock) -> None:
    """S3: a use belongs to the minutes in which its writer counted, by the store's clock."""
    hours = 3 * 60
    wrong = {key(60 + hours): 1, key(60 - hours): 2, key(60 + hours, caller="you"): 4}
    # NOW is the beginning of minute 60; the writer counted from 30 seconds before it on.
    count(store, "one", 1, wrong | {key(60): 8, key(59): 16}, 30_000)
    assert counted(store) == {key(60): 9, key(59): 18, key(60, caller="you"): 4}
    clock.advance(90)
    count(store, "one", 2, {key(59): 1, key(61): 2, key(62): 4}, 30_000)
    assert counted(store)[key(61)] == 7


def test_a_page_says_when_it_was_read(store: SqlStore, clock: FakeClock) -> None:
    """The time is the store's, so whoever reads span after span needs no clock of its own."""
    clock.advance(10)
    assert store.usage(UsageQuery(UsageFilter(), EVERYTHING, None, 1)).read_at == NOW + 10_000
