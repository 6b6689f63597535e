"""Gauges: the metrics that say how things stand, such as the number of KEKs in memory.

They are computed when they are scraped, so no task whose end would freeze them sets them. Only the
count of the regions in the store comes from a task, because it reads all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.upkeep.turns import Turns
from keyfold_server.service.upkeep.unserved import UnservedRegions

log = logging.getLogger(__name__)

_INTERVAL: Final = 30.0
"""Seconds between two turns to count the regions in the store."""

_CLAIM: Final = "census"
"""Name of the claim that lets one replica of all count the regions."""

_HOLDS: Final = int(0.9 * _INTERVAL * 1000)
"""Milliseconds for which the claim holds. It is less than the time between two turns, so that the
replica that counts usually goes on counting, and another takes over when that replica stops."""


class Gauges:
    """Shows the gauges."""

    def __init__(
        self,
        cache: KeyCache,
        storage: Storage,
        clock: Clock,
        age: Callable[[], float],
        turns: Turns,
        unserved: UnservedRegions,
        health: HealthRecorder,
    ) -> None:
        """Takes what the gauges show.

        Args:
            cache: The clusters and KEKs in memory.
            storage: The store, which counts regions.
            clock: Time.
            age: Returns the seconds since this replica saw the store.
            turns: Says how long the parts of the sweep wait.
            unserved: Reports the regions that no live replica serves.
            health: Knows since when what a region's own replicas saw decides.
        """
        self._cache = cache
        self._storage = storage
        self._clock = clock
        self._age = age
        self._turns = turns
        self._unserved = unserved
        self._health = health

    def show(self) -> None:
        """Has the gauges show this replica from now on, each at the moment of a scrape."""
        telemetry.CACHED_CLUSTERS.set_function(lambda: self._count()[0])
        telemetry.CACHED_KEKS.set_function(lambda: self._count()[1])
        telemetry.KEKS_IN_GRACE.set_function(lambda: self._count()[2])
        telemetry.STORE_AGE.set_function(self._age)
        telemetry.SWEEP_AGE.set_function(lambda: self._turns.age)
        telemetry.SWEEP_INTERVAL.set(self._turns.interval)

    def _count(self) -> tuple[int, int, int]:
        return self._cache.count(self._clock.monotonic())

    async def turn(self) -> None:
        """Counts the regions, and waits for the next turn."""
        await self.count_regions()
        await asyncio.sleep(_INTERVAL)

    async def count_regions(self) -> None:
        """Counts the regions in the store if no other replica does, and shows no count if one does.

        A count that fails is not shown either, because the one before it may be long past. Two
        replicas may show a count until the next turn of the one that counted before.
        """
        census: dict[tuple[str, str], int] = {}
        cannot_wrap = 0
        failing: dict[tuple[str, str], int] = {}
        looked = False
        try:
            if await self._storage.run(self._storage.store.claim, {_CLAIM: _HOLDS}):
                since, store = self._health.own_since, self._storage.store
                census = await self._storage.run(store.census, since)
                cannot_wrap = await self._storage.run(store.cannot_wrap, since)
                failing = await self._storage.run(store.failing, since)
                await self._unserved.look()
                looked = True
        except KeyfoldError as error:
            log.warning("the store did not count the regions: %s", error.reason)
        finally:
            if not looked:
                self._unserved.forget()
            telemetry.CANNOT_WRAP.set(cannot_wrap)
            telemetry.ROOT_KEY_FAILING.clear()
            for (health, region), began in failing.items():
                age = max(0.0, self._clock.wall() - began / 1000)
                telemetry.ROOT_KEY_FAILING.labels(health, region).set(age)
            telemetry.REGIONS.clear()
            for (state, health), count in census.items():
                telemetry.REGIONS.labels(state, health).set(count)
