"""Verification: holds the clusters in memory against their rows in the store (protocol A6).

A replica reads a cluster's rows when it loads the cluster, and again when the log says that they
changed. Whoever edits rows by hand writes no entry of the log. So each replica reads the rows of
every cluster in its memory again, at least once per sweep, and drops those whose rows serve nobody.
"""

from __future__ import annotations

import logging
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.cluster import Cluster, no_cluster
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

TURNS: Final = 100
"""Turns in which every cluster is verified once."""

_LEAST: Final = 50
"""Clusters in one turn, if there are as many. A small memory takes few statements."""

_AT_ONCE: Final = 250
"""Most clusters in one statement."""


class Verification:
    """Verifies the clusters in memory, some at each turn."""

    def __init__(self, cache: KeyCache, loads: Loads, storage: Storage) -> None:
        """Joins memory to the store."""
        self._cache = cache
        self._loads = loads
        self._storage = storage
        self._left: list[str] = []
        self._share = _LEAST
        self._turns = 0
        self._failing = False

    async def turn(self) -> None:
        """Verifies the next clusters, if the store can be read."""
        if self._turns % TURNS == 0:
            # Those that are left had their turn kept from them by the store: they come first.
            names = dict.fromkeys([*reversed(self._left), *self._cache.names()])
            self._left = list(reversed(names))
            self._share = max(_LEAST, -(-len(self._left) // TURNS))
        self._turns += 1
        due = min(self._share, len(self._left))
        while due > 0:
            some = self._left[-min(due, _AT_ONCE) :]
            try:
                again = await self._verify(some)
            except KeyfoldError as error:
                if not self._failing:
                    log.warning("the store does not say what it has: %s", error.reason)
                self._failing = True
                return
            self._failing = False
            self._left[-len(some) :] = again
            due -= len(some) - len(again)

    async def _verify(self, names: list[str]) -> list[str]:
        """Verifies clusters, and returns those that must be verified again at once."""
        views = {name: view for name in names if (view := self._cache.peek(name)) is not None}
        if not views:
            return []
        again: list[str] = []
        found = await self._storage.run(self._storage.store.named, list(views))
        for name, view in views.items():
            stored = found.get(name, no_cluster(name))
            if isinstance(stored, Cluster):
                continue
            if not self._cache.holds(view):
                # The read that brought the view in its place may have begun before somebody spoilt
                # the rows, or after somebody mended them. No read can go on bringing such views.
                again.append(name)
                continue
            log.error("dropped the keys of cluster %s: %s", name, stored.message)
            telemetry.CLUSTERS_DISTRUSTED.labels(stored.reason).inc()
            self._loads.distrust(name)
        return again
