"""Following the watch: in a thread or a task, for as long as the cache is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from threading import Event, Lock, Thread
from typing import Final

from keyfold.caching.aio.stream import AsyncStream
from keyfold.caching.client.stream import Stream
from keyfold.caching.holdings import Holdings
from keyfold.caching.limits import UNWATCHED_AGE
from keyfold.calls.watch import AGAIN
from keyfold.errors import KeyfoldError, UnauthenticatedError

log = logging.getLogger("keyfold.caching")

_TURN: Final = 1.0
"""Seconds between two looks for keys whose time is over, while no watch is under way."""

_PASSES: Final = (*AGAIN, UnauthenticatedError)
"""Errors after which a watch may well begin. Until then each use asks the server."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 5.0

_UNWATCHED: Final = 30.0
"""Seconds after which a cache without a watch tries to begin one again."""


def turn() -> None:
    """Threads take turns by themselves."""


async def async_turn() -> None:
    """Lets the other tasks of the event loop have their turns."""
    await asyncio.sleep(0)


class Endings:
    """Decides what follows the end of a watch, and says once that there is none."""

    def __init__(self, holdings: Holdings) -> None:
        """Takes the keys."""
        self._holdings = holdings
        self._pause = 0.0
        self._said = False

    def ended(self, error: Exception) -> float:
        """Hears what has ended a watch, and returns the seconds until the next one."""
        if self._holdings.watched:
            self._pause = 0.0
        if isinstance(error, KeyfoldError) and not isinstance(error, _PASSES):
            # There is none: the right is missing, or the server is too old for it.
            self._holdings.begin(watched=False)
            if not self._said:
                self._said = True
                log.warning(
                    "the cache of data keys cannot watch their clusters (%s): it keeps no key for "
                    "longer than %g s, and hears of a revocation no sooner than that",
                    error,
                    UNWATCHED_AGE,
                )
            return _UNWATCHED
        self._holdings.begin(watched=None)
        if not isinstance(error, KeyfoldError):
            log.error("the watch of the cache of data keys failed", exc_info=error)
            return _LONGEST
        self._pause = min(max(_SHORTEST, self._pause * 2), _LONGEST)
        return self._pause


class Reader:
    """Follows the watch in a thread of its own, from the first start until nobody wants it."""

    def __init__(self, stream: Stream, holdings: Holdings) -> None:
        """Takes what reads a watch, and the keys."""
        self._stream = stream
        self._holdings = holdings
        self._endings = Endings(holdings)
        self._starting = Lock()
        self._thread: Thread | None = None
        self._stopped = Event()

    def start(self) -> None:
        """Begins, unless it has begun."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = Thread(target=self._run, name="keyfold-key-cache", daemon=True)
                    # There may be no thread to be had, as while a program ends. Without one
                    # each use asks the server, and the next one tries again.
                    with contextlib.suppress(RuntimeError):
                        thread.start()
                        self._thread = thread

    def stop(self) -> None:
        """Ends the watch."""
        self._stream.close()
        self._stopped.set()

    def _run(self) -> None:
        stream, wait = self._stream, 0.0
        while stream.wanted():
            try:
                stream.read()
            except Exception as error:  # noqa: BLE001  whatever it is: no news, and no key
                wait = self._endings.ended(error) if stream.wanted() else 0.0
            while wait > 0 and stream.wanted() and not self._stopped.wait(min(wait, _TURN)):
                wait -= _TURN
                self._holdings.tidy()
        self._holdings.begin(watched=None)


class AsyncReader:
    """Follows the watch in a task of its own, from the first start until nobody wants it."""

    def __init__(self, stream: AsyncStream, holdings: Holdings) -> None:
        """Takes what reads a watch, and the keys."""
        self._stream = stream
        self._holdings = holdings
        self._endings = Endings(holdings)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="keyfold-key-cache")

    async def stop(self) -> None:
        """Ends the watch."""
        self._stream.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        stream, wait = self._stream, 0.0
        while stream.wanted():
            try:
                await stream.read()
            except Exception as error:  # noqa: BLE001  whatever it is: no news, and no key
                wait = self._endings.ended(error) if stream.wanted() else 0.0
            while wait > 0 and stream.wanted():
                await asyncio.sleep(min(wait, _TURN))
                wait -= _TURN
                self._holdings.tidy()
        self._holdings.begin(watched=None)
