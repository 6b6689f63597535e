"""Round trips to a store in PostgreSQL (protocol S13), counted on the wire.

A store across a continent is 80 ms away, and a Revoke waits that long for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import postgres
from builders import NOW, an_event, enabled
from fakes import FakeClock
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.seats import Seat
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore
from organization_builders import organized
from replicas import House, Member
from round_trips import TripCounter

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


class FarHouse(House):
    """A house whose store is in PostgreSQL, behind a counter of round trips."""

    def __init__(self, folder: Path, server: postgres.Server, stack: ExitStack) -> None:
        self.server = server
        self._stack = stack
        self.name = server.borrow()
        stack.callback(server.give_back, self.name)
        self.counter = stack.enter_context(TripCounter(server.port))
        self._key = postgres.a_service_key(folder)
        super().__init__(folder)

    def a_clock(self) -> FakeClock:
        return postgres.DatabaseClock(self.server, self.name)

    def a_store(self, folder: Path) -> SqlStore:
        url = self.server.url(self.name).replace(str(self.server.port), str(self.counter.port))
        password = self.server.password_file
        store = open_store(url, self._key, clock=self.clock, password_file=password)
        return self._stack.enter_context(closing(store))

    def count(self) -> int:
        """Returns the round trips since the last count."""
        trips = len(self.counter.trips)
        self.counter.trips.clear()
        return trips


@pytest.fixture(params=["15", "18"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarHouse]:
    """Gives a house whose store is far away."""
    with ExitStack() as stack:
        yield FarHouse(tmp_path, postgres.shared(request.param), stack)


def test_a_poll(house: FarHouse) -> None:
    """S13: a poll takes one round trip without news, and at most two with news."""
    store = house.store
    beat = store.register(BEAT)
    store.poll(beat)
    house.count()
    assert store.poll(beat) == []
    assert house.count() <= 1
    enabled(store)
    house.count()
    [news] = store.poll(beat)
    assert house.count() <= 2
    assert store.poll(replace(beat, number=news.number, entry_id=news.entry_id)) == []
    assert house.count() <= 1


def test_a_cold_load(house: FarHouse) -> None:
    """S13: a cluster that is not in memory is read in one round trip."""
    enabled(house.store)
    house.count()
    assert house.store.cluster("acme") is not None
    assert house.count() <= 1


async def prepared(house: FarHouse) -> Member:
    """Starts a replica, and opens every connection that it needs."""
    member = await house.replica()
    await member.enable("other", request_id="e")
    await member.revoke("other", request_id="r")
    house.count()
    return member


async def test_a_revocation(house: FarHouse) -> None:
    """S13: Revoke commits within four round trips, its reads for the caller's rights included."""
    member = await prepared(house)
    await member.enable()
    house.count()
    await member.revoke(request_id="revoke")
    assert house.counter.to_commit_of("INSERT INTO log ") <= 4
    await member.stop()


async def test_enabling_and_rotating(house: FarHouse) -> None:
    """S13: Enable and Rotate take at most five round trips beside their calls of the KMS."""
    member = await prepared(house)
    result = await member.enable(request_id="enable")
    await member.replica.reports.report(result.cluster, member.rights)
    assert house.count() <= 5
    rotated = await member.rotate(request_id="rotate")
    assert rotated.report is not None
    assert house.count() <= 5
    await member.stop()


async def test_organizations(house: FarHouse) -> None:
    """S13: a change of an organization takes five round trips, and an Enable of its one more."""
    member = await prepared(house)
    house.count()
    organized(house.store, links=0)
    assert house.count() <= 5
    result = await member.enable(organization="org", request_id="first")
    await member.replica.reports.report(result.cluster, member.rights)
    assert house.count() <= 6
    await member.stop()


async def test_a_seat(house: FarHouse) -> None:
    """S13: an Enable that takes a seat reads the owner's seats in one further round trip."""
    member = await prepared(house)
    pool = [Seat(f"seat-{n}", "FAKE", "eu", f"role/s{n}") for n in range(3)]
    for owner in ("cluster:acme", "organization:org"):
        house.store.reserve_seats(owner, pool, 1, an_event("rpc:seat:reserve"))
    organized(house.store, links=0)
    house.count()
    asked = {"eu": KeySpec("FAKE", "fake:one", "seat")}
    result = await member.enable(specs=asked, request_id="enable")
    await member.replica.reports.report(result.cluster, member.rights)
    assert house.count() <= 6
    result = await member.enable("beta", asked, organization="org", request_id="enable")
    await member.replica.reports.report(result.cluster, member.rights)
    assert house.count() <= 7
    rotated = await member.rotate({"eu": KeySpec("FAKE", "fake:two", "seat")}, request_id="rotate")
    assert rotated.report is not None
    assert house.count() <= 6
    await member.stop()
