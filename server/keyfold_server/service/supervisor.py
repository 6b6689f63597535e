"""The supervisor: keeps the tasks going that live as long as the server (protocol W4).

Such a task is a row of turns. Whatever a turn raises is logged and counted, and the next turn
comes after a growing pause, so nothing can end a task for good. A task whose turns keep failing
makes the server report NOT_SERVING, because somebody has to look at it. The supervisor knows
nothing of what the tasks do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from keyfold_server import telemetry
from keyfold_server.domain.ports import Clock

log = logging.getLogger(__name__)

_T = TypeVar("_T")

PATIENCE: Final = 60.0
"""Seconds for which a task may fail before the server reports NOT_SERVING."""

_SHORTEST: Final = 1.0
"""Seconds from a failed turn to the next one; twice as many after each further failure."""

_LONGEST: Final = 30.0
"""Most seconds from a failed turn to the next one."""


class Watched:
    """One task, as far as the supervisor watches it.

    Attributes:
        name: The task's name, for the log and the metric.
        failures: Turns that have failed since the last one that succeeded.
        failing_since: The end of the first of these, monotonic seconds; None if no turn has failed.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        """Begins to watch a task that has had no turn yet."""
        self.name = name
        self.failures = 0
        self.failing_since: float | None = None
        self._clock = clock

    @property
    def pause(self) -> float:
        """Seconds to wait after a failed turn."""
        return min(_SHORTEST * 2.0 ** min(self.failures - 1, 30), _LONGEST)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Surrounds a turn. Only the end of the whole task leaves the block as an exception."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled the task: what it waited for was cancelled.
            self._failed(error)
        except Exception as error:  # noqa: BLE001  whatever may end a task
            self._failed(error)
        else:
            self.failures = 0
            self.failing_since = None

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = self._clock.monotonic()
        telemetry.TASK_FAILURES.labels(self.name).inc()
        log.error("task %s failed, and will be tried again", self.name, exc_info=error)


class Supervisor:
    """The long-lived tasks of one replica."""

    def __init__(self, clock: Clock) -> None:
        """Starts without tasks; takes monotonic time."""
        self._clock = clock
        self._watched: set[Watched] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, name: str, turn: Callable[[], Awaitable[None]], every: float = 0.0
    ) -> asyncio.Task[None]:
        """Starts a task, which takes turns until `stop`, or until somebody cancels it.

        Args:
            name: The task's name.
            turn: Takes one turn.
            every: Seconds before each turn; 0 for a turn that waits by itself.
        """
        task = asyncio.create_task(self._keep(self.watch(name), turn, every), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def insist(self, name: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Tries a piece of work again and again, until it succeeds once.

        Args:
            name: The work's name.
            work: Does the work.

        Returns:
            The result of the work.
        """
        watched = self.watch(name)
        try:
            while True:
                with watched.turn():
                    return await work()
                await asyncio.sleep(watched.pause)
        finally:
            self._watched.discard(watched)

    def watch(self, name: str) -> Watched:
        """Returns what watches a task whose turns somebody else takes."""
        watched = Watched(name, self._clock)
        self._watched.add(watched)
        return watched

    @property
    def failing(self) -> str:
        """The name of a task that has failed for longer than `PATIENCE`; empty if none has.

        Any thread may ask.
        """
        oldest = self._clock.monotonic() - PATIENCE
        for watched in tuple(self._watched):
            since = watched.failing_since
            if since is not None and since < oldest:
                return watched.name
        return ""

    async def stop(self) -> None:
        """Ends every task that `start` started."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(
        self, watched: Watched, turn: Callable[[], Awaitable[None]], every: float
    ) -> None:
        try:
            while True:
                await asyncio.sleep(watched.pause if watched.failures else every)
                with watched.turn():
                    await turn()
        finally:
            self._watched.discard(watched)
