"""Attempts that were refused, on their way into the log (protocol R5).

Whoever makes many such attempts must not hold up a Revoke. So they go into the store in groups, one
group at a time and at a limited pace: while one is on its way, the next one collects. A caller's
answer waits for the caller's group, so an attempt is in the log before its answer is out. But no
answer changes because the store did not take it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.log import Attempt
from keyfold_server.service.fleet.pace import Pace
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_GROUP: Final = 100
"""Most attempts in one group."""

_SPACING: Final = 0.1
"""Seconds from the beginning of one group to that of the next in the long run."""

_WAITING: Final = 2_000
"""Most attempts that wait for a group. Further ones are dropped and counted."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """An attempt that waits for its group, and the future that ends with the group."""

    attempt: Attempt
    done: asyncio.Future[None]


class Attempts:
    """Appends refused attempts to the log, in groups; belongs to one event loop."""

    def __init__(self, storage: Storage) -> None:
        """Takes the store."""
        self._storage = storage
        self._tasks = Tasks()
        self._pace = Pace(_SPACING)
        self._waiting: list[_Waiting] = []
        self._appending = False
        self._dropped = 0

    async def stop(self) -> None:
        """Waits until the last group is on its way no longer."""
        await self._tasks.drain()

    async def append(self, attempt: Attempt) -> None:
        """Appends an attempt; returns when the store has its group, or did not take it.

        It raises nothing: the attempt has its answer already.
        """
        if len(self._waiting) >= _WAITING:
            telemetry.ATTEMPTS_DROPPED.inc()
            self._dropped += 1
            return
        waiting = _Waiting(attempt, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._appending:
            self._appending = True
            self._tasks.start(self._append())
        await waiting.done

    async def _append(self) -> None:
        """Appends group after group, until nobody waits."""
        try:
            while self._waiting:
                await asyncio.sleep(self._pace.take())
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                try:
                    await self._stored([each.attempt for each in group])
                finally:
                    for each in group:
                        if not each.done.done():  # Otherwise the caller has gone.
                            each.done.set_result(None)
        finally:
            self._appending = False

    async def _stored(self, group: list[Attempt]) -> None:
        if self._dropped:
            log.warning("attempts came too fast for the log, which lacks %d", self._dropped)
            self._dropped = 0
        try:
            await self._storage.decide(self._storage.store.attempted, group)
        except KeyfoldError as error:
            log.warning("the store did not record %d attempts: %s", len(group), error.reason)
        except Exception:
            log.exception("recording attempts failed unexpectedly")
