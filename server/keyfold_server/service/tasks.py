"""Tasks that belong to the service, so that no caller's deadline cancels them (protocol W1).

Often nobody waits for such a task any more, so an unexpected failure is logged and counted here
(protocol W4), whether or not a caller learns of it as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Tasks:
    """The running tasks of the service. Each outlives the call that began it."""

    def __init__(self) -> None:
        """Starts without tasks."""
        self._under_way: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Starts a task. Whoever awaits it must shield it from their own cancellation."""
        task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, within: float | None = None) -> None:
        """Waits for the running tasks, and cancels those that take too long.

        Args:
            within: Seconds to wait; None waits until all have ended.
        """
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=within)
            for task in late:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeyfoldError):
            telemetry.TASK_FAILURES.labels(task.get_name()).inc()
            log.error("task %s failed", task.get_name(), exc_info=error)
