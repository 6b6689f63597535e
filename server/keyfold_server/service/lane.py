"""The lane: store threads for Revoke and RetireGeneration alone (protocol R9).

No other change and no read ever holds these threads, and no caller can fill them. Each caller has
a line of its own, and the callers take turns. So a caller who floods Revoke waits for itself, and
another caller's Revoke is next but for the transactions that run already.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from keyfold_server import telemetry

_P = ParamSpec("_P")
_R = TypeVar("_R")

THREADS: Final = 4
"""Most store calls of the lane that run at once."""

PLACES: Final = 4_000
"""Most calls of Revoke and RetireGeneration that may be under way at once."""

_EACH: Final = 2
"""Most of these that may be one caller's, whose clusters somebody else may have locked."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A store call that waits for its turn, and the future that gets its result."""

    work: Callable[[], Any]
    result: asyncio.Future[Any]


class Turns:
    """The turns of one caller in the lane."""

    def __init__(self, lane: Lane, caller: str) -> None:
        """Takes the lane, and the name of the caller whose turns these are."""
        self._lane = lane
        self._caller = caller

    async def run(self, method: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs a method of the store in a thread of the lane. Cancelling does not stop it.

        The caller's places in the room for Revokes bound how many of its calls wait here.
        """
        return await self._lane.run(self._caller, method, *args, **kwargs)


class Lane:
    """Runs store calls in the lane's threads, the callers by turns; belongs to one event loop."""

    def __init__(self) -> None:
        """Makes the threads' pool, which starts threads as calls need them."""
        self._pool = ThreadPoolExecutor(THREADS, "revocations")
        # The callers that have calls waiting; the next turn is the first one's.
        self._lines: dict[str, deque[_Waiting]] = {}
        self._running: Counter[str] = Counter()

    async def run(
        self, caller: str, method: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Runs a method of the store when it is the caller's turn; see `Turns.run`."""
        with telemetry.store_call(getattr(method, "__name__", "call")):
            result: asyncio.Future[_R] = asyncio.get_running_loop().create_future()
            waiting = _Waiting(partial(method, *args, **kwargs), result)
            self._lines.setdefault(caller, deque()).append(waiting)
            self._next_turns()
            return await asyncio.shield(result)

    def _next_turns(self) -> None:
        while (caller := self._next_caller()) is not None:
            line = self._lines.pop(caller)
            waiting = line.popleft()
            if line:
                self._lines[caller] = line  # Behind the other callers' lines.
            self._running[caller] += 1
            loop = waiting.result.get_loop()
            try:
                future = self._pool.submit(waiting.work)
            except RuntimeError as error:  # The machine has no thread left, or the server stops.
                self._running[caller] -= 1
                waiting.result.set_exception(error)
            else:
                future.add_done_callback(partial(self._tell, loop, caller, waiting))

    def _next_caller(self) -> str | None:
        """Returns the caller whose turn is next; None if no thread is free for any."""
        if self._running.total() >= THREADS:
            return None
        return next((name for name in self._lines if self._running[name] < _EACH), None)

    def _tell(
        self, loop: asyncio.AbstractEventLoop, caller: str, waiting: _Waiting, done: Future[Any]
    ) -> None:
        """Tells the event loop that a call has ended; runs in the lane's thread."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._ended, caller, waiting, done)

    def _ended(self, caller: str, waiting: _Waiting, done: Future[Any]) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        if done.cancelled():
            waiting.result.cancel()
        elif (error := done.exception()) is not None:
            waiting.result.set_exception(error)
        else:
            waiting.result.set_result(done.result())
        self._next_turns()

    def close(self) -> None:
        """Waits for the running calls, so that no transaction is cut off."""
        self._pool.shutdown(wait=True, cancel_futures=True)
