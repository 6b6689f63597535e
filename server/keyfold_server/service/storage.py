"""Storage: calls the store from the event loop, in a bounded number of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from keyfold_server import telemetry
from keyfold_server.domain.errors import OverloadedError
from keyfold_server.domain.ports import Store
from keyfold_server.service.lane import Lane, Turns

_P = ParamSpec("_P")
_R = TypeVar("_R")

THREADS: Final = 8
"""Most store calls that run at once."""

WAITING: Final = 1_000
"""Most store calls that may wait; further ones are refused."""

DECIDING: Final = 4
"""Most decisions that run at once, in threads of their own."""


class RunInStore(Protocol):
    """Runs a method of the store in threads: `Storage.run`, `Storage.decide` or `Turns.run`."""

    def __call__(
        self, method: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _R]:
        """Runs a method of the store, and returns what it returns."""
        ...


class Storage:
    """Runs the store's synchronous methods in its own threads.

    Attributes:
        store: The store. Callers pass its methods to `run` and `decide`.
        watching: Surrounds each call, and tells of a broken link of the log at which it fails.
    """

    def __init__(
        self, store: Store, watching: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """Makes the thread pools, which start threads as calls need them."""
        self.store = store
        self.watching = watching
        self._pool = ThreadPoolExecutor(THREADS, "store")
        self._deciding = ThreadPoolExecutor(DECIDING, "store-decisions")
        self._lane = Lane()
        self._pending = 0

    async def run(self, method: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs a method of the store in a thread. Once it has begun, cancelling does not stop it.

        Raises:
            OverloadedError: Too many calls are waiting.
        """
        if self._pending >= THREADS + WAITING:
            raise OverloadedError("too many calls wait for the store; try again", retry_after=1.0)
        with self.watching(), telemetry.store_call(getattr(method, "__name__", "call")):
            future = self._pool.submit(method, *args, **kwargs)
            self._pending += 1  # Afterwards: without a thread for it, `submit` raises.
            future.add_done_callback(self._on_loop(self._ended))
            return await asyncio.shield(asyncio.wrap_future(future))

    async def decide(self, method: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs a method as `run` does, in threads that a flood of reads cannot occupy (R5)."""
        with self.watching(), telemetry.store_call(getattr(method, "__name__", "call")):
            future = self._deciding.submit(method, *args, **kwargs)
            return await asyncio.shield(asyncio.wrap_future(future))

    def revoking(self, caller: str) -> Turns:
        """Returns a caller's turns in the lane, which Revoke has to itself (protocol R9)."""
        return Turns(self._lane, caller)

    def _on_loop(self, callback: Callable[[], None]) -> Callable[[object], None]:
        loop = asyncio.get_running_loop()

        def done(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback)

        return done

    def _ended(self) -> None:
        self._pending -= 1

    def close(self) -> None:
        """Waits for the running calls, so that no transaction is cut off."""
        for pool in (self._pool, self._deciding):
            pool.shutdown(wait=True, cancel_futures=True)
        self._lane.close()
