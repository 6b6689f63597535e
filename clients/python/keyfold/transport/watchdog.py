"""Watchdogs: they cancel a stream on which nothing has come for a while.

A server whose machine has vanished ends no stream, and gRPC may not notice for long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


def pause(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


async def async_pause(seconds: float) -> None:
    """Waits, for asyncio."""
    await asyncio.sleep(seconds)


class Watchdog:
    """A watchdog in a thread of its own; use it in a `with`."""

    def __init__(self, cancel: Callable[[], object], patience: float) -> None:
        """Takes what cancels the stream, and the seconds without a message after which to do so."""
        self._cancel = cancel
        self._patience = patience
        self._fed_at = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyfold-watchdog", daemon=True)

    def feed(self) -> None:
        """Notes that a message has come, or that nobody waits for one now."""
        self._fed_at = time.monotonic()

    def _run(self) -> None:
        while not self._ended.wait(max(0.01, self._fed_at + self._patience - time.monotonic())):
            if time.monotonic() - self._fed_at >= self._patience:
                self._cancel()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()


class AsyncWatchdog:
    """A watchdog on the running event loop; use it in a `with`."""

    def __init__(self, cancel: Callable[[], object], patience: float) -> None:
        """Takes what cancels the stream, and the seconds without a message after which to do so."""
        self._cancel = cancel
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._fed_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def feed(self) -> None:
        """Notes that a message has come, or that nobody waits for one now."""
        self._fed_at = self._loop.time()

    def _look(self) -> None:
        left = self._fed_at + self._patience - self._loop.time()
        if left <= 0:
            self._cancel()
        else:
            self._timer = self._loop.call_later(left, self._look)

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._patience, self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
