"""Gauges: sets the metrics that say how things stand, such as the number of KEKs in memory."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

_INTERVAL: Final = 5.0
"""Seconds between two counts of what is in memory."""

_CENSUS: Final = 6
"""Counts of memory for one turn to count the regions in the store, which reads all of them."""

_CLAIM: Final = "census"
"""Name of the claim that lets one replica of all count the regions."""

_HOLDS: Final = int(0.9 * _CENSUS * _INTERVAL * 1000)
"""Milliseconds for which the claim holds. It is less than the time between two turns, so that the
replica that counts usually goes on counting, and another takes over when that replica stops."""


class Gauges:
    """Sets the gauges."""

    def __init__(
        self, cache: KeyCache, storage: Storage, clock: Clock, age: Callable[[], float]
    ) -> None:
        """Takes what the gauges show.

        Args:
            cache: The clusters and KEKs in memory.
            storage: The store, which counts regions.
            clock: Monotonic time.
            age: Returns the seconds since this replica saw the store.
        """
        self._cache = cache
        self._storage = storage
        self._clock = clock
        self._age = age

    async def keep(self) -> None:
        """Sets the gauges every few seconds, until cancelled."""
        for turn in itertools.count():
            clusters, keks, graced = self._cache.count(self._clock.monotonic())
            telemetry.CACHED_CLUSTERS.set(clusters)
            telemetry.CACHED_KEKS.set(keks)
            telemetry.KEKS_IN_GRACE.set(graced)
            telemetry.STORE_AGE.set(self._age())
            if turn % _CENSUS == 0:
                await self.count_regions()
            await asyncio.sleep(_INTERVAL)

    async def count_regions(self) -> None:
        """Counts the regions in the store if no other replica does, and shows no count if one does.

        Two replicas may show a count until the next turn of the one that counted before.
        """
        try:
            if not await self._storage.run(self._storage.store.claim, _CLAIM, _HOLDS):
                telemetry.REGIONS.clear()
                telemetry.CANNOT_WRAP.set(0)
                return
            census = await self._storage.run(self._storage.store.census)
            cannot_wrap = await self._storage.run(self._storage.store.cannot_wrap)
        except KeyfoldError as error:
            log.warning("the store did not count the regions: %s", error.reason)
            return
        telemetry.CANNOT_WRAP.set(cannot_wrap)
        telemetry.REGIONS.clear()
        for (state, health), count in census.items():
            telemetry.REGIONS.labels(state, health).set(count)
