"""Replicas with thousands of KEKs: how often they call a KMS, and whom its refusal reaches.

Real replicas share one store, and a clock that the tests set. Each replica has a way of its own
to the KMS, which counts its calls and can be cut.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, cast

import pytest

from builders import a_cluster, an_event
from fakes import FakeProvider, Hang
from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.changes import Change, created
from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.errors import KeyDisabledError, KeyfoldError, UnreachableError
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.provider import KeyDescription, KeyProvider, Unwrapped, Wrapped
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.data.cache_entries import ClusterView
from keyfold_server.service.loading.freshness import REFRESH_AT
from replicas import House, Member, entered, spin

KEKS: Final = 2_000
ROOTS: Final = 100
TTL: Final = 60.0
STEP: Final = 6.0
"""Seconds between two uses of each root key."""

SOONEST: Final = REFRESH_AT * 0.9
"""Part of the TTL before which a replica does not prove a root key again."""

GROUP: Final = 500
"""Changes in one transaction, and concurrent calls while a test makes a replica warm."""


class Way:
    """One replica's way to the KMS, whose calls a test can count, hold and cut."""

    type = "FAKE"

    def __init__(self, provider: FakeProvider, now: Callable[[], float]) -> None:
        self._provider = provider
        self._now = now
        self.asked: list[tuple[str, float]] = []
        self.cut = False
        self.held: Hang | None = None

    def canonical(self, key: RootKey) -> RootKey:
        return self._provider.canonical(key)

    def account(self, key: RootKey) -> str:
        return self._provider.account(key)

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        self._set_out()
        self._provider.authenticate(key, budget=budget)

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        self._set_out()
        return self._provider.describe(key, budget=budget)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        self._set_out()
        return self._provider.wrap(key, plaintext, binding, budget=budget)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        self.asked.append((key.uri, self._now()))
        held = self.held
        self._set_out()
        unwrapped = self._provider.unwrap(key, key_version, ciphertext, binding, budget=budget)
        if held is not None:
            held.hold(budget)
        return unwrapped

    def _set_out(self) -> None:
        if self.cut:
            raise UnreachableError("the way to the fake KMS is cut")


class Fleet(House):
    """A house with many clusters, each with one KEK, spread evenly over root keys."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ways: dict[Member, Way] = {}

    async def member(self) -> Member:
        """Starts a replica with a way of its own to the KMS."""
        member = await self.replica(max_clusters=2 * KEKS, cache_ttl=TTL)
        way = self.ways[member] = Way(self.provider, self.clock.monotonic)
        member.replica._kms._providers = lambda _: cast("KeyProvider", way)
        return member

    def stock(self, keks: int, roots: int) -> None:
        """Stores clusters 0, 1, 2 …; number n is under root key n modulo `roots`."""
        for root in range(roots):
            self.provider.create_key(f"customer{root}.key")
        numbers = range(keks)
        for start in range(0, keks, GROUP):
            changes = [self._enabling(n, n % roots) for n in numbers[start : start + GROUP]]
            assert not [r for r in self.store.apply(changes) if isinstance(r, Exception)]

    def _enabling(self, number: int, root: int) -> Change:
        name, key = cluster(number), RootKey("FAKE", uri(root))
        binding = Binding(name, "eu", os.urandom(16), None)
        wrapped = self.provider.wrap(
            key, bytes(binding.payload(bytearray(os.urandom(KEY_SIZE)))), binding, budget=1.0
        )
        at = int(self.clock.wall() * 1000)
        groups = KeyGroups(key.uri, self.provider.account(key))
        wrap = Wrap(1, key, wrapped.key_version, None, wrapped.ciphertext, at, groups)
        region = Region(
            name="eu",
            state=State.ENABLED,
            state_since=at,
            key_spec=KeySpec("FAKE", key.uri),
            policy=RegionPolicy(),
            generations=(Generation(binding.kek_id, 1, at, wrap),),
        )
        return Change(name, created(a_cluster(name, [region])), an_event())

    def unwraps(self, member: Member) -> int:
        """Counts a replica's unwraps so far."""
        return len(self.ways[member].asked)


def cluster(number: int) -> str:
    """Returns a cluster's name."""
    return f"cluster-{number:05}"


def uri(root: int) -> str:
    """Returns a root key's uri; each is in an account of its own."""
    return f"fake:customer{root}.key"


async def warm_up(member: Member, keks: int) -> None:
    """Makes a replica use every cluster once, without reading them one by one."""
    after = ""
    while page := member.house.store.clusters(ClusterFilter(), after, GROUP):
        for found in page:
            assert isinstance(found, Cluster)
            member.cache.put_view(
                ClusterView(found, member.loads._failures._timing, ServedRegions())
            )
            after = found.name
    numbers = range(keks)
    for start in range(0, keks, GROUP):
        await asyncio.gather(*(member.wrap(cluster(n)) for n in numbers[start : start + GROUP]))


def served(member: Member, numbers: range) -> int:
    """Counts the clusters that a replica serves from memory alone, right now."""
    return sum(member.serves(cluster(n)) for n in numbers)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Gives a house without clusters."""
    built = Fleet(tmp_path)
    try:
        yield built
    finally:
        for way in built.ways.values():
            way.cut = False
            if way.held is not None:
                way.held.release()
        await built.close()


@pytest.mark.timeout(180)
async def test_a_kms_is_asked_by_root_key_not_by_kek(fleet: Fleet) -> None:
    """F1: 2,000 KEKs in use cost a replica one call per root key and refresh.

    The refresh comes at 80 % of the TTL, less up to a tenth of that, so no call waits for a KMS.
    """
    ttls = 3
    fleet.stock(KEKS, ROOTS)
    members = [await fleet.member() for _ in range(2)]
    for member in members:
        await warm_up(member, KEKS)
        # A KEK enters memory by an unwrap of its own, and by one.
        assert fleet.unwraps(member) == KEKS
    for way in fleet.ways.values():
        way.asked.clear()
    began = fleet.clock.monotonic()
    steps = int(ttls * TTL / STEP)
    for step in range(steps):
        await fleet.after(STEP)
        # One KEK under each root key, another one each time.
        first = step * ROOTS % KEKS
        for member in members:
            await member.look()
            assert served(member, range(first, first + ROOTS)) == ROOTS
    for way in fleet.ways.values():
        assert len(way.asked) <= ROOTS * ttls / SOONEST
        asked: dict[str, list[float]] = {uri(root): [began] for root in range(ROOTS)}
        for where, at in way.asked:
            asked[where].append(at)
        for times in asked.values():
            pauses = [b - a for a, b in itertools.pairwise(times)]
            assert min(pauses) >= TTL * SOONEST
            assert max(pauses) <= TTL * REFRESH_AT + STEP
    for member in members:
        assert served(member, range(KEKS)) == KEKS


async def test_a_refusal_stops_a_replica_that_cannot_ask(fleet: Fleet) -> None:
    """F2: a key that the KMS refuses one replica leaves the memory of one that is cut off, too.

    That ends its grace, and it uses the key again only after an unwrap of its own.
    """
    keks, roots = 200, 10
    under = range(3, keks, roots)
    fleet.stock(keks, roots)
    one, two = [await fleet.member() for _ in range(2)]
    for member in (one, two):
        await warm_up(member, keks)
    fleet.ways[two].cut = True
    fleet.provider.disable(uri(3))
    for _ in range(2):
        # In use, due for a refresh, and then past the last proof of the one that cannot ask.
        await fleet.after(TTL * 0.9)
        for member in (two, one):
            calls = (member.wrap(cluster(n)) for n in range(roots))
            await asyncio.gather(*calls, return_exceptions=True)
            await member.look()
    await two.poll()
    assert served(one, under) == served(two, under) == 0
    # Nothing changed for the other root keys: proven for one replica, on grace for the other.
    for member in (one, two):
        assert served(member, range(keks)) == keks - len(under)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            await two.wrap(cluster(3))
        await fleet.after(5.0)
    # The key comes back, and the other replica's proof is not this one's.
    fleet.provider.enable(uri(3))
    await fleet.after(10.0)
    await one.wrap(cluster(3))
    await two.poll()
    with pytest.raises(KeyfoldError) as refused:
        await two.wrap(cluster(3))
    assert isinstance(refused.value, UnreachableError)
    fleet.ways[two].cut = False
    await fleet.after(10.0)
    before = fleet.unwraps(two)
    await two.wrap(cluster(3))
    assert fleet.unwraps(two) > before
    assert two.serves(cluster(3))


async def test_an_unwrap_from_before_a_refusal_counts_for_nothing(fleet: Fleet) -> None:
    """F2, R2: an unwrap that began before another replica's refusal was applied proves nothing.

    It succeeds after that, yet no call and no memory uses its result: the replica unwraps again.
    """
    fleet.stock(4, 1)
    one, two = [await fleet.member() for _ in range(2)]
    for number in (0, 1):
        await one.wrap(cluster(number))
    await two.wrap(cluster(1))
    way = fleet.ways[two]
    way.held = Hang()
    waiting = asyncio.create_task(two.wrap(cluster(0), within=30.0))
    await entered(way.held)
    fleet.provider.disable(uri(0))
    one.loads.drop_all()
    with pytest.raises(KeyDisabledError):
        await one.wrap(cluster(0))
    await one.settle()
    await two.poll()
    assert not two.serves(cluster(1))
    before = fleet.unwraps(two)
    held, way.held = way.held, None
    held.release()
    with pytest.raises(KeyDisabledError):
        await waiting
    assert fleet.unwraps(two) == before + 1
    assert not two.serves(cluster(0))
    fleet.provider.enable(uri(0))
    await fleet.after(10.0)
    await two.wrap(cluster(0))
    assert two.serves(cluster(0))


async def test_three_thousand_cold_calls_make_one_kms_call(fleet: Fleet) -> None:
    """W1: concurrent misses on one KEK make each replica one call to the KMS and one read."""
    callers = 3_000
    fleet.stock(1, 1)
    members = [await fleet.member() for _ in range(2)]
    blob = await members[0].wrap(cluster(0))
    for member in members:
        member.loads.drop_all()
        way = fleet.ways[member]
        way.held = Hang()
        before, reads = fleet.unwraps(member), member.line.counts["cluster"]
        calls = [asyncio.create_task(member.unwrap(blob, cluster(0))) for _ in range(callers)]
        await entered(way.held)
        await spin(50)
        way.held.release()
        opened = Counter(answer.plaintext for answer in await asyncio.gather(*calls))
        assert opened == {b"k" * 32: callers}
        assert fleet.unwraps(member) == before + 1
        assert member.line.counts["cluster"] == reads + 1
