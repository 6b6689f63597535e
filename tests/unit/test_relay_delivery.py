"""The relay's delivery: at least once, in order, nothing left out; retries, parking, cursors."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import backoff
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.delivery import KNOCK_EVERY, Delivery, Ending, ParkedError
from keyfold_relay.meters import Meters
from keyfold_relay.source import CursorExpiredError, NotNowError
from keyfold_relay.targets import Limits, NotTakenError
from relay_fakes import FakeSource, FakeTarget, Refusing, TurnedClock
from replicas import until

CURSOR = "relay.siem"
DAY = 86_400.0


class Running:
    """A delivery under way."""

    def __init__(self, source: FakeSource, target: FakeTarget, park_after: float = 3 * DAY) -> None:
        self.clock = TurnedClock()
        self.meters = Meters()
        self.delivery = Delivery(
            "siem",
            CURSOR,
            pb.EventFilter(),
            target,
            source,
            meters=self.meters,
            park_after=park_after,
            clock=self.clock,  # type: ignore[arg-type]
        )
        self.task = asyncio.create_task(self.delivery.run())

    def metric(self, name: str, **labels: str) -> float | None:
        return self.meters.registry.get_sample_value(name, {"target": "siem", **labels})

    async def drained(self) -> Ending:
        self.delivery.stop()
        return await self.task


@asynccontextmanager
async def delivering(
    source: FakeSource, target: FakeTarget, park_after: float = 3 * DAY
) -> AsyncIterator[Running]:
    """Delivers for as long as the block runs."""
    running = Running(source, target, park_after)
    try:
        yield running
    finally:
        running.task.cancel()
        await asyncio.wait([running.task])


async def test_every_event_arrives_once_and_in_order_and_the_cursor_follows() -> None:
    """A healthy target gets the whole log in order, and the cursor ends behind the last event."""
    source, target = FakeSource(1_234), FakeTarget()
    async with delivering(source, target) as running:
        await target.has(1_234)
        assert await running.drained() is Ending.DRAINED
    assert target.got == list(range(1, 1_235))
    assert source.cursors[CURSOR] == 1_234
    assert max(target.batches) == 100
    assert running.metric("keyfold_relay_delivered_total") == 1_234


async def test_the_cursor_never_passes_what_the_target_has_not_taken() -> None:
    """Whenever the cursor moves, the target has all events up to there."""
    source, target = FakeSource(500), FakeTarget()
    advance = source.advance

    async def checked(cursor: str, session: str, token: str) -> None:
        assert target.got[-1] >= int(token)
        await advance(cursor, session, token)

    source.advance = checked  # type: ignore[method-assign]
    target.answer = Refusing(7)
    async with delivering(source, target) as running:
        await target.has(500)
        await running.drained()
    assert source.cursors[CURSOR] == 500


async def test_nothing_overtakes_a_batch_that_is_not_taken() -> None:
    """A target that fails for hours gets the same batch again, and then the rest in order."""
    source, target = FakeSource(150), FakeTarget()
    seen: list[int] = []
    refuse = Refusing(40)

    def answer(batch: Sequence[CloudEvent]) -> None:
        seen.append(batch[0].number)
        refuse(batch)

    target.answer = answer
    async with delivering(source, target) as running:
        await target.has(150)
        assert running.metric("keyfold_relay_retries_total") == 40
        assert running.delivery.state == "delivering"
        await running.drained()
    assert seen[:41] == [1] * 41
    assert target.got == list(range(1, 151))
    assert sum(running.clock.waits) > 3_600


async def test_an_event_that_comes_alone_goes_out_at_once() -> None:
    """No time is spent to collect a batch where the target does not ask for it."""
    source, target = FakeSource(), FakeTarget()
    async with delivering(source, target) as running:
        source.append()
        await target.has(1)
        assert running.clock.waits == []


async def test_a_batch_that_is_collected_waits_for_more() -> None:
    """A target that asks for it gets events of its whole time in one batch."""
    source, target = FakeSource(10), FakeTarget(Limits(1_000, 1_000_000, wait=60))
    async with delivering(source, target) as running:
        await target.has(10)
        assert target.batches == [10]
        assert running.clock.waits[0] == pytest.approx(60)


async def test_the_waits_grow_are_jittered_and_heed_retry_after_within_bounds() -> None:
    """The waits double up to five minutes; Retry-After counts up to an hour."""
    draw = random.Random(7)
    for failures in range(1, 30):
        most = min(300, 0.5 * 2 ** (failures - 1))
        waits = {backoff.wait(failures, None, draw) for _ in range(20)}
        assert most / 2 <= min(waits) < max(waits) <= most
    assert backoff.wait(1, 120.0) == 120.0
    assert backoff.wait(1, 10 * DAY) == 3_600.0
    assert backoff.wait(30, 1.0) >= 150


async def test_a_target_that_fails_for_days_is_parked_and_its_events_stay_in_the_log() -> None:
    """After `park_after` the target is parked and shows; the cursor stays; a knock goes on."""
    source, target = FakeSource(120), FakeTarget()
    attempts: list[float] = []
    states = set()
    running: Running

    def answer(batch: Sequence[CloudEvent]) -> None:
        attempts.append(running.clock.time)
        states.add((running.delivery.state, source.cursors[CURSOR]))
        if attempts[-1] - attempts[0] < 3 * DAY + 2.5 * KNOCK_EVERY:
            raise NotTakenError("it answered 500")

    target.answer = answer
    async with delivering(source, target) as running:
        await target.has(120)
        await running.drained()
    knocks = [after - before for before, after in pairwise(attempts)]
    assert ("parked", 0) in states
    assert KNOCK_EVERY in [pytest.approx(one, abs=1) for one in knocks]
    assert target.got == list(range(1, 121))
    assert running.metric("keyfold_relay_target_state", state="parked") == 0


@pytest.mark.parametrize("park_after", [DAY, 60.0])
async def test_a_clock_that_is_set_moves_no_attempt_and_no_parking(park_after: float) -> None:
    """Retries and parking count seconds that pass, however the machine's clock is set meanwhile."""
    source, target = FakeSource(120), FakeTarget()
    steps = itertools.cycle((-9 * 3_600.0, 9 * 3_600.0, 40 * DAY, -40 * DAY))
    attempts: list[float] = []
    parked: list[float] = []
    running: Running

    def answer(batch: Sequence[CloudEvent]) -> None:
        running.clock.ahead = next(steps)
        attempts.append(running.clock.time)
        assert (running.metric("keyfold_relay_lag_seconds") or 0.0) >= 0
        if running.delivery.state == "parked":
            parked.append(attempts[-2])
            return
        raise NotTakenError("it answered 500")

    target.answer = answer
    async with delivering(source, target, park_after) as running:
        await target.has(120)
        await running.drained()
    waits = [after - before for before, after in pairwise(attempts)]
    assert all(wait <= backoff.LONGEST for wait in waits[: attempts.index(parked[0])])
    # Parked with the first attempt that failed so long after the first one of all.
    before = attempts[attempts.index(parked[0]) - 1]
    assert before - attempts[0] < park_after <= parked[0] - attempts[0]
    assert target.got == list(range(1, 121))


async def test_a_parked_target_shows_and_sighup_knocks_at_once() -> None:
    """A parked target is visible in the metrics; `hurry` tries it without waiting an hour."""
    source, target = FakeSource(3), FakeTarget()
    target.answer = Refusing(1, gone=True)
    async with delivering(source, target) as running:
        hours = asyncio.Event()

        async def wait(event: asyncio.Event, seconds: float | None) -> bool:
            if seconds == KNOCK_EVERY:
                hours.set()
                return await event.wait()
            return await TurnedClock.wait(running.clock, event, seconds)

        running.clock.wait = wait  # type: ignore[method-assign]
        await hours.wait()
        assert running.metric("keyfold_relay_target_state", state="parked") == 1
        assert target.got == []
        running.delivery.hurry()
        await target.has(3)
        assert running.metric("keyfold_relay_target_state", state="parked") == 0
        assert target.reopened == 1


async def test_410_parks_at_once() -> None:
    """A receiver that answers 410 wants no events any more, and is not called for days."""
    source, target = FakeSource(3), FakeTarget()
    target.answer = Refusing(10**9, gone=True)
    clock = TurnedClock()
    delivery = Delivery(
        "siem",
        CURSOR,
        pb.EventFilter(),
        target,
        source,
        meters=Meters(),
        park_after=3 * DAY,
        clock=clock,  # type: ignore[arg-type]
    )
    with pytest.raises(ParkedError):
        await delivery.run(until=3)
    assert clock.waits == []


async def test_a_batch_that_is_too_large_is_split() -> None:
    """413 halves the batch until the target takes it, in order and without a wait."""
    source, target = FakeSource(100), FakeTarget()

    def answer(batch: Sequence[CloudEvent]) -> None:
        if len(batch) > 7:
            raise NotTakenError("it answered 413", too_large=True)

    target.answer = answer
    async with delivering(source, target) as running:
        await target.has(100)
        assert running.clock.waits == []
    assert target.got == list(range(1, 101))


async def test_a_stream_that_breaks_off_is_opened_again_at_the_cursor() -> None:
    """Replicas that go away cost nothing: what was not confirmed comes again, in order."""
    source, target = FakeSource(10), FakeTarget()
    async with delivering(source, target) as running:
        await target.has(10)
        faults = [NotNowError("draining", "UNAVAILABLE") for _ in range(3)]
        source.fault = lambda: faults.pop() if faults else None
        source.nudge()
        source.append(10)
        await target.has(20)
        await running.drained()
    assert source.opened > 1
    first = {number: target.got.index(number) for number in range(1, 21)}
    assert sorted(first, key=first.__getitem__) == list(range(1, 21))


async def test_a_cursor_that_somebody_deletes_loses_nothing() -> None:
    """What came while the cursor was gone arrives: the stream begins after what the target has."""
    source, target = FakeSource(10), FakeTarget()
    async with delivering(source, target) as running:
        await target.has(10)
        source.forget(CURSOR)
        # The relay hears of it when its stream ends, and events come before the next one.
        faults = [NotNowError("draining", "UNAVAILABLE") for _ in range(3)]

        def fault() -> Exception | None:
            if faults:
                source.append()
                return faults.pop()
            return None

        source.fault = fault
        source.append(10)
        await target.has(23)
        await running.drained()
    assert target.got == list(range(1, 24))
    assert source.cursors[CURSOR] == 23


async def test_a_taken_cursor_ends_the_older_relay() -> None:
    """Two relays with one cursor: the older one ends, says so, and sends nothing more."""
    source, target = FakeSource(5), FakeTarget()
    async with delivering(source, target) as running:
        await target.has(5)
        source.take(CURSOR)
        assert await running.task is Ending.TAKEN
        assert running.metric("keyfold_relay_target_state", state="stopped") == 1
        assert "another" in source._session[CURSOR]


async def test_an_expired_cursor_stops_the_target_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """A stale cursor stops its target; the log says what is at stake and what to do."""
    source, target = FakeSource(5), FakeTarget()
    source.fault = lambda: CursorExpiredError("expired")
    async with delivering(source, target) as running:
        assert await running.task is Ending.EXPIRED
        assert running.metric("keyfold_relay_target_state", state="stopped") == 1
    [record] = [one for one in caplog.records if one.levelname == "CRITICAL"]
    assert "keyfold-relay forget" in record.getMessage()


async def test_a_drain_ends_the_batch_in_flight_and_begins_no_other() -> None:
    """On SIGTERM the batch in flight is finished and the cursor follows it; the rest stays."""
    source, target = FakeSource(500), FakeTarget()
    target.gate = asyncio.Event()
    async with delivering(source, target) as running:
        await until(lambda: running.delivery._sending is not None)
        running.delivery.stop()
        target.gate.set()
        assert await running.task is Ending.DRAINED
    assert len(target.batches) == 1
    assert source.cursors[CURSOR] == target.got[-1]


async def test_a_drain_does_not_wait_for_a_target_that_fails() -> None:
    """A pause between two attempts ends at once, and the cursor stays before the batch."""
    source, target = FakeSource(5), FakeTarget()
    target.answer = Refusing(10**9)
    async with delivering(source, target) as running:
        await until(lambda: running.delivery.state == "retrying")
        assert await running.drained() is Ending.DRAINED
    assert source.cursors[CURSOR] == 0


async def test_a_drain_does_not_wait_for_a_server_that_is_silent() -> None:
    """While the server gives no stream, nothing is in flight that a drain would wait for."""
    source, target = FakeSource(), FakeTarget()
    asked = asyncio.Event()

    @asynccontextmanager
    async def silent(*_: object) -> AsyncIterator[object]:
        asked.set()
        await asyncio.Event().wait()
        yield None

    source.watch = silent  # type: ignore[method-assign, assignment]
    async with delivering(source, target) as running:
        await asked.wait()
        assert await running.drained() is Ending.DRAINED


async def test_a_filter_that_matches_nothing_still_moves_the_cursor() -> None:
    """A heartbeat's place counts, or a narrow filter would hold pruning up for ever."""
    source, target = FakeSource(), FakeTarget()
    source.cursors[CURSOR] = 7
    source.events = []
    async with delivering(source, target) as running:
        await until(lambda: bool(source.advanced))
        await running.drained()
    assert source.advanced[-1] == 7


async def test_lag_is_the_age_of_the_oldest_event_that_is_here() -> None:
    """The lag shows an event that the target does not take, and is 0 once it has."""
    source, target = FakeSource(3), FakeTarget()
    target.gate = asyncio.Event()
    async with delivering(source, target) as running:
        await until(lambda: running.delivery._sending is not None)
        assert (running.metric("keyfold_relay_lag_seconds") or 0) > 0
        target.gate.set()
        await target.has(3)
        await until(lambda: not running.metric("keyfold_relay_lag_seconds"))


async def test_replay_ends_when_it_has_caught_up() -> None:
    """`replay` delivers what waits at the cursor and ends."""
    source, target = FakeSource(250), FakeTarget()
    delivery = Delivery(
        "siem",
        CURSOR,
        pb.EventFilter(),
        target,
        source,
        meters=Meters(),
        park_after=DAY,
        clock=TurnedClock(),  # type: ignore[arg-type]
    )
    assert await delivery.run(until=250) is Ending.CAUGHT_UP
    assert target.got == list(range(1, 251))
    assert source.cursors[CURSOR] == 250


async def test_a_rolled_back_store_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A3: another event in the place of one that the target has is told, and delivered, too."""
    source, target = FakeSource(20), FakeTarget()
    async with delivering(source, target) as running:
        await target.has(20)
        assert "rolled back" not in caplog.text
        # The store comes back as it was at event 10, and goes on in another way.
        source.events[10:] = [replace(each, id=f"{each.id}x") for each in source.events[10:]]
        faults = [NotNowError("the server was restarted", "UNAVAILABLE")]

        def fault() -> Exception | None:
            if len(target.got) == 20:
                source.cursors[CURSOR] = 8
            return faults.pop() if faults else None

        source.fault = fault
        source.nudge()
        await until(lambda: len(target.got) >= 32)
        assert await running.drained() is Ending.DRAINED
    assert target.got[20:] == list(range(9, 21))
    [told] = [each for each in caplog.records if each.levelname == "CRITICAL"]
    assert "another event 11" in told.getMessage()
