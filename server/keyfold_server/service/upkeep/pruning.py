"""Pruning: removes from the store what it keeps for a limited time: request ids, old entries."""

from __future__ import annotations

import logging
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

INTERVAL: Final = 3600.0
"""Seconds between two prunings; the store keeps what it keeps for at least a day."""


class Pruning:
    """Prunes the store."""

    def __init__(self, storage: Storage, clock: Clock, log_retention: float) -> None:
        """Takes the store to prune, time, and for how many seconds the log is kept."""
        self._storage = storage
        self._clock = clock
        self._log_retention = int(log_retention * 1000)

    async def prune(self) -> None:
        """Prunes the store, if it is there."""
        try:
            now = int(self._clock.wall() * 1000)
            await self._storage.run(self._storage.store.prune, now, self._log_retention)
        except KeyfoldError as error:
            log.warning("the store was not pruned: %s", error.reason)
