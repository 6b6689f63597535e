"""Clocks that are set by hours, a replica's and the database's: watches, cursors, counts of use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builders import an_event
from callers import EVERYTHING
from fakes import ElsewhereClock
from keyfold_server.domain.cursors import CursorKey
from keyfold_server.domain.errors import StoreStaleError
from keyfold_server.domain.log import Position
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.usage import MINUTE, UsageFilter
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.store.opening import open_store
from replicas import House, Member, house_in, spin, until
from watching import EVENTS, reader

HOURS = 3 * 3_600.0
DAY_MS = 24 * 3_600 * 1_000
HOUR_MS = 3_600 * 1_000

BOTH = WatchRequest(states=True, events=True)

each_way = pytest.mark.parametrize("step", [HOURS, -HOURS], ids=["hours-on", "hours-back"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives replicas on one store."""
    async with house_in(tmp_path) as made:
        yield made


def a_replicas(house: House, database: ElsewhereClock, step: float) -> None:
    """Sets the replicas' clock alone."""
    house.clock.step_wall(step)
    database.step_wall(-step)


def the_databases(_: House, database: ElsewhereClock, step: float) -> None:
    """Sets the database's clock alone."""
    database.step_wall(step)


def all_of_them(house: House, _: ElsewhereClock, step: float) -> None:
    """Sets the one clock of the machine of both."""
    house.clock.step_wall(step)


each_clock = pytest.mark.parametrize("set_clock", [a_replicas, the_databases, all_of_them])

SetClock = Callable[[House, ElsewhereClock, float], None]


def apart(house: House, folder: Path) -> ElsewhereClock:
    """Gives the store a clock of its own, as a database on another machine has it."""
    elsewhere = ElsewhereClock(house.clock)
    house.store.close()
    house.store = open_store(f"sqlite:///{house.file}", folder / "service.key", clock=elsewhere)
    return elsewhere


async def counted(member: Member) -> dict[int, int]:
    """Returns the counts of use by their minute."""
    page = await member.replica.usage.page(EVERYTHING, UsageFilter(), 0, "")
    found: dict[int, int] = {}
    for each in page.counts:
        found[each.key.time] = found.get(each.key.time, 0) + each.count
    return found


def use(member: Member) -> None:
    """Counts a use of acme, as the server does after a call."""
    time = member.house.clock.wall()
    member.replica.usage_recorder.add(time, "Wrap", "acme", "eu", "me", "OK")


@each_way
@each_clock
async def test_uses_are_counted_once_and_now(
    tmp_path: Path, house: House, step: float, set_clock: SetClock
) -> None:
    """S7: each use is counted once, in the minute that the store's clock shows when it is written.

    The minute may be the one before it: a replica writes every half minute.
    """
    database = apart(house, tmp_path)
    one = await house.replica()
    await one.enable("acme")
    await one.wrap("acme")
    total = 0
    for way in (step, -step, step):
        before = await counted(one)
        use(one)
        house.clock.advance(10)
        set_clock(house, database, way)
        use(one)
        house.clock.advance(10)
        use(one)
        await one.poll()
        await one.replica.usage_recorder.flush()
        total += 3
        after = await counted(one)
        assert sum(after.values()) == total
        now = int(database.wall() * 1_000)
        fresh = {minute for minute in after if after[minute] != before.get(minute)}
        assert all(now - 3 * MINUTE < minute <= now for minute in fresh)


async def test_counts_that_waited_keep_their_minutes(house: House) -> None:
    """S7: a store that was away for hours gets each use in the minute in which it was."""
    one = await house.replica()
    await one.enable("acme")
    await one.wrap("acme")
    use(one)
    await one.replica.usage_recorder.flush()
    began = int(house.clock.wall() * 1_000)
    for _ in range(3):
        house.clock.advance(3_600)
        use(one)
    await one.poll()
    await one.replica.usage_recorder.flush()
    assert await counted(one) == {
        began - began % MINUTE + hour * 60 * MINUTE: 1 for hour in range(4)
    }


async def test_a_clock_set_back_ages_no_heartbeat(house: House) -> None:
    """R8: the age counts on by the clock that nobody can set, and the stream goes on."""
    one = await house.replica()
    await one.enable("acme")
    await one.poll()
    async with reader(one, BOTH) as each:
        await each.snapshot()
        house.clock.step_wall(-HOURS)
        house.clock.advance(6)
        await one.replica.watches.tick()
        await spin()
        assert each.beats[-1].age == 6.0
        await one.poll()
        house.clock.advance(6)
        await one.replica.watches.tick()
        await spin()
        assert each.beats[-1].age == 6.0
        assert each.ended is None


async def test_a_clock_set_on_ends_a_watch_which_then_loses_nothing(house: House) -> None:
    """S3, R8: the machine may have slept, so the stream ends, and goes on after the next poll."""
    one, two = (await house.replica()).hurry(), (await house.replica()).hurry()
    await one.enable("acme")
    await house.after(0)
    async with reader(one, BOTH) as each:
        await each.snapshot()
        house.clock.step_wall(HOURS)
        await one.replica.watches.tick()
        assert isinstance(await each.end(), StoreStaleError)
        token = each.token
    await two.poll()
    await two.revoke("acme")
    await one.poll()
    async with reader(one, replace(BOTH, resume_token=token)) as again:
        await until(lambda: bool(again.numbers))
        assert again.last("acme").look.cluster is not None
        assert again.numbers == [2]
        await one.replica.watches.tick()
        await spin()
        assert again.beats[-1].age == 0.0


@each_way
@each_clock
async def test_a_place_in_the_log_is_good_after_a_clock_was_set(
    tmp_path: Path, house: House, step: float, set_clock: SetClock
) -> None:
    """S11: hours too many or too few prune nothing of a day, and end no token and no cursor."""
    database = apart(house, tmp_path)
    one = (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    async with reader(one, EVENTS) as each:
        await each.begun()
        token = each.token
    [first, *_] = house.store.poll(Heartbeat("another", 0, b"", 120, 0))
    siem, entry = CursorKey("local", "siem"), Position(first.number, first.entry_id)
    house.store.take_cursor(siem, b"s" * 16, b"scope", entry, an_event())
    for way in (step, -step):
        set_clock(house, database, way)
        await one.poll()
        # A reader that lives says so every few seconds.
        house.store.advance_cursor(siem, b"s" * 16, b"scope", entry)
        now = int(house.clock.wall() * 1_000)
        assert house.store.expire_cursors(now, HOUR_MS) == []
        house.store.prune(now, DAY_MS)
        async with reader(one, replace(EVENTS, resume_token=token)) as again:
            await again.begun()
            assert again.ended is None
