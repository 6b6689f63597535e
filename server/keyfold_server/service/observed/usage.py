"""The usage recorder: counts uses minute by minute, and adds the counts to those in the store.

The counts are observations (protocol S7): a process that is killed loses those since its last
flush, a minute at most. A flush whose outcome is unknown is repeated under its number, so that the
store adds none twice. The store is told over how long they were counted, so that a clock which was
set moves no use into another hour.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.usage import MINUTE, UsageKey
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.storage import Storage

FLUSH: Final = 30.0
"""Seconds between two writes to the store."""

_AT_ONCE: Final = 1_000
"""Counts that one transaction writes (protocol S12)."""

_MOST: Final = 50_000
"""Most counts that wait for the store; further uses are dropped and counted as dropped."""

_LATE: Final = 60.0
"""Seconds by which a use may be older than the last write before it was counted: calls are counted
some at a time, and the clocks of this machine and of the store may differ a little."""

_KNOWN: Final = 10_000
"""Clusters whose regions are remembered at once."""


class UsageRecorder:
    """The counts of uses that the store does not have yet."""

    def __init__(self, cache: KeyCache, clock: Clock, storage: Storage, writer: str) -> None:
        """Begins to count.

        Args:
            cache: Knows the clusters in use.
            clock: Time.
            storage: The store.
            writer: This process's name.
        """
        self._cache = cache
        self._clock = clock
        self._storage = storage
        self._writer = writer
        self._counts: Counter[UsageKey] = Counter()
        self._regions: dict[str, frozenset[str]] = {}
        self._flush = 1
        # Two at once would take each other's counts for written.
        self._alone = asyncio.Lock()
        self._under_way: dict[UsageKey, int] = {}
        self._since = clock.monotonic()

    def add(
        self,
        time: float,
        method: str,
        cluster: str,
        region: str,
        caller: str,
        outcome: str,
        items: int = 1,
    ) -> None:
        """Counts uses of a cluster's keys, or attempts at them.

        Failed calls for a cluster that this replica does not know are not counted, and a region
        that the cluster does not have counts as none: their callers may have made the names up.

        Args:
            time: When the call ended, in seconds of Unix time.
            method: The method's name.
            cluster: The cluster's name.
            region: The region's name, or empty.
            caller: The caller's name.
            outcome: `OK`, or the error's reason.
            items: How many uses.
        """
        minute = int(time) // 60 * MINUTE
        key = UsageKey(minute, cluster, region, caller, method, outcome)
        if key not in self._counts:
            regions = self._regions_of(cluster)
            if outcome == telemetry.OK:
                # The call has met both, whatever this replica still knows of them.
                self._remember(cluster, (regions or frozenset()) | {region})
            elif regions is None:
                return
            elif region not in regions:
                key = key._replace(region="")
            if key not in self._counts and len(self._counts) >= _MOST:
                telemetry.USES_NOT_COUNTED.inc(items)
                return
        self._counts[key] += items

    def _regions_of(self, cluster: str) -> frozenset[str] | None:
        """Returns the regions of a cluster that this replica knows, or has known lately.

        A change drops the cluster's view, often before the calls ahead of it have been counted.
        """
        view = self._cache.peek(cluster)
        if view is not None:
            self._remember(cluster, frozenset(view.regions))
        return self._regions.get(cluster)

    def _remember(self, cluster: str, regions: frozenset[str]) -> None:
        self._regions.pop(cluster, None)
        self._regions[cluster] = regions
        if len(self._regions) > _KNOWN:
            del self._regions[next(iter(self._regions))]

    async def flush(self) -> None:
        """Adds the counts to those in the store.

        Raises:
            KeyfoldError: The store did not take them; the next flush adds them.
        """
        async with self._alone:
            # Not those that come in meanwhile, or a busy replica would never end.
            waiting, began = list(self._counts), self._clock.monotonic()
            within = int((began - self._since + _LATE) * 1000)
            first = 0
            while self._under_way or first < len(waiting):
                if not self._under_way:
                    some = waiting[first : first + _AT_ONCE]
                    self._under_way = {key: self._counts.pop(key) for key in some}
                    first += _AT_ONCE
                store = self._storage.store
                await self._storage.run(
                    store.count_usage, self._writer, self._flush, dict(self._under_way), within
                )
                self._under_way = {}
                self._flush += 1
            self._since = began
