"""The promises of every store; each kind in the table below runs them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Final, Protocol

import pytest
from sqlalchemy import Connection, delete, select, update

import new_store
import postgres
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
    attempted,
    enabled,
    enabling,
    record_of,
)
from fakes import FakeClock
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    Decide,
    Decision,
    parts,
    restored,
    retired,
    revoked,
    unchanged,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.cursors import PER_OWNER, Cursor, CursorKey
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    CursorExpiredError,
    CursorNotFoundError,
    CursorTakenError,
    RequestIdReusedError,
    RequestInProgressError,
    ResumeTokenExpiredError,
    ResumeTokenInvalidError,
    RowNotAuthenticError,
    StoreRolledBackError,
    StoreStaleError,
    TooManyCursorsError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.health import Health, Observation, root_subject, turn_subject
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import (
    START,
    Attempt,
    AuditEvent,
    Entry,
    EntryKind,
    KeyName,
    Position,
    RecordedAttempt,
)
from keyfold_server.domain.ports import ClusterFilter, Heartbeat, Store
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.transitions import Condition, Transition
from keyfold_server.store.opening import open_store
from keyfold_server.store.schema import log, log_head, wraps
from keyfold_server.store.seal import Seal
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import cursors, log_polling, log_pruning

DAY = 24 * 60 * 60

KEEP: Final = DAY * 1000
"""Milliseconds for which the tests keep entries of the log."""


class Bench(Protocol):
    """A store that tests open more than once, save and restore."""

    @property
    def clock(self) -> FakeClock: ...

    def open(self) -> SqlStore: ...

    def save(self) -> None:
        """Saves the store's state, while nobody has it open."""
        ...

    def go_back(self) -> None:
        """Restores the saved state."""
        ...

    def close(self) -> None: ...


class Sqlite:
    """A store in a file."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self._file = folder / "keyfold.db"
        self._key = folder / "service.key"
        new_store.lay(self._file, self._key)

    def open(self) -> SqlStore:
        return open_store(f"sqlite:///{self._file}", self._key, clock=self.clock)

    def save(self) -> None:
        shutil.copy(self._file, self._file.with_suffix(".old"))

    def go_back(self) -> None:
        shutil.copy(self._file.with_suffix(".old"), self._file)

    def close(self) -> None:
        pass


class Postgres:
    """A store in a database of a real server; the test sets the server's clock."""

    def __init__(self, version: str, folder: Path) -> None:
        self._server = postgres.shared(version)
        self._name = self._server.borrow()
        self._key = postgres.a_service_key(folder)
        self.clock = postgres.DatabaseClock(self._server, self._name)

    def open(self) -> SqlStore:
        return self._server.open(self._name, self._key, self.clock)

    def save(self) -> None:
        self._server.save(self._name)

    def go_back(self) -> None:
        self._server.go_back(self._name)

    def close(self) -> None:
        self._server.give_back(self._name)


STORES: Final[dict[str, Callable[[Path], Bench]]] = {
    "sqlite": Sqlite,
    **{f"postgresql-{v}": partial(Postgres, v) for v in postgres.VERSIONS},
}

EVERY_TEST: Final = ["sqlite", "postgresql-15"]

SHARED: Final = ["postgresql-15"]
"""Stores that several processes may have open."""

EVERY_STORE: Final = {
    "test_a_cluster_reads_as_it_was_written",
    "test_revoke_never_loses",
    "test_numbers_have_no_gaps",
    "test_a_collision_takes_nobody_along",
    "test_a_poll_reads_what_followed",
    "test_replicas_and_their_silence",
    "test_observations_replace_each_other",
    "test_of_those_who_issue_at_once_one_does",
    "test_a_last_use_never_goes_back",
    "test_replicas_tell_their_last_uses_at_once",
    "test_work_is_claimed_by_one",
    "test_the_sweep_chooses_who_waited_longest",
    "test_lists_are_paged_by_name",
    "test_the_filter_of_health",
    "test_what_is_old_goes",
}
"""Tests of what may differ between versions of PostgreSQL: they run on all of them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each test its stores."""
    if "bench" in metafunc.fixturenames:
        every = metafunc.function.__name__ in EVERY_STORE
        metafunc.parametrize("bench", list(STORES) if every else EVERY_TEST, indirect=True)


@pytest.fixture
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
    opened = bench.open()
    yield opened
    opened.close()


def beat(replica: str = "one", number: int = 0, entry_id: bytes = b"") -> Heartbeat:
    """Makes a heartbeat."""
    return Heartbeat(replica, number, entry_id, 120.0, NOW)


def at(replica: str, noted: Entry) -> Heartbeat:
    """Makes the heartbeat of a replica that has applied a change."""
    return beat(replica, noted.number, noted.entry_id)


def revoking(name: str, *regions: str) -> Change:
    """Makes a revocation."""
    return Change(name, revoked(name, regions, NOW + 5), an_event("rpc:cluster:revoke"))


def rotating(seen: Cluster, uri: str = "local:two") -> Change:
    """Makes a rotation, decided on a cluster as somebody read it."""
    regions = [a_rotation(region, uri) for region in seen.regions]
    return Change(seen.name, with_regions(seen, regions, NOW + 1), an_event("rpc:cluster:rotate"))


def audited(store: SqlStore, name: str = "acme") -> int:
    """Verifies a cluster's audit chain and returns its length."""
    return verified_events(store, name)


def test_a_cluster_reads_as_it_was_written(store: SqlStore) -> None:
    """A store returns every part of a cluster; NULL differs from empty and from zero."""
    root = RootKey("AWS_KMS", "arn:aws:kms:…", "role", (("a", ""), ("b", "x\0é")), "issued")
    eu = a_region("eu")
    wrap = replace(eu.newest.current, root=root, organization="acme-org", key_version="")
    eu = replace(
        eu,
        key_spec=KeySpec("AWS_KMS", "arn:aws:kms:…", "role", (("a", ""), ("b", "x\0é"))),
        policy=RegionPolicy(cache_ttl=0.0, outage_grace=1.25, auto_rotate=True),
        generations=(
            replace(eu.newest, current=wrap, retired_at=NOW + 3),
            a_generation(number=2),
        ),
        geo="EU",
    )
    us = replace(a_region("us"), replica_of="eu")
    cluster = a_cluster("acme", [eu, us], organization="acme-org")
    cluster = replace(cluster, declared=("eu", "us"))
    made = applied(store, enabling(cluster))
    assert (made.cluster, made.number, len(made.entry_id)) == (cluster, 1, 16)
    assert store.cluster("acme") == cluster
    assert store.cluster("other") is None


def test_it_is_there_after_a_restart(bench: Bench) -> None:
    """An answered change is in the store: another process reads it."""
    first = bench.open()
    cluster = enabled(first)
    first.close()
    second = bench.open()
    assert second.cluster("acme") == cluster
    second.close()


def test_a_rotation_adds_and_supersedes(store: SqlStore) -> None:
    """S5, C6: a KEK never changes in place; the history has the old wrap without ciphertext."""
    cluster = enabled(store)
    region = a_rotation(cluster.regions[0], "local:two", fresh=True)
    change = Change("acme", with_regions(cluster, [region], NOW + 1), an_event())
    now = applied(store, change).cluster
    assert store.cluster("acme") == now
    first, fresh = now.regions[0].generations
    [old] = store.superseded_wraps("acme")
    assert (old.kek_id, [old.number, first.current.number]) == (first.kek_id, [1, 2])
    assert not hasattr(old, "ciphertext")
    # By the store's clock, and not by that of the replica that rotated.
    assert (old.root.uri, old.superseded_at) == ("local:one", NOW)
    assert fresh.number == 2
    assert fresh.current.number == 1


def retiring(region: str, number: int, at: int, *, back: bool = False) -> Change:
    """Makes the change that takes a generation of `acme` out of use, or back into it."""
    decide = retired("acme", region, number, at, back=back)
    return Change("acme", decide, an_event("rpc:generation:retire"))


def test_a_generation_goes_and_comes_back(store: SqlStore) -> None:
    """R1: retiring a generation and taking it back are changes, and change nothing else of it."""
    cluster = enabled(store)
    region = a_rotation(cluster.regions[0], "local:two", fresh=True)
    applied(store, Change("acme", with_regions(cluster, [region], NOW + 1), an_event()))
    out = applied(store, retiring("eu", 1, NOW + 2)).cluster
    assert store.cluster("acme") == out
    assert [g.retired_at for g in out.regions[0].generations] == [NOW + 2, None]
    back = applied(store, retiring("eu", 1, NOW + 3, back=True)).cluster
    assert store.cluster("acme") == back
    assert back.regions[0] == region
    assert [n.cluster for n in store.poll(beat())] == ["acme"] * 4
    assert audited(store) == 4


def test_rotating_by_itself_is_switched(store: SqlStore) -> None:
    """A region's policy says whether it rotates by itself, and can change again."""
    cluster = enabled(store)
    for wanted in (True, False, True):
        region = replace(cluster.regions[0], policy=RegionPolicy(auto_rotate=wanted))
        change = Change("acme", with_regions(cluster, [region], NOW), an_event())
        cluster = applied(store, change).cluster
        assert store.cluster("acme") == cluster
        assert cluster.regions[0].policy.auto_rotate is wanted


def test_revoke_never_loses(store: SqlStore) -> None:
    """R1: whoever changes the cluster meanwhile, Revoke happens and raises the epoch."""
    cluster = enabled(store)
    changes = [rotating(cluster), *[revoking("acme")] * 3, rotating(cluster)]
    with ThreadPoolExecutor(5) as pool:
        results = [r for [r] in pool.map(lambda change: store.apply([change]), changes)]
    assert all(isinstance(result, CommittedChange) for result in results[1:4])
    now = store.cluster("acme")
    assert now is not None
    assert now.epoch == 3
    assert {region.state for region in now.regions} == {State.REVOKED}


def test_what_was_seen_before_a_revocation_is_not_committed(store: SqlStore) -> None:
    """R1: a mutation checks the epoch when it commits; a stale one changes nothing."""
    seen = enabled(store)
    revocation = applied(store, revoking("acme"))
    late = Change("acme", restored(seen, ["eu"], NOW + 9), an_event(), a_request())
    [result] = store.apply([late])
    assert isinstance(result, ConcurrentChangeError)
    assert store.cluster("acme") == revocation.cluster
    assert audited(store) == 2
    assert late.request is not None
    assert record_of(store, late.request) is None


def test_an_attempt_is_no_change(store: SqlStore) -> None:
    """R5: the log records an attempt, which changes no row of the cluster and no replica's keys."""
    cluster = enabled(store)
    recorded = attempted(store)
    assert (recorded.number, recorded.decided) == (2, 1)
    assert store.cluster("acme") == cluster
    assert audited(store) == 2
    [_, entry] = store.poll(beat())
    assert (entry.kind, entry.cluster, entry.floor) == (EntryKind.ATTEMPT, "acme", None)
    assert not entry.is_news
    assert isinstance(applied(store, rotating(cluster)), CommittedChange)


def test_a_change_that_changes_nothing_is_an_attempt(store: SqlStore) -> None:
    """R5, S10: a change that leaves the cluster as it is leaves its row as it is, too."""
    cluster = enabled(store)
    key = a_request("acme", "again")
    made = applied(store, Change("acme", unchanged(cluster), an_event(outcome="unchanged"), key))
    assert (made.cluster, made.number, made.floor) == (cluster, 2, None)
    assert [e.kind for e in store.poll(beat())] == [EntryKind.DECISION, EntryKind.ATTEMPT]
    assert record_of(store, key) is not None
    assert store.cluster("acme") == cluster


def test_the_log_tells_who_asked(store: SqlStore) -> None:
    """R5: an entry names the caller, their proof, their address, and for whom they called."""
    enabled(store)
    asked = replace(
        an_event(outcome="KEY_DISABLED"),
        caller="spiffe://example.org/api",
        proof="certificate",
        address="ipv4:192.0.2.1:4711",
        on_behalf_of="ada@example.org",
        key=KeyName("LOCAL", "local:one"),
        message="the key is disabled",
        request_id="r-1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        kms_request_id="kms-1",
    )
    store.attempted([Attempt("acme", asked)])
    [event] = store.events(EventQuery(1, newest_first=False, limit=9)).events
    told = [field.name for field in fields(AuditEvent) if field.name != "detail"]
    assert {name: getattr(event, name) or "" for name in told} == {
        name: getattr(asked, name) for name in told
    }
    assert event.request == {"regions": ["eu"]}
    assert audited(store) == 2


def test_an_entry_has_the_decision(store: SqlStore) -> None:
    """S0: the log alone says which states and which wraps each decision made."""
    cluster = applied(store, enabling(a_cluster("acme", [a_region("eu"), a_region("us")]))).cluster
    eu = a_rotation(cluster.region("eu"), "local:two", fresh=True)
    applied(store, Change("acme", with_regions(cluster, [eu], NOW), an_event()))
    applied(store, retiring("eu", 1, NOW + 2))
    applied(store, retiring("eu", 1, NOW + 3, back=True))
    applied(store, revoking("acme", "us"))
    database, _ = store.parts
    chosen = select(log.c.decision).order_by(log.c.number)
    made, rotated, out, back, gone = (
        json.loads(text)["regions"] for text in database.read(lambda c: c.execute(chosen).scalars())
    )
    first, fresh = (generation.kek_id.hex() for generation in eu.generations)
    assert made["eu"] == {
        "state": "ENABLED",
        "type": "LOCAL",
        "uri": "local:one",
        "added": [[first, 1]],
    }
    assert rotated == {
        "eu": {
            "state": "ENABLED",
            "type": "LOCAL",
            "uri": "local:two",
            "added": sorted([[first, 2], [fresh, 1]]),
            "superseded": [[first, 1]],
        }
    }
    assert out["eu"]["retired"] == back["eu"]["brought_back"] == [first]
    assert gone == {"us": {"state": "REVOKED", "type": "LOCAL", "uri": "local:one"}}


def test_an_attempt_that_concerns_no_cluster(store: SqlStore) -> None:
    """C8: an attempt without a cluster is an entry of the log, alone or among others."""
    enabled(store)
    [alone] = store.attempted([Attempt(None, an_event())])
    both = store.attempted([Attempt(None, an_event()), Attempt("acme", an_event())])
    assert [alone, *both] == [RecordedAttempt(2, 0), RecordedAttempt(3, 0), RecordedAttempt(4, 1)]
    assert [e.cluster for e in store.poll(beat())] == ["acme", None, None, "acme"]
    assert audited(store) == 2


def test_an_attempt_at_an_absent_cluster(store: SqlStore) -> None:
    """R5: the log has no attempts at clusters that do not exist."""
    enabled(store, "other")
    [result, recorded] = store.attempted([Attempt(n, an_event()) for n in ("acme", "other")])
    assert isinstance(result, ClusterNotFoundError)
    assert not isinstance(recorded, ClusterNotFoundError)
    assert [e.cluster for e in store.poll(beat())] == ["other", "other"]
    assert store.attempted([]) == []
    with pytest.raises(ClusterNotFoundError):
        audited(store)


def test_a_long_log_verifies(store: SqlStore) -> None:
    """A3: a log of any length is verified from its first entry."""
    enabled(store)
    store.attempted([Attempt("acme", an_event())] * 2000)
    assert audited(store) == 2001


def test_a_request_is_found_in_its_scope_alone(store: SqlStore) -> None:
    """R6: request ids are scoped to caller, RPC and cluster; a record has the version made."""
    key = a_request()
    applied(store, enabling(a_cluster(), key))
    found = record_of(store, key)
    assert found is not None
    assert (found.digest, found.version) == (key.digest, 1)
    for other in (
        replace(key, caller="x"),
        replace(key, rpc="Rotate"),
        replace(key, cluster="x"),
        replace(key, request_id="x"),
    ):
        assert record_of(store, other) is None


def test_a_concurrent_twin_is_aborted(store: SqlStore) -> None:
    """R6: of two equal requests the store carries out one, in one batch or in two."""
    enabled(store)
    twin = replace(revoking("acme"), request=a_request())
    first, second = store.apply([twin, twin])
    [third] = store.apply([twin])
    assert isinstance(first, CommittedChange)
    assert isinstance(second, RequestInProgressError)
    assert isinstance(third, RequestInProgressError)
    assert audited(store) == 2


def test_an_id_with_another_body_is_refused(store: SqlStore) -> None:
    """R6: a request_id may come again only with the same request."""
    enabled(store)
    applied(store, replace(revoking("acme"), request=a_request()))
    [result] = store.apply([replace(revoking("acme"), request=a_request(body=b"other"))])
    assert isinstance(result, RequestIdReusedError)


def test_losers_drop_out_alone(store: SqlStore) -> None:
    """S8: a change that raises keeps no other change of the batch from happening, in order."""
    seen = enabled(store)

    def broken(_current: Cluster | None) -> Decision:
        raise ZeroDivisionError

    results = store.apply(
        [
            enabling(a_cluster("zeta")),
            enabling(a_cluster("acme")),
            Change("acme", broken, an_event()),
            rotating(seen),
            rotating(seen),
            revoking("acme"),
            revoking("nobody"),
            enabling(a_cluster("beta")),
        ]
    )
    expected = (
        CommittedChange,
        ConcurrentChangeError,
        ZeroDivisionError,
        CommittedChange,
        ConcurrentChangeError,
        CommittedChange,
        ClusterNotFoundError,
        CommittedChange,
    )
    assert tuple(type(result) for result in results) == expected
    assert [r.number for r in results if isinstance(r, CommittedChange)] == [2, 3, 4, 5]
    now = store.cluster("acme")
    assert now is not None
    assert (now.version, now.epoch) == (3, 1)
    assert audited(store) == 3


def test_a_collision_takes_nobody_along(store: SqlStore) -> None:
    """S8: a change that the database itself refuses drops out alone."""
    twice = a_cluster("first")
    thief = replace(a_cluster("thief"), regions=twice.regions)
    results = store.apply([enabling(a_cluster("acme")), enabling(twice), enabling(thief)])
    assert isinstance(results[1], CommittedChange)
    assert isinstance(results[2], ConcurrentChangeError)
    assert store.cluster("acme") is not None
    assert store.cluster("thief") is None


def test_a_mistaken_decision_is_refused(store: SqlStore) -> None:
    """S5: no change can remove a part of a cluster."""
    cluster = enabled(store)

    def forgetful(_current: Cluster | None) -> Decision:
        return Decision(replace(cluster, version=2, regions=(a_region("us"),)))

    [result] = store.apply([Change("acme", forgetful, an_event())])
    assert isinstance(result, ValueError)
    assert store.cluster("acme") == cluster
    assert store.apply([]) == []


def _claims(cluster: Cluster, region: Region) -> dict[str, Decision]:
    """Makes decisions about a cluster that say what they do not do, or do what they do not say."""
    right = with_regions(cluster, [region], NOW + 1)(cluster)
    [generation] = cluster.regions[0].generations
    skipping = replace(generation, current=replace(generation.current, number=3))
    return {
        "hides what is new": replace(right, added=frozenset()),
        "hides what is superseded": replace(right, superseded=frozenset()),
        "removes what is superseded": replace(
            right, superseded=frozenset(), removed=right.superseded
        )
        if region.newest.current.number == 1
        else replace(right, removed=right.superseded),
        "supersedes what stays": replace(
            with_regions(cluster, [], NOW + 1)(cluster), superseded=parts(cluster.regions)
        ),
        "adds what is there": replace(
            with_regions(cluster, [], NOW + 1)(cluster), added=parts(cluster.regions)
        ),
        "skips a number": Decision(
            replace(right.cluster, regions=(replace(cluster.regions[0], generations=(skipping,)),)),
            added=frozenset({("eu", generation.kek_id, 3)}),
            superseded=parts(cluster.regions),
        ),
        "is of another cluster": replace(
            right, cluster=replace(right.cluster, uid=b"another cluster!")
        ),
        "renames": replace(right, cluster=replace(right.cluster, name="other")),
    }


def _decided(decision: Decision) -> Decide:
    return lambda _: decision


def test_a_decision_does_what_it_says(store: SqlStore) -> None:
    """S5: the store carries out exactly what a decision says of the cluster's parts."""
    cluster = enabled(store)
    claims = _claims(cluster, a_rotation(cluster.regions[0], "local:two"))
    for claim, decision in claims.items():
        [result] = store.apply([Change("acme", _decided(decision), an_event())])
        assert isinstance(result, ValueError), claim
        assert store.cluster("acme") == cluster
        assert store.superseded_wraps("acme") == []


def test_a_decision_may_remove(store: SqlStore) -> None:
    """S5: what a decision names as removed goes; the history of what is gone stays."""
    cluster = applied(store, enabling(a_cluster("acme", [a_region("eu"), a_region("us")]))).cluster
    region = a_rotation(cluster.region("us"), "local:two", fresh=True)
    cluster = applied(
        store, Change("acme", with_regions(cluster, [region], NOW + 1), an_event())
    ).cluster
    left = replace(cluster, version=3, regions=(cluster.region("eu"),))
    decision = Decision(left, removed=parts([cluster.region("us")]))
    assert applied(store, Change("acme", _decided(decision), an_event())).cluster == left
    assert store.cluster("acme") == left
    assert [old.kek_id for old in store.superseded_wraps("acme")] == [
        cluster.region("us").generations[0].kek_id
    ]
    assert store.owner_of(region.newest.kek_id) is None
    assert verified_events(store, "acme") == 3


def test_a_long_history(store: SqlStore) -> None:
    """S12, C6: rotations do not make a cluster's rows more, and the history has every wrap."""
    cluster = applied(store, enabling(a_cluster("acme", [a_region("eu"), a_region("us")]))).cluster
    uris = [f"local:{number}" for number in range(12)]
    for number, uri in enumerate(uris):
        moved = [a_rotation(region, uri, at=NOW + number) for region in cluster.regions]
        # Two changes of a group extend one history.
        again = [a_rotation(region, "local:again", at=NOW + number) for region in moved]
        decided = with_regions(cluster, moved, NOW)(cluster).cluster
        both = [with_regions(cluster, moved, NOW), with_regions(decided, again, NOW)]
        *_, last = store.apply([Change("acme", change, an_event()) for change in both])
        assert isinstance(last, CommittedChange)
        cluster = last.cluster
    assert store.cluster("acme") == cluster
    with store.parts[0].engine.connect() as connection:
        assert len(connection.execute(select(wraps)).all()) == 2
    history = store.superseded_wraps("acme")
    for region in cluster.regions:
        mine = [old for old in history if old.kek_id == region.newest.kek_id]
        assert [old.number for old in mine] == list(range(1, 25))
        gone = [uri for pair in zip(uris, ["local:again"] * 12, strict=True) for uri in pair]
        assert [old.root.uri for old in mine] == ["local:one", *gone[:-1]]
        assert region.newest.current.number == 25
    assert store.superseded_wraps("nobody") == []


def test_numbers_have_no_gaps(store: SqlStore) -> None:
    """S1: of concurrent changes, numbers follow each other and each has its own id."""

    def work(thread: int) -> list[int]:
        numbers = []
        for i in range(12):
            name = f"c-{thread}-{i}"
            group = [enabling(a_cluster(name)), revoking("nobody"), revoking(name)]
            numbers += [r.number for r in store.apply(group) if isinstance(r, CommittedChange)]
        return numbers

    with ThreadPoolExecutor(8) as pool:
        given = [n for numbers in pool.map(work, range(8)) for n in numbers]
    noted = store.poll(beat())
    assert sorted(given) == [n.number for n in noted] == list(range(1, 193))
    assert len({n.entry_id for n in noted}) == 192
    assert {len(n.entry_id) for n in noted} == {16}


def test_a_poll_reads_what_followed(store: SqlStore) -> None:
    """S1: a replica reads the changes after the one it names, oldest first, with their makers."""
    assert store.poll(beat("two")) == []
    assert store.register(beat("one")).number == 0
    enabled(store, "a")
    enabled(store, "b")
    store.refused("ab12", Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW), "two")
    noted = store.poll(beat())
    assert [(n.number, n.cluster, n.root, n.replica) for n in noted] == [
        (1, "a", None, "one"),
        (2, "b", None, "one"),
        (3, None, "ab12", "two"),
    ]
    assert {n.kek for n in noted} == {None}
    assert store.poll(at("one", noted[0])) == noted[1:]
    assert store.poll(at("one", noted[2])) == []


@pytest.mark.parametrize("known", [(1, b"x" * 16), (2, b"x" * 16), (1, b""), (0, b"x" * 16)])
def test_a_poll_notices_another_store(store: SqlStore, known: tuple[int, bytes]) -> None:
    """S1: if the store lacks a replica's last change, the poll says so and writes no heartbeat."""
    enabled(store)
    with pytest.raises(StoreRolledBackError):
        store.poll(beat("one", *known))
    assert store.replicas() == []


def test_a_rollback_is_noticed(bench: Bench) -> None:
    """S1: replicas notice a restored store, even if others have gone on with it."""
    store = bench.open()
    enabled(store)
    store.close()
    bench.save()
    store = bench.open()
    applied(store, revoking("acme"))
    last = store.poll(beat())[-1]
    store.close()
    bench.go_back()
    store = bench.open()
    with pytest.raises(StoreRolledBackError):
        store.poll(at("one", last))
    enabled(store, "other")
    with pytest.raises(StoreRolledBackError):
        store.poll(at("one", last))
    store.close()


def test_a_reconciled_store_is_begun_with_anew(bench: Bench) -> None:
    """S1: once an operator has decided, a replica registers with the store as it is."""
    store = bench.open()
    enabled(store)
    store.close()
    bench.save()
    store = bench.open()
    applied(store, revoking("acme"))
    last = store.poll(beat())[-1]
    store.close()
    bench.go_back()
    store = bench.open()
    with pytest.raises(StoreRolledBackError):
        store.poll(at("one", last))
    assert not store.reconciled()
    store.reconcile("the standby lagged")
    assert store.reconciled()
    anew = store.register(at("one", last))
    # The decision itself is the second entry.
    assert (anew.number, store.reconciled()) == (2, False)
    assert store.poll(anew) == []
    store.close()


def test_what_was_decided_before_does_not_count_again(bench: Bench) -> None:
    """S1: a decision that a replica knew does not count for a later rollback."""
    store = bench.open()
    store.reconcile("of old")
    store.close()
    bench.save()
    store = bench.open()
    store.register(beat())
    assert not store.reconciled()
    store.reconcile("of now")
    assert store.reconciled()
    store.poll(beat())
    assert not store.reconciled()
    store.close()
    bench.go_back()
    store = bench.open()
    store.register(beat())
    assert not store.reconciled()
    store.close()


def test_a_replica_begins_at_the_newest_change(store: SqlStore) -> None:
    """S4: a replica that registers starts from the state that it reads."""
    enabled(store)
    [noted] = store.poll(beat("other"))
    registered = store.register(beat("one"))
    assert registered == at("one", noted)
    assert store.poll(registered) == []


def test_replicas_and_their_silence(store: SqlStore, clock: FakeClock) -> None:
    """S2, R4: a poll is a heartbeat, and one clock measures silence, not the replica's own."""
    for name in ("two", "one"):
        store.register(replace(beat(name), time=5))
    enabled(store)
    clock.advance(3.0)
    [noted] = store.poll(beat("one"))
    store.poll(at("one", noted))
    clock.advance(2.5)
    rows = store.replicas()
    assert [(r.replica, r.applied, r.max_staleness) for r in rows] == [
        ("one", 1, 120.0),
        ("two", 0, 120.0),
    ]
    assert [r.silent_for for r in rows] == pytest.approx([2.5, 5.5])
    store.leave("two")
    assert [r.replica for r in store.replicas()] == ["one"]


def test_a_refusal_is_seen_and_numbered(store: SqlStore) -> None:
    """F2, S7: a refusal is an observation and one numbered change."""
    seen = Observation(
        "root:ab12", Health.ACCESS_DENIED, NOW, NOW, None, "no", "id-1", can_unwrap=False
    )
    store.refused("ab12", seen, "one")
    assert store.observations(["root:ab12"]) == {"root:ab12": seen}
    assert [n.root for n in store.poll(beat())] == ["ab12"]


def test_a_refusal_that_is_told_again_names_its_kek(store: SqlStore) -> None:
    """F4: a repeated refusal concerns one KEK, and names it."""
    observation = Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW)
    store.refused("ab12", observation, "one", b"k" * 16)
    [noted] = store.poll(beat())
    assert (noted.root, noted.kek, noted.cluster) == ("ab12", b"k" * 16, None)


def test_observations_replace_each_other(store: SqlStore) -> None:
    """S7: the last observation counts, and takes no number."""
    first = Observation("root:a", Health.HEALTHY, NOW, NOW, NOW, can_wrap=True, can_unwrap=True)
    other = Observation(
        "kek:b", Health.KEK_MISMATCH, NOW, NOW, message="odd\0text", can_unwrap=False
    )
    store.observe([first, other])
    last = replace(first, health=Health.UNREACHABLE, last_check=NOW + 9, can_wrap=None)
    store.observe([last])
    store.observe([])
    found = store.observations(["root:a", "kek:b", "root:none"])
    assert found == {"root:a": last, "kek:b": replace(other, message="oddtext")}
    assert store.observations([]) == {}
    assert store.poll(beat()) == []


def moved(condition: Condition, seen: Observation) -> Transition:
    """Makes the transition of a root key that was healthy."""
    return Transition(seen.subject.removeprefix("root:"), condition, Condition.HEALTHY, seen)


def test_a_transition_is_told_once(store: SqlStore) -> None:
    """S0, S7: of several replicas that see a transition, one writes its entry."""
    seen = Observation("root:ab12", Health.HEALTHY, NOW, NOW, can_wrap=False, can_unwrap=True)
    lost = moved(Condition.CANNOT_WRAP, seen)
    well = moved(Condition.HEALTHY, replace(seen, can_wrap=True))
    for found in (lost, lost, well, well, lost):
        store.observe([found.seen], [found])
    noted = store.poll(beat())
    assert [(n.kind, n.root, n.is_news) for n in noted] == [(EntryKind.HEALTH, "ab12", False)] * 3
    # What the log has told counts, not what an observation remembers.
    store.refused("ab12", replace(seen, health=Health.KEY_DISABLED), "one")
    store.observe([well.seen], [well])
    assert [n.kind for n in store.poll(at("one", noted[-1]))] == [
        EntryKind.REFUSAL,
        EntryKind.HEALTH,
    ]


def test_the_refusal_of_one_kek_is_no_transition(store: SqlStore) -> None:
    """F4: a root key is as it was when its KMS refuses a single KEK."""
    seen = Observation("root:ab12", Health.HEALTHY, NOW, NOW)
    store.refused("ab12", replace(seen, health=Health.KEY_DISABLED), "one", b"k" * 16)
    store.observe([seen], [moved(Condition.HEALTHY, seen)])
    assert [n.kind for n in store.poll(beat())] == [EntryKind.REFUSAL]


def test_replicas_see_a_transition_at_once(store: SqlStore) -> None:
    """S0: concurrent replicas write one entry for each root key."""
    many = 4
    roots = [Observation(f"root:{i:04}", Health.HEALTHY, NOW, NOW) for i in range(20)]
    found = [moved(Condition.CANNOT_WRAP, seen) for seen in roots]
    with ThreadPoolExecutor(many) as pool:
        for done in [pool.submit(store.observe, roots, found) for _ in range(many)]:
            done.result()
    assert sorted(n.root or "" for n in store.poll(beat())) == [f"{i:04}" for i in range(20)]


def test_an_error_is_kept_with_its_reason(store: SqlStore) -> None:
    """F5: an observation has the reason and the missing permission, and the next one has not."""
    seen = Observation(
        "root:a",
        Health.HEALTHY,
        NOW,
        NOW,
        NOW,
        "not allowed",
        "id-1",
        can_wrap=False,
        can_unwrap=True,
        reason="ACCESS_DENIED",
        missing_permission="kms:Encrypt\0",
    )
    store.observe([seen])
    kept = replace(seen, missing_permission="kms:Encrypt")
    assert store.observations(["root:a"]) == {"root:a": kept}
    well = replace(seen, message="", request_id="", can_wrap=True, reason="", missing_permission="")
    store.observe([well])
    assert store.observations(["root:a"]) == {"root:a": well}


def test_what_was_issued_is_kept(bench: Bench) -> None:
    """C2: an external id stays for good, whoever issues another one; the log has each issue."""
    store = bench.open()
    assert store.external_id("organization:acme") is None
    assert store.issue_external_id("organization:acme", "one", an_event()) == "one"
    assert store.issue_external_id("organization:acme", "two", an_event()) == "one"
    assert store.issue_external_id("cluster:acme", "three", an_event(), "acme") == "three"
    noted = store.poll(beat())
    assert [(n.kind, n.cluster, n.is_news) for n in noted] == [
        (EntryKind.IDENTITY, None, False),
        (EntryKind.IDENTITY, "acme", False),
    ]
    store.close()
    store = bench.open()
    assert store.external_id("organization:acme") == "one"
    assert store.external_id("cluster:acme") == "three"
    assert store.external_id("acme") is None
    store.close()


def test_of_those_who_issue_at_once_one_does(store: SqlStore) -> None:
    """C2: concurrent callers get the same id, which the store then keeps."""
    many = 8
    start = Barrier(many)

    def issue(number: int) -> str:
        start.wait()
        return store.issue_external_id("acme", f"id-{number}", an_event())

    with ThreadPoolExecutor(many) as pool:
        answers = set(pool.map(issue, range(many)))
    assert answers == {store.external_id("acme")}


def test_a_last_use_never_goes_back(store: SqlStore, clock: FakeClock) -> None:
    """S7: the latest time counts, whichever replica writes last, and takes no number."""
    a, b, c = (bytes([n]) * 16 for n in range(3))
    clock.advance(60.0)
    store.used({b: NOW + 5, a: NOW + 7})
    store.used({a: NOW + 6, b: NOW + 9})
    store.used({})
    assert store.seen((), [a, b, c]).last_uses == {a: NOW + 7, b: NOW + 9}
    assert store.seen((), [b]).last_uses == {b: NOW + 9}
    assert store.seen((), []).last_uses == {}
    assert store.poll(beat()) == []


def test_no_last_use_is_yet_to_come(store: SqlStore, clock: FakeClock) -> None:
    """S3: a time from a fast clock does not hide later, true times."""
    kek = b"k" * 16
    store.used({kek: NOW + DAY * 1000})
    assert store.seen((), [kek]).last_uses == {kek: NOW}
    clock.advance(2.0)
    store.used({kek: NOW + 1500})
    assert store.seen((), [kek]).last_uses == {kek: NOW + 1500}


def test_replicas_tell_their_last_uses_at_once(store: SqlStore, clock: FakeClock) -> None:
    """S7: replicas that write the same KEKs in any order wait for each other and lose nothing."""
    keks = [n.to_bytes(16, "big") for n in range(1_100)]
    clock.advance(60.0)

    def tell(turn: int) -> None:
        order = keks if turn % 2 else list(reversed(keks))
        store.used(dict.fromkeys(order, NOW + turn))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tell, range(4)))
    assert store.seen((), keks).last_uses == dict.fromkeys(keks, NOW + 3)


def test_a_heartbeat_tells_what_a_replica_serves(store: SqlStore) -> None:
    """S2: each replica says which regions it serves, or that it serves all, in each heartbeat."""
    store.register(beat("all"))
    store.register(replace(beat("some"), serves=frozenset({"us", "eu"})))
    told = {row.replica: row.serves for row in store.replicas()}
    assert told == {"all": None, "some": frozenset({"eu", "us"})}
    store.poll(replace(beat("some"), serves=frozenset({"eu"})))
    store.poll(replace(beat("all"), serves=frozenset({"us"})))
    told = {row.replica: row.serves for row in store.replicas()}
    assert told == {"all": frozenset({"us"}), "some": frozenset({"eu"})}
    store.poll(beat("all"))
    assert {row.replica: row.serves for row in store.replicas()}["all"] is None


def test_work_is_claimed_by_one(store: SqlStore, clock: FakeClock) -> None:
    """F5, S7: of concurrent claims of a piece of work one succeeds, until its time is over."""

    def claims() -> int:
        with ThreadPoolExecutor(6) as pool:
            return sum(len(one) for one in pool.map(lambda _: store.claim({"ab": 1_000}), range(6)))

    assert claims() == 1
    assert claims() == 0
    assert store.claim({"cd": 1_000}) == {"cd"}
    clock.advance(1.5)
    assert claims() == 1
    assert claims() == 0
    assert store.poll(beat()) == []


def test_works_are_claimed_each_by_itself(store: SqlStore, clock: FakeClock) -> None:
    """F5: of several works in one claim, each is free or not by itself, and after its own time."""
    assert store.claim({}) == frozenset()
    assert store.claim({"eu": 1_000, "us": 9_000}) == {"eu", "us"}
    clock.advance(2.0)
    assert store.claim({"us": 9_000, "eu": 1_000, "asia": 1_000}) == {"eu", "asia"}
    # Whoever may not wait for the last claim takes a work from it.
    assert store.claim({"eu": 1_000, "us": 0, "asia": 1_000}) == {"us"}
    # A claim from the future was made before somebody set the clock back.
    clock.advance(-60.0)
    assert store.claim({"eu": 1_000, "us": 9_000}) == {"eu", "us"}
    many = {f"work-{n:04}": 1_000 for n in range(1_200)}
    assert store.claim(many) == many.keys()
    assert store.claim(many) == frozenset()


def test_claims_of_turns_that_nobody_renews_are_pruned(store: SqlStore, clock: FakeClock) -> None:
    """A region that is gone leaves no rows for ever; what is renewed, and no claim, stays."""
    gone, swept = turn_subject("gone", "ab", own=True), turn_subject("eu", "ab", own=False)
    others = [f"sweep{mark}eu" for mark in "9;"]
    now = int(clock.wall() * 1000)
    store.observe([Observation(one, Health.HEALTHY, now, now) for one in others])
    assert store.claim({gone: 1_000, swept: 1_000}) == {gone, swept}
    clock.advance(DAY - 1)
    store.prune_turns(int(clock.wall() * 1000))
    assert store.observations([gone, swept]).keys() == {gone, swept}
    assert store.claim({swept: 1_000}) == {swept}
    # A replica whose clock is fast removes nothing early.
    store.prune_turns(int(clock.wall() * 1000) + 9 * DAY * 1000)
    assert store.observations([gone, swept]).keys() == {gone, swept}
    clock.advance(2)
    store.prune_turns(int(clock.wall() * 1000))
    assert store.observations([gone, swept, *others]).keys() == {swept, *others}
    assert store.claim({gone: 1_000, swept: 3 * 1_000}) == {gone}


def test_works_that_are_claimed_at_once_go_to_one_each(store: SqlStore) -> None:
    """S7, F5: replicas that claim many works at once, in any order, wait for no deadlock."""
    names = [f"sweep:region-{n}:ab" for n in range(40)]

    def claim(turn: int) -> frozenset[str]:
        order = names if turn % 2 else list(reversed(names))
        return store.claim(dict.fromkeys(order, 60_000))

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(claim, range(6)))
    assert sorted(name for one in taken for name in one) == sorted(names)


def test_claims_are_nobodys_health(store: SqlStore, clock: FakeClock) -> None:
    """F5: the rows of the sweep's claims change no list and no count, and stay."""
    enabled(store)
    before = store.census(0)
    assert before == {("ENABLED", "UNKNOWN"): 1}
    assert store.claim({"sweep:ab": 2 * DAY * 1000})
    assert store.census(0) == before
    assert names(store, health=Health.UNKNOWN) == ["acme"]
    assert names(store, health=Health.HEALTHY) == []
    assert store.cannot_wrap(0) == 0
    clock.advance(DAY + 1)
    store.prune(int(clock.wall() * 1000), KEEP)
    assert not store.claim({"sweep:ab": 2 * DAY * 1000})


def seen_of(cluster: Cluster, *, health: Health = Health.HEALTHY, at: int = NOW) -> Observation:
    """Makes the observation of a cluster's KEK."""
    return Observation(f"kek:{cluster.regions[0].newest.kek_id.hex()}", health, at, at)


def test_the_sweep_chooses_who_waited_longest(store: SqlStore) -> None:
    """F4: samples have each root key's least recently checked KEK, then refused ones."""
    made = [enabled(store, f"c-{n}") for n in range(8)]
    root = made[0].regions[0].newest.current.root_id
    prefix = root[:2]
    [first] = store.samples(prefix)
    assert (first.region, first.root, first.refused) == ("eu", root, False)
    store.observe([seen_of(c, at=NOW + n) for n, c in enumerate(made)])
    assert [s.cluster for s in store.samples(prefix)] == ["c-0"]
    store.observe([seen_of(made[0], at=NOW + 100)])
    store.observe([seen_of(c, health=Health.ACCESS_DENIED) for c in made[2:]])
    chosen = store.samples(prefix)
    assert (chosen[0].cluster, chosen[0].refused) == ("c-1", False)
    assert [s.refused for s in chosen[1:]] == [True] * 4
    other = "00" if prefix != "00" else "01"
    assert store.samples(other) == []


def test_a_uri_has_one_user_for_each_root_key(store: SqlStore) -> None:
    """C7: of the enabled regions under a uri, one that may be chosen stands for each root key."""
    cluster = applied(
        store,
        enabling(a_cluster("a", [a_region("eu", "local:one"), a_region("us", "local:two")])),
    ).cluster
    enabled(store, "b")
    newer = a_region("eu", "local:one")
    wrap = replace(newer.newest.current, key_version="2")
    newer = replace(newer, generations=(replace(newer.newest, current=wrap),))
    applied(store, enabling(a_cluster("c", [newer])))
    first = cluster.region("eu").newest.current.root_id

    def users(*hidden: str) -> dict[str, str]:
        found = store.users_of("local:one", lambda user: user.cluster not in hidden)
        assert all(user.region == "eu" and user.organization is None for user in found)
        return {user.root: user.cluster for user in found}

    assert len(users()) == 2
    assert users()[first] in {"a", "b"}
    assert users("a")[first] == "b"
    assert list(users("a", "b").values()) == ["c"]
    assert store.users_of("local:none", lambda _: True) == []
    applied(store, revoking("c"))
    assert list(users()) == [first]


def test_the_sweep_leaves_out_what_is_revoked(store: SqlStore) -> None:
    """F5: samples leave out a revoked region, and have those of other root keys."""
    whole = {
        name: applied(
            store, enabling(a_cluster(name, [a_region("eu", "local:one"), a_region("us", uri)]))
        ).cluster
        for name, uri in (("a", "local:two"), ("b", "local:two"))
    }
    ids = {r.newest.current.root_id for r in whole["a"].regions}

    def chosen() -> list[tuple[str, str]]:
        found = [s for root in sorted(ids) for s in store.samples(root)]
        return sorted((s.cluster, s.region) for s in found)

    assert sorted(region for _, region in chosen()) == ["eu", "us"]
    applied(store, revoking("a"))
    assert chosen() == [("b", "eu"), ("b", "us")]
    applied(store, revoking("b"))
    assert chosen() == []


def test_regions_are_counted_by_their_own_health(store: SqlStore) -> None:
    """S7: a region has its KEK's health if that is not healthy, else its root key's."""
    made = [enabled(store, f"c-{n}") for n in range(4)]
    one = applied(store, enabling(a_cluster("other", [a_region("eu", "local:two")]))).cluster
    applied(store, revoking("c-3"))
    assert store.census(0) == {("ENABLED", "UNKNOWN"): 4, ("REVOKED", "UNKNOWN"): 1}
    root = root_subject(made[0].regions[0].newest.current)
    store.observe([Observation(root, Health.HEALTHY, NOW, NOW), seen_of(made[1])])
    assert store.census(0) == {
        ("ENABLED", "HEALTHY"): 3,
        ("ENABLED", "UNKNOWN"): 1,
        ("REVOKED", "HEALTHY"): 1,
    }
    store.observe([seen_of(made[n], health=Health.ACCESS_DENIED) for n in (0, 3)])
    store.observe([seen_of(one, health=Health.UNREACHABLE)])
    assert store.census(0) == {
        ("ENABLED", "HEALTHY"): 2,
        ("ENABLED", "ACCESS_DENIED"): 1,
        ("ENABLED", "UNREACHABLE"): 1,
        ("REVOKED", "ACCESS_DENIED"): 1,
    }


def test_the_sweep_chooses_region_by_region(store: SqlStore) -> None:
    """F5: a root key that several regions use has a sample for each, of the regions asked for."""
    made = [
        applied(
            store,
            enabling(a_cluster(name, [a_region(region, "local:one") for region in ("eu", "us")])),
        ).cluster
        for name in ("a", "b")
    ]
    follows = replace(a_region("us", "local:one"), policy=RegionPolicy(auto_rotate=True))
    applied(store, enabling(a_cluster("c", [follows])))
    root = made[0].regions[0].newest.current.root_id

    def chosen(*serves: str) -> list[tuple[str, str, bool]]:
        found = store.samples(root[:2], frozenset(serves) if serves else None)
        return [(one.region, one.cluster, one.followed) for one in found]

    store.observe([_kek_seen(cluster, region) for cluster in made[:1] for region in ("eu", "us")])
    store.observe([_kek_seen(made[1], "us", at=NOW + 1)])
    [(_, _, followed), *_] = chosen("us")
    assert followed
    assert chosen("eu") == [("eu", "b", False)]
    assert store.roots_in_use(root[:2]) == [("eu", root), ("us", root)]
    assert store.roots_in_use(root[:2], frozenset({"us"})) == [("us", root)]
    for name in ("a", "b"):
        applied(store, revoking(name))
    assert store.roots_in_use(root[:2]) == [("us", root)]
    assert chosen("us") == [("us", "c", True)]
    assert chosen() == chosen("eu", "us") == [*chosen("eu"), *chosen("us")]
    assert chosen("asia") == []


def _kek_seen(cluster: Cluster, region: str, *, at: int = NOW) -> Observation:
    kek = cluster.region(region).newest.kek_id.hex()
    return Observation(f"kek:{kek}", Health.HEALTHY, at, at)


def test_regions_that_no_replica_serves_are_counted(store: SqlStore) -> None:
    """S12: enabled regions count by name, without those that replicas serve; few names only."""
    for name, regions in (("a", ("eu", "us", "ap")), ("b", ("eu", "us")), ("c", ("eu",))):
        applied(store, enabling(a_cluster(name, [a_region(region) for region in regions])))
    assert store.unserved(frozenset(), 10) == {"eu": 3, "us": 2, "ap": 1}
    assert store.unserved(frozenset({"eu", "mars"}), 10) == {"us": 2, "ap": 1}
    assert store.unserved(frozenset(), 2) == {"eu": 3, "us": 2}
    applied(store, revoking("a"))
    assert store.unserved(frozenset({"eu"}), 10) == {"us": 1}
    assert store.unserved(frozenset({"eu", "us", "ap"}), 10) == {}


def test_who_lags_behind_a_version_is_found_by_region(store: SqlStore) -> None:
    """F5: of the clusters under a root key, those whose region of a name must follow it."""
    follows = RegionPolicy(auto_rotate=True)
    for name, regions in (("a", ("eu", "us")), ("b", ("us",))):
        made = [replace(a_region(region), policy=follows) for region in regions]
        applied(store, enabling(a_cluster(name, made)))
    applied(store, enabling(a_cluster("still", [a_region("us")])))
    newer = a_region("us", "local:one").newest.current.key_version + "0"

    def behind(region: str, version: str = newer) -> list[str]:
        return names(store, key_uri="local:one", behind=(region, version))

    assert behind("eu") == ["a"]
    assert behind("us") == ["a", "b"]
    assert behind("ap") == []
    assert behind("us", newer[:-1]) == []
    applied(store, revoking("a", "us"))
    assert behind("us") == ["b"]
    assert behind("eu") == ["a"]


def test_root_keys_that_only_unwrap_are_counted(store: SqlStore) -> None:
    """F5: the count has exactly the regions whose next rotation would fail."""
    cluster = enabled(store)
    root = f"root:{cluster.regions[0].newest.current.root_id}"
    seen = Observation(root, Health.HEALTHY, NOW, NOW, NOW, can_wrap=False, can_unwrap=True)
    assert store.cannot_wrap(0) == 0
    store.observe([seen])
    assert store.cannot_wrap(0) == 1
    store.observe([replace(seen, health=Health.KEY_DISABLED)])
    assert store.cannot_wrap(0) == 0
    store.observe([seen])
    applied(store, revoking("acme"))
    assert store.cannot_wrap(0) == 0


def test_the_root_key_that_has_failed_for_longest_is_found(store: SqlStore) -> None:
    """S12: of each health the oldest counts, and only of root keys that an enabled region uses."""
    cluster = enabled(store)
    root = f"root:{cluster.regions[0].newest.current.root_id}"
    seen = Observation(root, Health.UNREACHABLE, NOW - 5_000, NOW)
    store.observe([seen, replace(seen, subject="root:of-nobody", since=1)])
    assert store.failing(0) == {("UNREACHABLE", ""): NOW - 5_000}
    store.observe([replace(seen, health=Health.HEALTHY)])
    assert store.failing(0) == {}
    store.observe([replace(seen, health=Health.KEY_DISABLED)])
    assert store.failing(0) == {("KEY_DISABLED", ""): NOW - 5_000}
    applied(store, revoking("acme"))
    assert store.failing(0) == {}


def test_whose_kek_it_is(store: SqlStore) -> None:
    """A KEK's id leads to its cluster."""
    cluster = enabled(store)
    assert store.owner_of(cluster.regions[0].newest.kek_id) == "acme"
    assert store.owner_of(bytes(16)) is None


def names(store: Store, after: str = "", limit: int = 100, **which: object) -> list[str]:
    """Lists the names of the clusters that pass a filter."""
    make: Callable[..., ClusterFilter] = ClusterFilter
    found = store.clusters(make(**which), after, limit)
    return [c.name for c in found if isinstance(c, Cluster)]


def test_lists_are_paged_by_name(store: SqlStore) -> None:
    """A page follows the last name of the one before, and holds whole clusters."""
    whole = {n: enabled(store, n) for n in ("b", "a", "d", "c-1", "c")}
    assert names(store, "", 2) == ["a", "b"]
    assert names(store, "b", 2) == ["c", "c-1"]
    assert names(store, "c-1", 2) == ["d"]
    assert names(store, "d", 2) == []
    assert store.clusters(ClusterFilter(), "", 9) == [whole[n] for n in sorted(whole)]


def test_lists_of_a_prefix(store: SqlStore) -> None:
    """A prefix lists the names that begin with it, by bytes, page by page."""
    for name in ("a", "A", "a-1", "a.1", "a_z", "ab", "az", "b"):
        enabled(store, name)
    assert names(store, name_prefix="a") == ["a", "a-1", "a.1", "a_z", "ab", "az"]
    assert names(store, "a-1", 2, name_prefix="a") == ["a.1", "a_z"]
    assert names(store, name_prefix="az") == ["az"]
    assert names(store, name_prefix="a%") == names(
        store, name_prefix="\N{GREEK SMALL LETTER ALPHA}"
    )


def test_filters(store: SqlStore) -> None:
    """Each filter narrows the list; the key uri is that of the current root key."""
    enabled(store, "a", organization="org")
    b = enabled(store, "b")
    enabled(store, "c", organization="org")
    applied(store, rotating(b))
    applied(store, revoking("c"))
    assert names(store, organization="org") == ["a", "c"]
    assert names(store, state=State.REVOKED) == ["c"]
    assert names(store, organization="org", state=State.ENABLED) == ["a"]
    assert names(store, key_uri="local:two") == ["b"]
    assert names(store, key_uri="local:one") == ["a", "c"]
    assert names(store, "a", organization="org", key_uri="local:one") == ["c"]


def test_the_filter_of_what_a_caller_may_see(store: SqlStore) -> None:
    """C8: clusters that no entry covers are not read; a pattern's other characters are literal."""
    for name, organization in (
        ("a-1", "org"),
        ("a_1", "org"),
        ("ab1", "org"),
        ("b", "org-2"),
        ("c", None),
    ):
        enabled(store, name, organization=organization)

    def seen(*covered: Coverage) -> list[str]:
        return names(store, covered=covered)

    assert seen() == []
    assert seen(Coverage(None, None)) == ["a-1", "a_1", "ab1", "b", "c"]
    assert seen(Coverage(("a_*",), None)) == ["a_1"]
    assert seen(Coverage(("a*1", "c"), None)) == ["a-1", "a_1", "ab1", "c"]
    assert seen(Coverage(("*",), ("org",))) == ["a-1", "a_1", "ab1"]
    assert seen(Coverage(None, ("org*",))) == ["a-1", "a_1", "ab1", "b"]
    assert seen(Coverage(("b",), ("org",))) == []
    assert seen(Coverage(("b",), ("org",)), Coverage(("c",), None)) == ["c"]
    many = tuple(f"n-{number}*" for number in range(3_000))
    assert seen(Coverage((*many, "c"), None)) == ["c"]


def test_the_filter_of_health(store: SqlStore) -> None:
    """F4: a KEK's own refusal counts above its root key's health; UNKNOWN before any check."""
    one = enabled(store, "a").regions[0].newest
    assert names(store, health=Health.UNKNOWN) == ["a"]
    enabled(store, "b")
    root = Observation(f"root:{one.current.root_id}", Health.HEALTHY, NOW, NOW)
    kek = Observation(f"kek:{one.kek_id.hex()}", Health.KEK_MISMATCH, NOW, NOW)
    store.observe([root, kek])
    assert names(store, health=Health.UNKNOWN) == []
    assert names(store, health=Health.HEALTHY) == ["b"]
    assert names(store, health=Health.KEK_MISMATCH) == ["a"]
    store.observe([replace(kek, health=Health.HEALTHY)])
    assert names(store, health=Health.HEALTHY) == ["a", "b"]
    store.observe([replace(root, health=Health.KEY_DISABLED)])
    assert names(store, health=Health.KEY_DISABLED) == ["a", "b"]
    assert names(store, health=Health.HEALTHY) == []


def test_the_filter_of_what_wraps(store: SqlStore) -> None:
    """F5: the filter finds the regions whose next rotation would fail, whatever their health."""
    one = enabled(store, "a").regions[0].newest
    applied(store, rotating(enabled(store, "b")))
    enabled(store, "c")
    assert names(store, can_wrap=True) == names(store, can_wrap=False) == []
    root = Observation(f"root:{one.current.root_id}", Health.HEALTHY, NOW, NOW, can_wrap=False)
    store.observe([root])
    assert names(store, can_wrap=False) == ["a", "c"]
    assert names(store, "a", can_wrap=False, key_uri="local:one") == ["c"]
    assert names(store, can_wrap=True) == []
    store.observe([replace(root, health=Health.KEY_DISABLED)])
    assert names(store, can_wrap=False) == ["a", "c"]
    applied(store, revoking("c"))
    assert names(store, can_wrap=False) == ["a"]
    store.observe([replace(root, can_wrap=True)])
    assert (names(store, can_wrap=True), names(store, can_wrap=False)) == (["a"], [])


def test_what_is_old_goes(store: SqlStore, clock: FakeClock) -> None:
    """Requests are kept 24 h, entries as long as asked; the newest stays, for S1 to be checked."""
    store.register(beat("silent"))
    key = a_request()
    applied(store, enabling(a_cluster(), key))
    applied(store, revoking("acme"))
    applied(store, Change("acme", restored_of(store), an_event()))
    first, second, third = store.poll(beat())
    prune(store, clock)
    assert record_of(store, key) is not None
    clock.advance(DAY + 1)
    prune(store, clock)
    assert record_of(store, key) is None
    assert store.replicas() == []
    [pruning] = store.poll(at("one", third))
    assert (pruning.kind, pruning.is_news) == (EntryKind.PRUNING, False)
    # The checkpoint names the second entry, which was the last to go.
    assert store.poll(at("one", second)) == [third, pruning]
    with pytest.raises(StoreStaleError):
        store.poll(at("one", first))
    enabled(store, "other")
    assert [n.number for n in decided(store.poll(at("one", third)))] == [5]
    assert audited(store) == 1


def prune(store: SqlStore, clock: FakeClock) -> None:
    """Prunes as a replica does every hour."""
    store.prune(int(clock.wall() * 1000), KEEP)


def decided(noted: list[Entry]) -> list[Entry]:
    """Returns the decisions, without the entries of pruning itself."""
    return [entry for entry in noted if entry.kind is EntryKind.DECISION]


def restored_of(store: SqlStore) -> Decide:
    """Makes the restoration of cluster acme as the store has it."""
    seen = store.cluster("acme")
    assert seen is not None
    return restored(seen, [region.name for region in seen.regions], NOW)


def quiet_day(store: SqlStore, clock: FakeClock, *beats: Heartbeat) -> None:
    """Lets more than a day pass in which nothing changes and replicas poll."""
    clock.advance(DAY + 3600)
    for each in beats:
        assert store.poll(each) == []


def test_a_quiet_day_is_not_a_rollback(store: SqlStore, clock: FakeClock) -> None:
    """S11: the first change after a day without one takes no replica's last change away."""
    for name in ("one", "two", "three"):
        store.register(beat(name))
    enabled(store)
    [noted] = store.poll(beat("one"))
    fleet = [at(name, noted) for name in ("one", "two", "three")]
    quiet_day(store, clock, *fleet)
    applied(store, revoking("acme"))
    prune(store, clock)
    for each in fleet:
        assert [n.number for n in store.poll(each)] == [2]
        prune(store, clock)
    assert [r.applied for r in store.replicas()] == [1, 1, 1]


def test_pruning_passes_no_live_cursor(store: SqlStore, clock: FakeClock) -> None:
    """S11: what a live replica has not applied stays, however old it is."""
    for name in ("fast", "slow"):
        store.register(beat(name))
    numbered = [enabled(store, f"c-{i}").name for i in range(5)]
    noted = store.poll(beat("slow"))
    clock.advance(DAY + 1)
    store.poll(at("slow", noted[1]))
    prune(store, clock)
    assert [n.cluster for n in decided(store.poll(at("slow", noted[1])))] == numbered[2:]
    clock.advance(121.0)
    # It has stopped by itself, so nothing waits for it any longer.
    prune(store, clock)
    with pytest.raises(StoreStaleError, match="begins anew"):
        store.poll(at("slow", noted[1]))
    assert decided(store.poll(at("slow", noted[3]))) == noted[4:]


def test_a_replica_that_pruning_passed_begins_anew(store: SqlStore, clock: FakeClock) -> None:
    """S11: every poll of such a replica says so and writes no heartbeat; it may register again."""
    started = store.register(beat("one"))
    for i in range(3):
        enabled(store, f"c-{i}")
    noted = store.poll(beat("other"))
    clock.advance(DAY + 1)
    prune(store, clock)
    for _ in range(2):
        with pytest.raises(StoreStaleError):
            store.poll(started)
    assert "one" not in {r.replica for r in store.replicas()}
    *_, newest = store.poll(at("other", noted[-1]))
    anew = store.register(started)
    assert (anew.number, anew.entry_id) == (newest.number, newest.entry_id)
    assert store.poll(anew) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_another_id_is_a_rollback_after_pruning_too(
    store: SqlStore, clock: FakeClock, number: int
) -> None:
    """S11: a change that is there, or was the last to go, counts by its id alone."""
    for i in range(3):
        enabled(store, f"c-{i}")
    clock.advance(DAY + 1)
    prune(store, clock)
    with pytest.raises(StoreStaleError if number < 2 else StoreRolledBackError):
        store.poll(beat("one", number, b"x" * 16))
    with pytest.raises(StoreRolledBackError):
        store.poll(beat("one", 99, b"x" * 16))


def test_a_long_backlog_is_pruned_in_parts(
    store: SqlStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11: however much goes, no transaction holds the store for long."""
    monkeypatch.setattr(log_pruning, "_PRUNED", 4)
    store.apply([enabling(a_cluster(f"c-{i:02}")) for i in range(14)])
    noted = store.poll(beat())
    clock.advance(DAY + 1)
    prune(store, clock)
    assert decided(store.poll(at("one", noted[12]))) == noted[13:]
    with pytest.raises(StoreStaleError):
        store.poll(at("one", noted[11]))


def test_a_checkpoint_that_is_put_back_is_noticed(bench: Bench) -> None:
    """S11: without the checkpoint that pruning left, missing changes are a rollback."""
    store = bench.open()
    for i in range(3):
        enabled(store, f"c-{i}")
    noted = store.poll(beat())
    database, _ = store.parts
    [before] = database.read(lambda c: [tuple(c.execute(select(log_head)).one())])
    bench.clock.advance(DAY + 1)
    store.poll(at("one", noted[0]))
    prune(store, bench.clock)
    assert store.poll(at("one", noted[0])) == noted[1:]
    bench.clock.advance(DAY + 1)
    prune(store, bench.clock)
    values = dict(zip(log_head.columns.keys(), before, strict=True))
    database.write(lambda c: c.execute(update(log_head).values(values)))
    with pytest.raises(StoreRolledBackError):
        store.poll(at("one", noted[0]))
    store.close()


def test_replicas_prune_at_once(store: SqlStore, clock: FakeClock) -> None:
    """S11: of several prunings at once, the one that went furthest leaves the checkpoint."""
    store.apply([enabling(a_cluster(f"c-{i:02}")) for i in range(30)])
    noted = store.poll(beat())
    clock.advance(DAY + 1)
    store.poll(at("one", noted[-1]))
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(prune, store, clock) for _ in range(6)]:
            done.result()
    assert decided(store.poll(at("one", noted[28]))) == noted[29:]


def test_a_backlog_is_polled_in_pages(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: however many changes there are, a poll reads a page; no page hides a rollback."""
    monkeypatch.setattr(log_polling, "POLL_PAGE", 5)
    store.apply([enabling(a_cluster(f"c-{i:02}")) for i in range(13)])
    cursor, sizes, read = beat(), [], []
    while page := store.poll(cursor):
        sizes.append(len(page))
        read += page
        cursor = at("one", page[-1])
        assert [r.applied for r in store.replicas()] == [read[-1].number - len(page)]
    assert sizes == [5, 5, 3]
    assert [n.number for n in read] == list(range(1, 14))
    with pytest.raises(StoreRolledBackError):
        store.poll(beat("one", 4, b"x" * 16))
    database, _ = store.parts
    database.write(lambda c: c.execute(delete(log).where(log.c.number == 3)))
    with pytest.raises(StoreRolledBackError):
        store.poll(beat())


def test_pages_go_on_from_a_checkpoint(
    store: SqlStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11, S12: a page that begins at the last change that was pruned is whole."""
    monkeypatch.setattr(log_polling, "POLL_PAGE", 2)
    store.apply([enabling(a_cluster(f"c-{i}")) for i in range(3)])
    first = store.poll(beat())
    [third] = store.poll(at("one", first[-1]))
    clock.advance(DAY + 1)
    prune(store, clock)
    kept = store.poll(at("one", third))
    assert [e.kind for e in kept] == [EntryKind.KEPT] * 2
    [pruning] = store.poll(at("one", kept[-1]))
    store.apply([enabling(a_cluster(f"d-{i}")) for i in range(3)])
    assert [n.number for n in store.poll(at("one", first[-1]))] == [3, 4]
    assert [n.number for n in store.poll(at("one", third))] == [4, 5]
    assert [n.number for n in store.poll(at("one", pruning))] == [7, 8]


def test_pruning_keeps_every_floor(
    store: SqlStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: a cluster's floor is in the log for ever; an entry carries it forward."""
    monkeypatch.setattr(log_pruning, "_PRUNED", 3)
    monkeypatch.setattr(log_pruning, "_AT_ONCE", 2)
    made = [enabled(store, f"c-{i}") for i in range(7)]
    changed = made[1]
    for _ in range(3):
        clock.advance(DAY + 1)
        changed = applied(store, revoking("c-1")).cluster
        prune(store, clock)
    with store.parts[0].engine.connect() as connection:
        floors = select(log.c.cluster, log.c.version).where(log.c.version.is_not(None))
        kept = sorted(tuple(row) for row in connection.execute(floors))
    # Each once, but for the changes of c-1 that are not old.
    assert {name for name, _ in kept} == {cluster.name for cluster in made}
    assert [v for name, v in kept if name != "c-1"] == [1] * 6
    assert store.cluster("c-0") == made[0]
    assert store.cluster("c-1") == changed
    assert audited(store, "c-6") == 1


def test_pruning_passes_over_nothing_that_was_changed(store: SqlStore, clock: FakeClock) -> None:
    """S11, A3: an entry that somebody changed or took out is not pruned away unseen."""
    for i in range(4):
        enabled(store, f"c-{i}")
    clock.advance(DAY + 1)
    database, _ = store.parts
    for edit in (
        update(log).where(log.c.number == 2).values(caller="another"),
        delete(log).where(log.c.number == 2),
    ):
        database.write(partial(Connection.execute, statement=edit))
        with pytest.raises(RowNotAuthenticError, match="entry 2 of the log"):
            prune(store, clock)
    assert store.cluster("c-0") is not None


SIEM: Final = CursorKey("local", "siem")
ONE, TWO = b"1" * 16, b"2" * 16
"""The sessions of two readers."""

SCOPE: Final = b"scope of a reader"


def take(store: SqlStore, begin: Entry, session: bytes = ONE, key: CursorKey = SIEM) -> Cursor:
    """Takes a cursor over, or makes it after an entry."""
    event = an_event("rpc:cursor:make")
    return store.take_cursor(key, session, SCOPE, placed(begin), event)


def placed(noted: Entry) -> Position:
    """Returns the position of an entry."""
    return Position(noted.number, noted.entry_id)


def several(store: SqlStore, count: int) -> list[Entry]:
    """Makes clusters, and returns the entries of the log."""
    store.apply([enabling(a_cluster(f"c-{i:02}")) for i in range(count)])
    return store.poll(beat())


def test_pruning_passes_no_readers_cursor(store: SqlStore, clock: FakeClock) -> None:
    """S11: what a live cursor's reader has not dealt with stays, however old it is."""
    noted = several(store, 5)
    take(store, noted[1])
    clock.advance(DAY + 1)
    prune(store, clock)
    assert decided(store.poll(at("one", noted[1]))) == noted[2:]
    store.advance_cursor(SIEM, ONE, SCOPE, placed(noted[3]))
    clock.advance(121.0)  # Until the replica that has just polled counts no longer.
    prune(store, clock)
    with pytest.raises(StoreStaleError):
        store.poll(at("one", noted[1]))
    assert decided(store.poll(at("one", noted[3]))) == noted[4:]
    store.drop_cursor(SIEM, an_event("rpc:cursor:delete"))
    clock.advance(DAY + 1)
    prune(store, clock)
    with pytest.raises(StoreStaleError):
        store.poll(at("one", noted[3]))


def test_a_cursor_that_appears_while_others_prune_is_not_passed(
    store: SqlStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11: pruning looks again once no cursor can appear any more."""
    noted = several(store, 5)
    clock.advance(DAY + 1)
    look = cursors.lowest
    looks: list[None] = []

    def late(connection: Connection, seal: Seal) -> int | None:
        looks.append(None)
        # The first look comes before the cursor is there.
        return None if len(looks) == 1 else look(connection, seal)

    take(store, noted[1])
    monkeypatch.setattr(cursors, "lowest", late)
    prune(store, clock)
    assert len(looks) > 2
    assert decided(store.poll(at("one", noted[1]))) == noted[2:]


def test_the_later_reader_has_the_cursor(store: SqlStore, clock: FakeClock) -> None:
    """S0: two readers with one cursor: the earlier one moves it no more, and it goes on there."""
    noted = several(store, 4)
    made = take(store, noted[0])
    assert (made.position, made.created_at) == (placed(noted[0]), int(clock.wall() * 1000))
    moved = store.advance_cursor(SIEM, ONE, SCOPE, placed(noted[1]))
    # The entry about the cursor itself is behind it, too.
    assert (moved.cursor.position, moved.behind) == (placed(noted[1]), 3)
    taken = take(store, noted[3], TWO)
    assert (taken.position, taken.session) == (placed(noted[1]), TWO)
    with pytest.raises(CursorTakenError):
        store.advance_cursor(SIEM, ONE, SCOPE, placed(noted[2]))
    back = store.advance_cursor(SIEM, TWO, SCOPE, placed(noted[0]))
    assert back.cursor.position == placed(noted[1])


def test_a_cursor_moves_only_to_what_the_log_has(store: SqlStore) -> None:
    """S1: a position of another history, of the future or of another scope moves no cursor."""
    noted = several(store, 3)
    take(store, noted[0])
    for wrong in (Position(2, b"x" * 16), Position(99, b"x" * 16)):
        with pytest.raises(ResumeTokenInvalidError):
            store.advance_cursor(SIEM, ONE, SCOPE, wrong)
        with pytest.raises(ResumeTokenInvalidError):
            store.check_position(wrong)
        with pytest.raises(ResumeTokenInvalidError):
            store.take_cursor(CursorKey("local", "b"), ONE, SCOPE, wrong, an_event())
    with pytest.raises(ResumeTokenInvalidError):
        store.advance_cursor(SIEM, ONE, b"another scope", placed(noted[2]))
    [report] = store.cursors()
    assert report.cursor.position == placed(noted[0])
    for key in (CursorKey("another", "siem"), CursorKey("local", "none")):
        with pytest.raises(CursorNotFoundError):
            store.advance_cursor(key, ONE, SCOPE, placed(noted[2]))
        with pytest.raises(CursorNotFoundError):
            store.drop_cursor(key, an_event())


def test_a_cursor_begins_nowhere_that_was_pruned(store: SqlStore, clock: FakeClock) -> None:
    """S11: a reader that asks for entries that are gone hears so."""
    noted = several(store, 4)
    clock.advance(DAY + 1)
    prune(store, clock)
    with pytest.raises(ResumeTokenExpiredError):
        take(store, noted[0])
    with pytest.raises(ResumeTokenExpiredError):
        store.check_position(START)
    store.check_position(placed(noted[2]))
    assert take(store, noted[2]).position == placed(noted[2])


def test_a_cursor_that_nobody_advances_expires(store: SqlStore, clock: FakeClock) -> None:
    """S11: its reader and the log hear of it, and pruning no longer waits for it."""
    noted = several(store, 4)
    take(store, noted[0])
    other = CursorKey("local", "quick")
    take(store, noted[0], key=other)

    def expire() -> list[Cursor]:
        return store.expire_cursors(int(clock.wall() * 1000), 2 * DAY * 1000)

    clock.advance(DAY)
    # On a quiet day the same position shows that the reader lives.
    store.advance_cursor(other, ONE, SCOPE, placed(noted[0]))
    assert expire() == []
    clock.advance(DAY + 1)
    [expired] = expire()
    assert (expired.key, expired.position) == (SIEM, placed(noted[0]))
    assert expire() == []
    *_, told = store.poll(at("one", noted[3]))
    assert (told.kind, told.cluster) == (EntryKind.PRUNING, None)
    for refused in (
        lambda: take(store, noted[0], TWO),
        lambda: store.advance_cursor(SIEM, ONE, SCOPE, placed(noted[1])),
    ):
        with pytest.raises(CursorExpiredError):
            refused()
    store.advance_cursor(other, ONE, SCOPE, placed(noted[2]))
    prune(store, clock)
    with pytest.raises(StoreStaleError):
        store.poll(at("one", noted[0]))
    store.drop_cursor(SIEM, an_event())
    assert [r.cursor.key for r in store.cursors()] == [other]


def test_a_fast_clock_lets_no_cursor_expire(store: SqlStore, clock: FakeClock) -> None:
    """S11: cursors expire by the store's clock, however far ahead a replica's clock is."""
    [noted] = several(store, 1)
    take(store, noted)
    assert store.expire_cursors(int(clock.wall() * 1000) + 99 * DAY * 1000, DAY * 1000) == []


def test_cursors_show_how_far_behind_they_are(store: SqlStore, clock: FakeClock) -> None:
    """S0: in entries, and by how long the first of them has waited."""
    noted = several(store, 1)
    take(store, noted[0])
    [entry] = store.poll(at("one", noted[0]))
    store.advance_cursor(SIEM, ONE, SCOPE, placed(entry))
    [report] = store.cursors()
    assert (report.behind, report.waiting) == (0, 0)
    clock.advance(10)
    enabled(store)
    clock.advance(30)
    enabled(store, "another")
    [report] = store.cursors()
    assert report.behind == 2
    assert 30_000 <= report.waiting < 40_000


def test_cursors_are_bounded(store: SqlStore) -> None:
    """S11: no caller can keep the log from being pruned by cursors without number."""
    [noted] = several(store, 1)
    for i in range(PER_OWNER):
        take(store, noted, key=CursorKey("local", f"c-{i}"))
    with pytest.raises(TooManyCursorsError):
        take(store, noted, key=CursorKey("local", "one-more"))
    take(store, noted, TWO, CursorKey("local", "c-0"))
    take(store, noted, key=CursorKey("another", "c-0"))


MANY = 70_000
"""More than any database takes as parameters of one statement."""


def test_no_number_of_observations_is_too_many(store: SqlStore, clock: FakeClock) -> None:
    """S12: statements name no more subjects at once than every database takes."""
    seen = [Observation(f"root:{i:04}", Health.HEALTHY, NOW, NOW) for i in range(1_500)]
    store.observe(seen)
    subjects = [f"root:{i:04}" for i in range(MANY)]
    assert store.observations(subjects) == {each.subject: each for each in seen}
    used = {i.to_bytes(16, "big"): NOW for i in range(1_500)}
    store.used(used)
    assert store.seen((), [i.to_bytes(16, "big") for i in range(MANY)]).last_uses == used
