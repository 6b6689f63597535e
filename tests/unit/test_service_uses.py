"""Last uses (protocol S7): known for each generation, without cost to a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyfold_server.domain.errors import StoreUnavailableError
from keyfold_server.service.data.cache_entries import CachedKek
from keyfold_server.service.observed import uses
from replicas import House, Member, house_in, under


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme, of two generations."""
    member = await house.replica()
    await member.enable()
    await member.wrap()
    await house.after(5)
    await member.rotate(new_generation=True)
    return member


def keks(house: House, cluster: str = "acme") -> list[bytes]:
    """Reads the ids of a cluster's KEKs, oldest first."""
    stored = house.store.cluster(cluster)
    assert stored is not None
    return [generation.kek_id for generation in stored.regions[0].generations]


def stored(house: House, cluster: str = "acme") -> list[int | None]:
    """Reads from the store when each generation was last used."""
    found = house.store.seen((), keks(house, cluster)).last_uses
    return [found.get(kek_id) for kek_id in keks(house, cluster)]


def now(house: House) -> int:
    """Returns the time as the store keeps it."""
    return int(house.clock.wall() * 1000)


async def shown(member: Member, cluster: str = "acme") -> list[int | None]:
    """Reads from the status when each generation was last used."""
    report = (await member.status(cluster)).regions[0]
    return [report.last_uses.get(g.kek_id) for g in report.region.generations]


async def test_each_generation_tells_its_last_use(house: House, one: Member) -> None:
    """The status shows when each generation was last used, here and elsewhere."""
    began = now(house) - 5_000
    two = await house.replica()
    assert await shown(one) == [began, None]
    await house.after(7)
    blob = await one.wrap()
    wrapped = now(house)
    assert await shown(one) == [began, wrapped]
    await house.after(30)
    one.warm()
    await one.flush_uses()
    assert stored(house) == [began, wrapped + 30_000]
    await house.after(60)
    await two.unwrap(blob)
    assert await shown(two) == [began, wrapped + 90_000]
    await two.flush_uses()
    assert await shown(one) == [began, wrapped + 90_000]


async def test_uses_are_written_once(house: House, one: Member) -> None:
    """S7: a flush writes the KEKs used since the last flush, and nothing if none were."""
    await one.wrap()
    await one.flush_uses()
    written = one.line.counts["used"]
    for _ in range(3):
        await house.after(60)
        await one.flush_uses()
    assert one.line.counts["used"] == written
    await house.after(1)
    for _ in range(100):
        one.loads.freshness.run_due(house.clock.monotonic())
        await one.wrap()
    await house.after(1)
    await one.flush_uses()
    assert one.line.counts["used"] == written + 1


async def test_a_call_does_not_wait_for_the_store(house: House, one: Member) -> None:
    """R3: a call served from memory writes no use, however often it is made."""
    await one.wrap()
    before = one.line.counts.copy()
    for _ in range(100):
        one.warm()
    assert one.line.counts == before


async def test_what_leaves_memory_is_told_all_the_same(house: House, one: Member) -> None:
    """A KEK that is dropped, evicted or fetched again loses no use."""
    await one.wrap()
    used = now(house)
    await house.after(50)
    await one.look()  # Fetched again: another object in memory.
    one.loads.invalidate("acme")
    await house.after(1)
    await one.flush_uses()
    assert stored(house)[1] == used


async def test_a_refused_kek_keeps_its_last_use(house: House, one: Member) -> None:
    """F2: a refusal drops the KEKs from memory, but not their last uses."""
    await one.wrap()
    used = now(house)
    await house.after(50)
    house.provider.disable("fake:one")
    await one.look()
    assert not one.serves()
    await one.flush_uses()
    assert stored(house)[1] == used


async def test_at_ttl_0_uses_count(house: House, one: Member) -> None:
    """F1: the use of a KEK that served one call alone is recorded."""
    await one.enable("fresh", {"eu": under("fake:one", ttl=0)})
    await one.wrap("fresh")
    await one.flush_uses()
    assert stored(house, "fresh") == [now(house)]


async def test_asking_for_the_status_is_no_use(house: House, one: Member) -> None:
    """Neither a status nor the sweep uses a generation, though they open its KEK."""
    await one.enable("idle", {"eu": "fake:two"})
    await house.after(600)
    await one.status("idle")
    await one.sweep()
    await one.flush_uses()
    assert stored(house, "idle") == [None]
    assert await shown(one, "idle") == [None]


async def test_a_stop_writes_what_was_used(house: House, one: Member) -> None:
    """A server that drains loses no last use."""
    await one.wrap()
    await one.stop()
    assert stored(house)[1] == now(house)


async def test_uses_wait_for_the_store(house: House, one: Member) -> None:
    """S7: uses that the store did not take are written later, and statuses still succeed."""
    await one.wrap()
    used = now(house)
    one.line.fail("used", StoreUnavailableError("away"))
    one.line.fail("seen", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await one.flush_uses()
    assert await shown(one) == [used - 5_000, used]
    one.line.mend()
    one.loads.invalidate("acme")
    await house.after(60)
    await one.flush_uses()
    assert stored(house)[1] == used


async def test_collecting_uses_holds_up_no_call(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7: calls are answered between two parts of a flush, and their uses are not lost."""
    monkeypatch.setattr(uses, "_AT_ONCE", 1)
    await one.enable("b", {"eu": "fake:one"})
    for name in ("acme", "b"):
        await one.wrap(name)
    await one.flush_uses()
    await house.after(10)
    for name in ("acme", "b"):
        await one.wrap(name)
    parts = 0
    collect = one.replica._uses._record

    def calling(opened: CachedKek) -> None:
        nonlocal parts
        parts += 1
        collect(opened)
        # Answered between this part and the next, at a later time.
        asyncio.get_running_loop().call_soon(called)

    def called() -> None:
        house.clock.advance(0.5)
        one.warm("b")

    monkeypatch.setattr(one.replica._uses, "_record", calling)
    await one.flush_uses()
    assert parts == 2
    monkeypatch.undo()
    await one.flush_uses()
    assert stored(house, "b") == [now(house)]
