"""Tasks of the service: what nobody's deadline cancels (protocol W1)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Tasks:
    """Tasks under way that belong to the service, not to the call that began them."""

    def __init__(self) -> None:
        """Starts with none."""
        self._under_way: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Starts a task; whoever waits for it shields it."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, within: float | None = None) -> None:
        """Waits for the tasks under way; those that take longer are cancelled.

        Args:
            within: Seconds to wait, or None where the tasks are bounded by themselves.
        """
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=within)
            for task in late:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever waited has seen it; nobody need have.
