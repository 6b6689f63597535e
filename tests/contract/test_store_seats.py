"""Every store issues each seat once: it reserves seats, and gives each to one cluster-region."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from sqlalchemy import select

from builders import NOW, a_cluster, a_region, an_event, applied, enabling
from contract.test_store import STORES, Bench, beat
from contract.test_store_erasure import gone
from fakes import FakeClock
from keyfold_server.domain.changes import Change, with_regions
from keyfold_server.domain.errors import KeyfoldError, SeatsExhaustedError, SeatTakenError
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.seats import Seat, SeatClaim
from keyfold_server.store import schema
from keyfold_server.store.sql.store import SqlStore

ORG: Final = "organization:org"
POOL: Final = tuple(
    Seat(f"seat-{n}", "FAKE", "eu", f"role/{n}", (f"agent/{n}",)) for n in range(1, 4)
)


@pytest.fixture(params=STORES)
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


def reserved(store: SqlStore, owner: str = ORG, count: int = 1) -> list[str]:
    """Reserves seats, and returns the names of those that the owner has reserved."""
    return [s.seat.name for s in store.reserve_seats(owner, POOL, count, an_event())]


def taking(name: str, seat: str, owner: str = ORG) -> Change:
    """Returns the change that makes a cluster whose region eu takes a seat."""
    return replace(
        enabling(a_cluster(name, organization="org")), seats=(SeatClaim(seat, owner, "eu"),)
    )


def seats(store: SqlStore, owner: str = ORG) -> dict[str, str]:
    """Returns an owner's seats by name, each with the cluster that took it."""
    return {each.seat.name: each.cluster for each in store.issued_to(owner).seats}


def test_a_reserved_seat_stays_reserved(bench: Bench) -> None:
    """C2: an owner gets the same seat again until it is taken; the log has each reservation."""
    store = bench.open()
    assert store.issued_to(ORG).seats == ()
    assert reserved(store) == reserved(store) == ["seat-1"]
    assert reserved(store, "cluster:acme") == ["seat-2"]
    assert reserved(store, count=2) == ["seat-1", "seat-3"]
    assert [n.kind for n in store.poll(beat())] == [EntryKind.IDENTITY] * 3
    store.close()
    store = bench.open()
    issued = store.issued_to(ORG).seats
    assert [each.seat for each in issued] == [POOL[0], POOL[2]]
    assert not any(each.used for each in issued)
    assert len(store.issued_seats()) == 3
    with pytest.raises(SeatsExhaustedError, match="0 seats are free"):
        store.reserve_seats(ORG, POOL, 3, an_event())
    store.close()


def test_a_principal_is_never_issued_under_another_name(store: SqlStore) -> None:
    """C2: neither the name nor a principal of an issued seat makes another seat."""
    reserved(store)
    again = (Seat("seat-9", "FAKE", "eu", "role/1"), Seat("seat-8", "FAKE", "eu", "AGENT/1"))
    with pytest.raises(SeatsExhaustedError):
        store.reserve_seats("cluster:acme", again, 1, an_event())
    assert store.issued_to("cluster:acme").seats == ()


def test_a_seat_is_taken_with_the_region_or_not_at_all(store: SqlStore) -> None:
    """S8: the seat and the region are one change; what is not reserved for it takes nothing."""
    reserved(store)
    made = applied(store, taking("acme", "seat-1")).cluster
    (mine,) = store.issued_to(ORG).seats
    assert (mine.cluster, mine.cluster_uid, mine.taken_in) == ("acme", made.uid, "eu")
    for seat, owner in (("seat-1", ORG), ("seat-2", ORG), ("nope", ORG), ("seat-1", "cluster:x")):
        (result,) = store.apply([taking("beta", seat, owner)])
        assert isinstance(result, SeatTakenError)
    assert store.cluster("beta") is None
    assert reserved(store) == ["seat-2"]


def test_two_changes_of_a_batch_do_not_share_a_seat(store: SqlStore) -> None:
    """S8: the second one drops out alone."""
    reserved(store)
    first, second, third = store.apply(
        [taking("acme", "seat-1"), taking("beta", "seat-1"), enabling(a_cluster("gamma"))]
    )
    assert isinstance(second, SeatTakenError)
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    assert seats(store) == {"seat-1": "acme"}


def test_of_those_who_race_for_a_seat_one_gets_it(store: SqlStore) -> None:
    """C2: of many changes that take the last seat at once, exactly one is committed."""
    reserved(store)
    many = 8
    start = Barrier(many)

    def take(number: int) -> Exception | str:
        start.wait()
        (result,) = store.apply([taking(f"c-{number}", "seat-1")])
        return result if isinstance(result, Exception) else result.cluster.name

    with ThreadPoolExecutor(many) as pool:
        results = list(pool.map(take, range(many)))
    (winner,) = [each for each in results if isinstance(each, str)]
    assert sum(isinstance(each, KeyfoldError) for each in results) == many - 1
    assert seats(store) == {"seat-1": winner}


def test_of_those_who_reserve_at_once_each_gets_another(store: SqlStore) -> None:
    """C2: one seat is never reserved for two owners, and one owner gets one seat."""
    start = Barrier(6)

    def reserve(number: int) -> str:
        start.wait()
        return reserved(store, f"cluster:c-{number % 3}")[0]

    with ThreadPoolExecutor(6) as pool:
        given = list(pool.map(reserve, range(6)))
    assert sorted(given) == ["seat-1", "seat-1", "seat-2", "seat-2", "seat-3", "seat-3"]
    assert given[:3] == given[3:]


def test_an_erased_clusters_seats_go_to_nobody(store: SqlStore, clock: FakeClock) -> None:
    """C2, D5: neither a used seat nor a reserved one goes to a later cluster of the name."""
    owner = "cluster:acme"
    assert reserved(store, owner, 2) == ["seat-1", "seat-2"]
    alone = replace(enabling(a_cluster()), seats=(SeatClaim("seat-1", owner, "eu"),))
    old = applied(store, alone).cluster
    gone(store, clock, "acme", "eu")
    assert store.issued_to(owner).seats == ()
    assert seats(store, f"erased:{old.uid.hex()}") == {"seat-1": "acme", "seat-2": ""}
    again = replace(alone, seats=(SeatClaim("seat-2", owner, "eu"),))
    (result,) = store.apply([again])
    assert isinstance(result, SeatTakenError)
    assert reserved(store, owner) == ["seat-3"]


def test_a_regions_seat_is_in_the_log(store: SqlStore) -> None:
    """S0: the decision says which seat a region took."""
    reserved(store, count=2)
    made = applied(store, taking("acme", "seat-1")).cluster
    more = Change("acme", with_regions(made, [a_region("us")], NOW), an_event())
    applied(store, replace(more, seats=(SeatClaim("seat-2", ORG, "us"),)))
    told = store.parts[0].read(lambda c: list(c.execute(select(schema.log.c.decision)).scalars()))
    regions = [json.loads(each)["regions"] for each in told if each is not None]
    assert [{n: r["seat"] for n, r in each.items()} for each in regions] == [
        {"eu": "seat-1"},
        {"us": "seat-2"},
    ]
    first, second = store.issued_to(ORG).seats
    assert [(s.cluster_uid, s.taken_in) for s in (first, second)] == [
        (made.uid, "eu"),
        (made.uid, "us"),
    ]
