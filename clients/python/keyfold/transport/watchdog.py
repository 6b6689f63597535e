"""Watchdogs: they cut a stream on which nothing has come for a while.

A server whose machine has vanished ends no stream, and gRPC may not notice for long. Whatever the
cut raises where the stream is read ends with the watchdog's block.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc


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
        self._waits_since: float | None = time.monotonic()
        self._ended = threading.Event()
        self._bitten = False
        self._thread = threading.Thread(target=self._run, name="keyfold-watchdog", daemon=True)

    def feed(self) -> None:
        """Notes that somebody begins to wait for a message."""
        self._waits_since = time.monotonic()

    def rest(self) -> None:
        """Notes that nobody waits for a message now."""
        self._waits_since = None

    def bite(self) -> None:
        """Cuts the stream."""
        self._bitten = True
        self._cancel()

    def _run(self) -> None:
        left = self._patience
        while not self._ended.wait(left):
            since = self._waits_since
            left = self._patience
            if since is not None:
                left = since + self._patience - time.monotonic()
                if left <= 0:
                    self.bite()
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._ended.set()
        return self._bitten and isinstance(error, grpc.RpcError)


class AsyncWatchdog:
    """A watchdog on the running event loop; use it in a `with`."""

    def __init__(self, cancel: Callable[[], object], patience: float) -> None:
        """Takes what cancels the stream, and the seconds without a message after which to do so."""
        self._cancel = cancel
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._bitten = False

    def feed(self) -> None:
        """Notes that somebody begins to wait for a message."""
        self._waits_since = self._loop.time()

    def rest(self) -> None:
        """Notes that nobody waits for a message now."""
        self._waits_since = None

    def bite(self) -> None:
        """Cuts the stream."""
        self._bitten = True
        self._cancel()

    def _look(self) -> None:
        left = self._patience
        if self._waits_since is not None:
            left = self._waits_since + self._patience - self._loop.time()
        if left <= 0:
            self.bite()
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
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        # A call that is cancelled here raises what a cancelled task raises. If somebody has
        # cancelled the task, too, that goes on.
        task = asyncio.current_task()
        cut = isinstance(error, grpc.RpcError) or (
            isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()
        )
        return self._bitten and cut
