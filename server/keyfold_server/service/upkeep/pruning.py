"""Pruning: removes what the store keeps for a limited time.

That is request ids, counts, claims of the sweep's turns, old entries of the log, and superseded
wraps that no backup needs.

Before that, it has cursors expire that nobody advances, so that no dead reader keeps the log for
ever (protocol S11).
"""

from __future__ import annotations

import logging
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

INTERVAL: Final = 3600.0
"""Seconds between two prunings; the store keeps what it keeps for at least a day."""


class Pruning:
    """Prunes the store."""

    def __init__(self, storage: Storage, clock: Clock, timing: Timing) -> None:
        """Takes the store to prune, time, and for how long the store keeps what."""
        self._storage = storage
        self._clock = clock
        self._log_retention = int(timing.log_retention * 1000)
        self._cursor_expiry = int(timing.cursor_expiry * 1000)
        self._usage_retention = int(timing.usage_retention * 1000)
        self._backup_retention = int(timing.backup_retention * 1000)

    async def prune(self) -> None:
        """Prunes the store, if it is there."""
        try:
            now = int(self._clock.wall() * 1000)
            await self._expire(now)
            store = self._storage.store
            await self._storage.run(store.prune_usage, now, self._usage_retention)
            await self._storage.run(store.prune_turns, now)
            await self._storage.run(store.prune, now, self._log_retention)
            await self._prune_history(now)
        except KeyfoldError as error:
            log.warning("the store was not pruned: %s", error.reason)

    async def _prune_history(self, now: int) -> None:
        store = self._storage.store
        for name in await self._storage.run(store.prune_history, now, self._backup_retention):
            log.error(
                "the history of superseded wraps of cluster %s is not authentic, and was not "
                "pruned: somebody else wrote the store; see `keyfold-server seal`",
                name,
            )

    async def _expire(self, now: int) -> None:
        store = self._storage.store
        for cursor in await self._storage.run(store.expire_cursors, now, self._cursor_expiry):
            telemetry.CURSORS_EXPIRED.inc()
            log.error(
                "cursor %s of %s has expired at entry %d: nobody advanced it, and its reader loses "
                "what is pruned from now on",
                cursor.key.name,
                cursor.key.owner,
                cursor.position.number,
            )
