"""The loop watch (protocol W5): the lag of the event loop, and what held it up."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from time import monotonic, thread_time

import pytest
from prometheus_client import REGISTRY

import stalls
from fakes import FakeClock
from keyfold_server.service.loop_watch import LoopWatch
from keyfold_server.service.supervisor import Supervisor
from replicas import until


def measured(bucket: str = "") -> float:
    """Returns how many measurements `/metrics` would show, of all or up to a lag."""
    name = "keyfold_event_loop_lag_seconds_" + ("bucket" if bucket else "count")
    # Of this metric alone: to collect all that other tests have measured would hold up the loop.
    samples = [s for m in REGISTRY.restricted_registry([name]).collect() for s in m.samples]
    return sum(s.value for s in samples if s.name == name and s.labels.get("le", "") == bucket)


@pytest.fixture
async def _watch() -> AsyncIterator[None]:
    """Watches this test's loop."""
    watch, supervisor = LoopWatch(), Supervisor(FakeClock())
    watch.start(supervisor)
    before = measured()
    await until(lambda: measured() > before)
    yield
    watch.stop()
    await supervisor.stop()


def compute_at_length(caplog: pytest.LogCaptureFixture) -> None:
    """Computes until the watch has noticed, and a little longer."""
    ends, computed = monotonic() + 20, thread_time()
    while "held up by" not in caplog.text or thread_time() < computed + 2 * stalls.HELD:
        assert monotonic() < ends, "the watch did not notice"
        sum(range(1_000))


async def held_up(compute: Callable[[], object], caplog: pytest.LogCaptureFixture) -> None:
    """Computes until the watch has told how long it held up the loop."""
    # The watch misses what begins between two of its turns, as `until` lets this go on.
    for _ in range(20):
        await asyncio.sleep(0.01)
        caplog.clear()
        before, computed = measured(), thread_time()
        while thread_time() < computed + 3 * stalls.HELD:
            compute()
        await until(lambda before=before: measured() > before)  # type: ignore[misc]
        if "held up for" in caplog.text:
            return
    pytest.fail("the watch did not notice")


@pytest.mark.stalls
@pytest.mark.usefixtures("_watch")
async def test_what_held_up_the_loop_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """W5: past 100 ms the log names the function, and the metric counts the lag."""
    late = measured() - measured("0.1")
    with caplog.at_level(logging.WARNING), stalls.watched() as found:
        # The watch names a turn's function once. On a busy machine that may be `measured`, above.
        for _ in range(5):
            compute_at_length(caplog)
            await until(lambda: bool(found))
            if "compute_at_length" in caplog.text:
                break
    assert "compute_at_length (test_loop_watch.py:" in caplog.text
    assert measured() - measured("0.1") > late
    with pytest.raises(AssertionError, match="held up for"):
        stalls.check(found)


@pytest.mark.stalls
@pytest.mark.usefixtures("_watch")
async def test_a_collection_excuses_no_later_stall(caplog: pytest.LogCaptureFixture) -> None:
    """W5: Python's collector is no stall of a server, and what it took once excuses none later."""
    with caplog.at_level(logging.WARNING), stalls.watched() as found:
        await held_up(gc.collect, caplog)
        stalls.check(found)
        computed = thread_time()
        while thread_time() < computed + 5 * stalls.HELD:
            gc.collect()
            await asyncio.sleep(0)
        await held_up(lambda: sum(range(1_000)), caplog)
        assert found


@pytest.mark.usefixtures("_watch")
async def test_a_loop_that_waits_is_not_held_up(caplog: pytest.LogCaptureFixture) -> None:
    """W5: a call that takes long without holding the loop is no stall."""
    before, done = measured(), threading.Event()
    waiting = asyncio.create_task(asyncio.to_thread(done.wait, 20))
    await until(lambda: measured() >= before + 5)
    done.set()
    await waiting
    assert "compute" not in caplog.text.replace("computed", "")
    assert not stalls.logged(caplog.text)
