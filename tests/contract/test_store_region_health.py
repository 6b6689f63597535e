"""Every store finds and counts regions by what their own replicas saw, as reports show them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from builders import NOW, a_cluster, a_region, applied, enabling
from contract.test_store import EVERY_TEST, STORES, beat, names
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.health import (
    Health,
    Observation,
    kek_subject,
    own_subject,
    root_subject,
)
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.region_health import RegionHealth, subjects_of
from keyfold_server.domain.transitions import Condition, Transition, transition
from keyfold_server.store.sql.store import SqlStore

SINCE: Final = NOW - 1_000
"""What own replicas saw from here on decides."""

WELL: Final = Observation("", Health.HEALTHY, NOW - 9_000, NOW - 500, can_wrap=True)
AWAY: Final = replace(WELL, health=Health.UNREACHABLE)
NO_WRAP: Final = replace(WELL, can_wrap=False)
REFUSED: Final = replace(WELL, health=Health.KEY_DISABLED, can_wrap=None)

OWN_ROOTS: Final = (None, AWAY, NO_WRAP, replace(WELL, last_check=SINCE - 5))
ROOTS: Final = (None, WELL, AWAY, replace(NO_WRAP, last_check=SINCE - 9))
KEKS: Final = (None, REFUSED)


@pytest.fixture(params=EVERY_TEST)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """Gives a new store of each kind in turn."""
    bench = STORES[request.param](tmp_path)
    with closing(bench.open()) as opened:
        yield opened
    bench.close()


def every_case(store: SqlStore) -> dict[str, Cluster]:
    """Makes a cluster with a root key of its own for each way in which two sides may see a key."""
    made = {}
    cases = itertools.product(OWN_ROOTS, ROOTS, KEKS, KEKS)
    for number, (own_root, root, own_kek, kek) in enumerate(cases):
        name, uri = f"c-{number:02}", f"local:{number}"
        cluster = applied(store, enabling(a_cluster(name, [a_region("eu", uri)]))).cluster
        newest = cluster.regions[0].newest
        subjects = (root_subject(newest.current), kek_subject(newest))
        own = [own_subject(subject, "eu") for subject in subjects]
        found = zip((*own, *subjects), (own_root, own_kek, root, kek), strict=True)
        store.observe([replace(seen, subject=s) for s, seen in found if seen is not None])
        made[name] = cluster
    return made


def test_lists_and_counts_have_the_health_that_reports_show(store: SqlStore) -> None:
    """F4, F5: one rule says whose observation decides, in the store and in the service."""
    shown: dict[str, RegionHealth] = {}
    for name, cluster in every_case(store).items():
        newest = cluster.regions[0].newest
        known = store.observations(subjects_of("eu", newest))
        shown[name] = RegionHealth.of(known, "eu", newest, SINCE)
    health = {
        name: Health.UNKNOWN if each.seen is None else each.seen.health
        for name, each in shown.items()
    }
    assert len(set(health.values())) == 4
    for value in Health:
        found = names(store, health=value, own_since=SINCE)
        assert found == sorted(name for name, each in health.items() if each is value), value
    counts = Counter(("ENABLED", each.value) for each in health.values())
    assert store.census(SINCE) == dict(counts)
    for can in (True, False):
        wraps = {name for name, each in shown.items() if each.seen and each.seen.can_wrap is can}
        # A KEK's refusal says nothing of its root key's wrapping.
        assert wraps <= set(names(store, can_wrap=can, own_since=SINCE))
    assert store.failing(SINCE) == {
        ("UNREACHABLE", "eu"): AWAY.since,
        ("UNREACHABLE", ""): AWAY.since,
    }
    # What own replicas saw long ago decides nothing, once others saw the key.
    assert ("UNREACHABLE", "eu") in store.failing(NOW + 1)
    assert store.cannot_wrap(SINCE) > 0


def test_each_regions_own_replicas_know_for_themselves(store: SqlStore) -> None:
    """F5: under one root key, one region's outage stays as it is whatever the others see."""
    regions = [a_region(name) for name in ("eu", "us")]
    cluster = applied(store, enabling(a_cluster("acme", regions))).cluster
    root = root_subject(cluster.regions[0].newest.current)
    away = replace(AWAY, subject=own_subject(root, "eu"), since=NOW - 7_000)
    store.observe([away, replace(WELL, subject=own_subject(root, "us"))])
    store.observe([replace(WELL, subject=root, last_check=NOW)])
    assert store.failing(SINCE) == {("UNREACHABLE", "eu"): NOW - 7_000}
    assert store.census(SINCE) == {("ENABLED", "UNREACHABLE"): 1, ("ENABLED", "HEALTHY"): 1}
    # Its own replicas have been silent for too long.
    assert store.failing(NOW) == {}
    assert store.census(NOW) == {("ENABLED", "HEALTHY"): 2}


def test_a_transition_is_told_once_for_each_region(store: SqlStore) -> None:
    """S0, S7: what a region's own replicas see has entries of its own, each of them once."""
    of = {
        region: replace(WELL, subject=own_subject("root:ab12", region)) for region in ("eu", "us")
    }
    of[""] = replace(WELL, subject="root:ab12")

    def lost(region: str) -> Transition:
        found = transition(of[region], replace(of[region], can_wrap=False))
        assert found is not None
        return found

    for region in ("eu", "us", "eu", "", "us", ""):
        store.observe([lost(region).seen], [lost(region)])
    told = [(n.root, n.told().request.get("region", "")) for n in store.poll(beat()) if n.told]
    assert told == [("ab12", "eu"), ("ab12", "us"), ("ab12", "")]
    # Another region's refusal leaves what was told of this one.
    store.refused("ab12", replace(of["us"], health=Health.KEY_DISABLED), "one")
    store.observe([lost("eu").seen], [lost("eu")])
    back = replace(lost("us"), condition=Condition.HEALTHY, before=Condition.REFUSED)
    store.observe([of["us"]], [back])
    store.observe([of["us"]], [back])
    entries = [n for n in store.poll(beat()) if n.told is not None][3:]
    assert [n.kind for n in entries] == [EntryKind.REFUSAL, EntryKind.HEALTH]
    assert [n.told().regions for n in entries if n.told] == [("us",), ("us",)]


def test_the_sweep_of_own_replicas_chooses_by_what_they_saw(store: SqlStore) -> None:
    """F4: a KEK that others checked a moment ago is still due for the region's own replicas."""
    made = [applied(store, enabling(a_cluster(name))).cluster for name in ("a", "b")]
    keks = [kek_subject(cluster.regions[0].newest) for cluster in made]
    store.observe([replace(WELL, subject=keks[0])])
    store.observe([replace(WELL, subject=own_subject(keks[1], "eu"))])
    prefix = made[0].regions[0].newest.current.root_id[:2]
    assert [s.cluster for s in store.samples(prefix, frozenset({"eu"}))] == ["b"]
    assert [s.cluster for s in store.samples(prefix, frozenset({"eu"}), own=True)] == ["a"]
