"""One replica: the service's parts joined, started and stopped.

Everything concrete comes in from outside (providers, store, clock), so that tests run the whole
service on fakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.health import Observation
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Clock, KeyProvider, Store
from keyfold_server.service.changes import Changes
from keyfold_server.service.clusters import Clusters
from keyfold_server.service.data_plane import DataPlane
from keyfold_server.service.health import HealthBook
from keyfold_server.service.keys import KeyCache
from keyfold_server.service.kms import Kms
from keyfold_server.service.loads import Loads
from keyfold_server.service.mutations import Mutations
from keyfold_server.service.probes import Probes
from keyfold_server.service.proofs import Proofs
from keyfold_server.service.revocation import Revocation
from keyfold_server.service.rotation import Rotation
from keyfold_server.service.status import Statuses
from keyfold_server.service.storage import Storage
from keyfold_server.service.timing import Timing

log = logging.getLogger(__name__)

_WRITE_HEALTH: Final = 2.0
"""Seconds between two writes of what was observed."""


class Replica:
    """The service of one process.

    Attributes:
        clock: Time.
        data_plane: Wrap, Unwrap and their like.
        loads: What brings keys into memory.
        clusters: Enable and AddRegions.
        rotation: Rotate.
        revocation: Revoke and Restore.
        probes: TestKey.
        statuses: GetStatus and ListClusters.
        changes: What this replica knows of the others.
    """

    def __init__(
        self,
        providers: Callable[[str], KeyProvider],
        platform: Callable[[str], RootKey | None],
        store: Store,
        clock: Clock,
        timing: Timing,
        *,
        max_clusters: int = 20_000,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the parts; `start` brings them to life."""
        self.clock = clock
        self._storage = Storage(store)
        self._kms = Kms(providers, platform, clock, timing.provider_budget)
        self._health = HealthBook(clock, self._storage)
        cache = KeyCache(max_clusters)
        self.loads = Loads(
            cache, self._kms, self._storage, self._health, clock, timing, self._spread
        )
        self.changes = Changes(self._storage, self.loads, clock, timing)
        self.data_plane = DataPlane(
            cache, clock, self.changes.check_serving, self.loads.wanted, random
        )
        self._mutations = Mutations(self._storage, self.changes, clock)
        proofs = Proofs(self._kms, random)
        self.clusters = Clusters(self._mutations, self._kms, proofs, self._health, random)
        self.rotation = Rotation(self._mutations, self.changes, self._kms, proofs, self._health)
        self.revocation = Revocation(
            self._mutations, self.changes, proofs, self._health, clock, timing
        )
        self.probes = Probes(self._kms, clock, random)
        self.statuses = Statuses(self._storage, self.loads, proofs, self._health, clock, timing)
        self._keepers: list[asyncio.Task[None]] = []
        self._spreading: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Registers with the store and begins to follow it and to keep keys fresh."""
        await self.changes.start()
        self._keepers = [
            asyncio.create_task(self.loads.keep_fresh()),
            asyncio.create_task(self._write_health()),
        ]

    async def stop(self) -> None:
        """Ends what is under way, drops every key and signs off."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._mutations.drain()
        await self.loads.drain()
        if self._spreading:
            await asyncio.wait(self._spreading)
        self.loads.drop_all()
        with contextlib.suppress(KeyfoldError):
            await self._health.flush()
        await self.changes.stop()
        self._kms.close()
        self._storage.close()

    def _spread(self, root_id: str, seen: Observation) -> None:
        """Tells the other replicas of a refusal, in the background: here it already counts."""
        task = asyncio.create_task(self._tell(root_id, seen))
        self._spreading.add(task)
        task.add_done_callback(self._spreading.discard)

    async def _tell(self, root_id: str, seen: Observation) -> None:
        try:
            await self._storage.run(
                self._storage.store.refused, root_id, seen, self.changes.replica
            )
        except KeyfoldError as error:
            log.error("a refusal could not be told to the other replicas: %s", error.reason)  # noqa: TRY400

    async def _write_health(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_HEALTH)
            if self._health.pending:
                try:
                    await self._health.flush()
                except KeyfoldError as error:
                    log.warning("observations wait for the store: %s", error.reason)
