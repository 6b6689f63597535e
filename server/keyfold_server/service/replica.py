"""One replica: the service's parts joined, started and stopped.

Everything concrete comes in from outside (providers, store, clock), so that tests run the whole
service on fakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.health import Observation
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Clock, Store
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.data_plane import DataPlane
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.data.keyring import Keyring
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.access_policies import AccessPolicies
from keyfold_server.service.life.admission import NewKeys
from keyfold_server.service.life.clusters import Clusters
from keyfold_server.service.life.external_ids import ExternalIds
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.life.revocation import Revocation
from keyfold_server.service.life.rotation import Rotation
from keyfold_server.service.life.scope import Scopes
from keyfold_server.service.life.status import Statuses
from keyfold_server.service.life.trials import Trials
from keyfold_server.service.limits import Accounts
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.observed.uses import FLUSH, UseRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.upkeep.auto_rotation import AutoRotation
from keyfold_server.service.upkeep.sweep import Sweep

log = logging.getLogger(__name__)

_WRITE_HEALTH: Final = 2.0
"""Seconds between two writes of what was observed."""

_LAST_WORDS: Final = 5.0
"""Seconds for which a replica that stops goes on trying to tell of a refusal."""

_PRUNE: Final = 3600.0
"""Seconds between two removals of what is kept for 24 hours."""

_MEASURE: Final = 5.0
"""Seconds between two looks at what is in memory."""

_CENSUS: Final = 6
"""Looks at memory for one count of the store's regions."""


class Replica:
    """The service of one process.

    Attributes:
        clock: Time.
        data_plane: Wrap, Unwrap and their like.
        loads: What brings keys into memory.
        clusters: Enable and AddRegions.
        rotation: Rotate.
        revocation: Revoke and Restore.
        trials: TestKey.
        access_policies: GetAccessPolicy.
        statuses: GetStatus and ListClusters.
        changes: What this replica knows of the others.
        sweep: Asks about keys that nobody else asks about.
        bounds: What this replica lets in.
        callers: What each caller has used of them.
        organizations: What each organization has.
    """

    def __init__(
        self,
        providers: Callable[[str], KeyProvider],
        platform: Callable[[str], RootKey | None],
        store: Store,
        clock: Clock,
        timing: Timing,
        *,
        bounds: Bounds | None = None,
        regions: ResidencyPolicy | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the parts; `start` brings them to life."""
        self.clock = clock
        self._storage = Storage(store)
        self._retry = timing.store_poll
        self.bounds = bounds or Bounds()
        self._kms = KmsClient(providers, clock, timing.provider_budget, self.bounds.kms_rates)
        self._health = HealthRecorder(clock, self._storage)
        self._cache = cache = KeyCache(self.bounds.cached_clusters)
        self._uses = UseRecorder(cache, clock, self._storage)
        self._tasks = Tasks()
        self._telling = Tasks()
        self.loads = Loads(
            cache, self._kms, self._storage, self._health, clock, timing, self._spread, self._tasks
        )
        self.changes = Changes(self._storage, self.loads, clock, timing, self._tasks)
        self.callers = Accounts(
            self.bounds.calls_per_caller, self.bounds.rate_per_caller, "caller", clock
        )
        self.organizations = Accounts(
            self.bounds.calls_per_organization,
            self.bounds.rate_per_organization,
            "organization",
            clock,
        )
        keyring = Keyring(
            cache,
            clock,
            self.changes.check_serving,
            self.loads.refresh_on_grace,
            self.organizations,
        )
        self.data_plane = DataPlane(keyring, random)
        self._mutations = Mutations(
            self._storage, self.changes, clock, self._tasks, self.organizations
        )
        regions = regions or ResidencyPolicy()
        external_ids = ExternalIds(self._storage, clock, random)
        resolution = Resolution(self._kms, platform, regions, external_ids)
        new_keys = NewKeys(self._kms, resolution, regions)
        kek_wrapper = KekWrapper(self._kms, self.loads.refused, random)
        self.clusters = Clusters(self._mutations, new_keys, kek_wrapper, self._health, random)
        self.rotation = Rotation(
            self._mutations,
            self.changes,
            self._kms,
            resolution,
            new_keys,
            kek_wrapper,
            self._health,
        )
        self.revocation = Revocation(
            self._mutations, self.changes, kek_wrapper, self._health, clock, timing
        )
        scopes = Scopes(self._storage)
        self.trials = Trials(self._kms, scopes, resolution, clock, random)
        self.access_policies = AccessPolicies(
            self._kms, scopes, resolution, external_ids, self.changes
        )
        self.statuses = Statuses(
            self._storage,
            self.loads,
            kek_wrapper,
            self._health,
            self._uses,
            resolution,
            clock,
            timing,
            check_fresh=self.changes.check_fresh,
        )
        self.sweep = Sweep(
            cache,
            self.loads,
            kek_wrapper,
            self._health,
            self._storage,
            timing.sweep,
            lambda: self.changes.check_serving(clock.monotonic()),
            AutoRotation(resolution, self.rotation, kek_wrapper, self._storage, clock),
        )
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Registers with the store and begins to follow it and to keep keys fresh."""
        await self.changes.start()
        self._keepers = [
            asyncio.create_task(self.loads.freshness.keep()),
            asyncio.create_task(self.sweep.keep()),
            asyncio.create_task(self._write_health()),
            asyncio.create_task(self._write_uses()),
            asyncio.create_task(self._prune()),
            asyncio.create_task(self._measure()),
        ]

    def room_of(self, cluster: str) -> AbstractContextManager[None]:
        """Holds a place among the calls that wait for one organization's keys.

        Raises:
            OverloadedError: There is none.
        """
        view = self._cache.view(cluster)
        organization = None if view is None else view.cluster.organization
        if organization is None:
            return contextlib.nullcontext()
        return self.organizations.of(organization).room.place()

    async def stop(self) -> None:
        """Ends what is under way, drops every key and signs off."""
        _, _, graced = self._cache.count(self.clock.monotonic())
        if graced:
            log.warning("%d keys serve on grace in an outage; this stop ends that", graced)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._tasks.drain()
        await self._telling.drain(_LAST_WORDS)
        self.loads.drop_all()
        for flush in (self._health.flush, self._uses.flush):
            with contextlib.suppress(KeyfoldError):
                await flush()
        await self.changes.stop()
        self._kms.close()
        self._storage.close()

    def _spread(self, root_id: str, seen: Observation, kek_id: bytes | None) -> None:
        """Tells the other replicas of a refusal, in the background: here it already counts."""
        self._telling.start(self._tell(root_id, seen, kek_id))

    async def _tell(self, root_id: str, seen: Observation, kek_id: bytes | None) -> None:
        """Tells until it is told: nobody asks this key again in time to notice that it was not."""
        while True:
            try:
                await self._storage.decide(
                    self._storage.store.refused, root_id, seen, self.changes.replica, kek_id
                )
            except KeyfoldError as error:
                log.error("a refusal waits to be told to other replicas: %s", error.reason)  # noqa: TRY400
                await asyncio.sleep(self._retry)
            else:
                return

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE)
            try:
                now = int(self.clock.wall() * 1000)
                await self._storage.run(self._storage.store.prune, now)
            except KeyfoldError as error:
                log.warning("old requests could not be removed: %s", error.reason)

    async def _measure(self) -> None:
        """Keeps the gauges; what only the store can count is counted less often."""
        for turn in itertools.count():
            clusters, keks, graced = self._cache.count(self.clock.monotonic())
            telemetry.CACHED_CLUSTERS.set(clusters)
            telemetry.CACHED_KEKS.set(keks)
            telemetry.KEKS_IN_GRACE.set(graced)
            telemetry.STORE_AGE.set(self.changes.age())
            if turn % _CENSUS == 0:
                try:
                    census = await self._storage.run(self._storage.store.census)
                    cannot_wrap = await self._storage.run(self._storage.store.cannot_wrap)
                except KeyfoldError as error:
                    log.warning("the regions could not be counted: %s", error.reason)
                else:
                    telemetry.CANNOT_WRAP.set(cannot_wrap)
                    telemetry.REGIONS.clear()
                    for (state, health), count in census.items():
                        telemetry.REGIONS.labels(state, health).set(count)
            await asyncio.sleep(_MEASURE)

    async def _write_health(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_HEALTH)
            if self._health.pending:
                try:
                    await self._health.flush()
                except KeyfoldError as error:
                    log.warning("observations wait for the store: %s", error.reason)

    async def _write_uses(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            try:
                await self._uses.flush()
            except KeyfoldError as error:
                log.warning("last uses wait for the store: %s", error.reason)
