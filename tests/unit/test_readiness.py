"""Readiness: what probes, the metric and the log learn about service (protocol S3)."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from keyfold_server.domain.errors import KeyfoldError, StoreStaleError
from keyfold_server.service.readiness import Readiness


class Service:
    """A service whose fault a test sets."""

    def __init__(self) -> None:
        self.fault: KeyfoldError | None = None

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault


async def test_it_is_read_when_it_is_asked() -> None:
    """S3: a probe sees the present state, from the start to the drain, with the reason."""
    readiness, service = Readiness(), Service()
    assert readiness.obstacle.startswith("STARTING: ")
    readiness.started(service.check)
    assert readiness.obstacle == ""
    service.fault = StoreStaleError("this replica has not seen the store")
    assert readiness.obstacle == "STORE_STALE: this replica has not seen the store"
    service.fault = None
    assert readiness.obstacle == ""
    readiness.drain()
    assert readiness.obstacle.startswith("DRAINING: ")


async def test_a_stop_and_a_return_leave_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    """S3: the log says once that service stops, with the reason, and once that it returns."""
    caplog.set_level(logging.INFO)
    readiness, service = Readiness(), Service()
    readiness.started(service.check)
    assert readiness.look()
    assert not caplog.records
    service.fault = StoreStaleError("not seen for 2 seconds")
    assert not readiness.look()
    service.fault = StoreStaleError("not seen for 3 seconds")
    assert not readiness.look()
    [stopped] = caplog.records
    assert stopped.levelno == logging.ERROR
    assert "STORE_STALE: not seen for 2 seconds" in stopped.getMessage()
    service.fault = None
    assert readiness.look()
    assert readiness.look()
    [_, returned] = caplog.records
    assert "serves again" in returned.getMessage()
    assert "STORE_STALE" in returned.getMessage()
    readiness.drain()
    assert not readiness.look()
    assert "DRAINING" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.INFO


async def test_a_loop_that_hangs_does_not_respond() -> None:
    """Whoever asks from another thread learns whether the event loop takes its turn."""
    readiness = Readiness()
    assert readiness.responds(0.0), "a server that starts is no hung one"
    readiness.started(lambda: None)
    assert await asyncio.to_thread(readiness.responds, 20.0)
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(readiness.responds(0.05)))
    asking.start()
    asking.join()  # This blocks the loop, as a hang does.
    assert found == [False]
