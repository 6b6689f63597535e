"""Supervised tasks (protocol W4): nothing that goes wrong in a turn ends a task for good."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from fakes import FakeClock
from keyfold_server.domain.errors import RevokedError
from keyfold_server.service import supervisor as supervising
from keyfold_server.service.readiness import Readiness
from keyfold_server.service.supervisor import PATIENCE, Supervisor
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.upkeep import flushing, pruning
from replicas import House, house_in, until

NO_THREAD = "can't start new thread"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nobody wait for a task to be tried again."""
    monkeypatch.setattr(supervising, "_SHORTEST", 0.001)
    monkeypatch.setattr(supervising, "_LONGEST", 0.001)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


def failures(task: str) -> float:
    """Returns how many failures of a task `/metrics` would show."""
    return REGISTRY.get_sample_value("keyfold_task_failures_total", {"task": task}) or 0.0


class Machine:
    """A machine that may have no thread left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        start = ThreadPoolExecutor.submit

        def submit(pool: ThreadPoolExecutor, *args: Any, **kwargs: Any) -> Any:
            if self.full:
                self.refused += 1
                raise RuntimeError(NO_THREAD)
            return start(pool, *args, **kwargs)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)


@pytest.mark.parametrize("task", ["write_health", "write_uses", "prune", "count_regions"])
async def test_a_machine_without_threads_ends_no_upkeep(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    task: str,
) -> None:
    """W4: what writes, prunes and counts goes on by itself once the machine has threads again."""
    monkeypatch.setattr(flushing, "WRITE_HEALTH", 0.001)
    monkeypatch.setattr("keyfold_server.service.replica.FLUSH", 0.001)
    monkeypatch.setattr(pruning, "INTERVAL", 0.001)
    monkeypatch.setattr("keyfold_server.service.upkeep.gauges._INTERVAL", 0.001)
    one = await house.replica()
    await one.enable("a")
    await one.wrap("a")
    calls = {"write_health": "observe", "write_uses": "used", "prune": "prune"}
    method = calls.get(task, "claim")
    machine, before = Machine(monkeypatch), failures(task)
    machine.full = True
    # What reads the store before the upkeep begins has begun already, and every unit of upkeep has
    # something to write.
    monkeypatch.setattr(one.changes, "start", lambda: asyncio.sleep(0))
    monkeypatch.setattr(one.replica.seats, "start", lambda: asyncio.sleep(0))
    await one.replica.start()
    await until(lambda: failures(task) >= before + 3)
    assert one.line.counts[method] == 0
    assert any(
        task in record.getMessage() and record.exc_info is not None for record in caplog.records
    )
    machine.full = False
    await until(lambda: one.line.counts[method] > 0)


async def test_a_refusal_reaches_the_others_though_no_thread_was_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W4, F2: the task that tells other replicas of a refusal goes on until the store has it."""
    one, two = await house.replica(), await house.replica()
    await one.enable("a", {"eu": "fake:one"})
    for member in (one, two):
        await member.wrap("a")
    house.provider.disable("fake:one")
    machine, before = Machine(monkeypatch), failures("refusals")
    decide = one.replica._storage.decide

    async def no_thread(*args: Any, **kwargs: Any) -> Any:
        machine.full = True
        try:
            return await decide(*args, **kwargs)
        finally:
            machine.full = False

    monkeypatch.setattr(one.replica._storage, "decide", no_thread)
    await house.after(61)
    with pytest.raises(Exception, match="disabled"):
        await one.wrap("a")
    await until(lambda: failures("refusals") >= before + 2)
    monkeypatch.setattr(one.replica._storage, "decide", decide)
    await until(lambda: one.line.counts["refused"] > 0)
    await one.settle()
    await two.poll()
    assert not list(two.cache.opened())


async def test_calls_that_got_no_thread_hold_no_place(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W4: once there are threads again, the store takes as many calls as before."""
    one = await house.replica()
    storage, machine = one.replica._storage, Machine(monkeypatch)
    machine.full = True
    for _ in range(2_000):
        with pytest.raises(RuntimeError, match=NO_THREAD):
            await storage.run(storage.store.replicas)
    machine.full = False
    assert await storage.run(storage.store.replicas)


async def test_a_poll_that_fails_in_any_way_comes_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W4: the poll's thread outlives whatever its turn raises, which is counted."""
    one = await house.replica()
    before, beat = failures("poll"), one.changes.beat

    def broken() -> Any:
        raise RuntimeError(NO_THREAD)

    monkeypatch.setattr(one.changes, "beat", broken)
    one.line.let_poll()  # This one may have its heartbeat already.
    await until(lambda: failures("poll") >= before + 2)
    monkeypatch.setattr(one.changes, "beat", beat)
    await one.poll()


async def turns(*ends: BaseException | None) -> tuple[Supervisor, FakeClock, Callable[[], int]]:
    """Gives a supervised task whose turns end so, and all later ones as the last of them."""
    clock = FakeClock()
    supervisor = Supervisor(clock)
    taken = 0

    async def turn() -> None:
        nonlocal taken
        taken += 1
        error = ends[min(taken, len(ends)) - 1]
        if error is not None:
            raise error

    supervisor.start("turns", turn, 0.001)
    return supervisor, clock, lambda: taken


@pytest.mark.parametrize("error", [RuntimeError(NO_THREAD), asyncio.CancelledError()])
async def test_a_task_that_keeps_failing_shows(error: BaseException) -> None:
    """W4: after a minute of failures alone the supervisor names the task; one good turn ends it."""
    supervisor, clock, taken = await turns(*[error] * 20, None)
    await until(lambda: taken() >= 2)
    clock.advance(PATIENCE - 1)
    assert [supervisor.failing] == [""]
    clock.advance(2)
    assert [supervisor.failing] == ["turns"]
    await until(lambda: taken() > 20)
    await until(lambda: not supervisor.failing)
    await supervisor.stop()


async def test_a_task_of_which_nothing_comes_makes_the_server_not_serving(house: House) -> None:
    """W4: the server says why it reports NOT_SERVING, and answers calls all the same."""
    one = await house.replica()
    await one.enable("a")

    async def turn() -> None:
        raise RuntimeError(NO_THREAD)

    readiness = Readiness()
    readiness.started(one.replica.check_serving, one.replica.supervisor)
    before = failures("turns")
    one.replica.supervisor.start("turns", turn)
    await until(lambda: failures("turns") > before)
    assert readiness.look()
    await house.after(PATIENCE + 1)
    assert not readiness.look()
    assert readiness.obstacle.startswith("TASK_FAILING: the task turns has failed for a minute")
    await one.wrap("a")


async def test_a_task_ends_when_the_server_stops() -> None:
    """W4: only the server's own stop ends a task, and its failures no longer count then."""
    supervisor, clock, taken = await turns(RuntimeError(NO_THREAD))
    await until(lambda: taken() >= 2)
    await supervisor.stop()
    clock.advance(PATIENCE + 1)
    assert not supervisor.failing
    after = taken()
    await asyncio.sleep(0)
    assert taken() == after


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """W4: a task that fails at once is not tried again as fast as it fails."""
    monkeypatch.setattr(supervising, "_SHORTEST", 1.0)
    monkeypatch.setattr(supervising, "_LONGEST", 30.0)
    watched = Supervisor(FakeClock()).watch("any")
    pauses: list[float] = []
    for _ in range(8):
        with watched.turn():
            raise RuntimeError(NO_THREAD)
        pauses.append(watched.pause)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_a_failure_that_nobody_waits_for_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W4: a task of the service that ends unexpectedly is logged and counted; a refusal is not."""
    tasks = Tasks()

    async def broken() -> None:
        raise RuntimeError(NO_THREAD)

    async def refused() -> None:
        raise RevokedError("the region is revoked")

    name = broken.__qualname__
    before = failures(name)
    with caplog.at_level(logging.ERROR):
        tasks.start(broken())
        tasks.start(refused())
        await tasks.drain()
        await asyncio.sleep(0)
    assert failures(name) == before + 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert name in caplog.text


async def test_gauges_are_computed_when_they_are_scraped(house: House) -> None:
    """W4: the age of the store and the count of keys are right though every task stands still."""
    one = await house.replica()
    await one.enable("a")
    await one.wrap("a")
    one.replica.gauges.show()
    assert REGISTRY.get_sample_value("keyfold_cached_keks") == 1.0
    house.clock.advance(77.0)
    assert REGISTRY.get_sample_value("keyfold_store_age_seconds") == pytest.approx(77.0)
    one.loads.drop_all()
    assert REGISTRY.get_sample_value("keyfold_cached_keks") == 0.0
    assert REGISTRY.get_sample_value("keyfold_cached_clusters") == 0.0


async def test_a_count_that_failed_is_not_shown(house: House) -> None:
    """W4: a count of the regions that is long past is not taken for today's."""
    one = await house.replica()
    await one.enable("a")
    await one.replica._health.flush()
    labels = {"state": "ENABLED", "health": "HEALTHY"}
    await one.replica.gauges.count_regions()
    assert REGISTRY.get_sample_value("keyfold_regions", labels) == 1.0
    house.clock.advance(30.0)
    one.line.fail("census", RuntimeError(NO_THREAD))
    with pytest.raises(RuntimeError):
        await one.replica.gauges.count_regions()
    assert REGISTRY.get_sample_value("keyfold_regions", labels) is None


async def test_a_scrape_may_come_at_any_moment(house: House) -> None:
    """W4: /metrics has a thread of its own, and counts keys while calls bring new ones."""
    one = await house.replica()
    stop, faults = threading.Event(), []

    def scrape() -> None:
        while not stop.is_set():
            try:
                one.cache.count(0.0)
            except RuntimeError as error:
                faults.append(error)
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        for number in range(20_000):
            one.cache.forget_root(one.cache.root(f"{number:04x}"))
            one.cache.root(f"{number:04x}")
    finally:
        stop.set()
        thread.join()
    assert not faults
