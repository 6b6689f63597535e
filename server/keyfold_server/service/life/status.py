"""Status: GetStatus, which calls the KMS where the last observation of a key is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region, SupersededWrap, existing
from keyfold_server.domain.errors import KeyfoldError, KmsError
from keyfold_server.domain.health import Health
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.call import Call, Need
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.reports import ClusterReport, RegionReport, Reports, may_read
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage

_FRESH: Final = 5.0
"""Seconds for which an observation is fresh enough for a status, whatever the TTL."""

_BEFORE_DEADLINE: Final = 0.2
"""Seconds before the caller's deadline at which a status stops waiting for a KMS."""


class Status:
    """Answers GetStatus."""

    def __init__(
        self,
        storage: Storage,
        loads: Loads,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        reports: Reports,
        clock: Clock,
        timing: Timing,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins GetStatus to memory, KMS and store.

        Args:
            storage: The store.
            loads: Brings KEKs into memory.
            kek_wrapper: Tries whether root keys wrap.
            health: Records what this replica observes of keys.
            reports: Makes the reports.
            clock: Time.
            timing: The TTL of a region whose policy sets none.
            check_fresh: Raises if this replica is stale. A database that it can still read may be
                a frozen copy, whose content is long out of date.
        """
        self._storage = storage
        self._loads = loads
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._reports = reports
        self._clock = clock
        self._timing = timing
        self._check_fresh = check_fresh

    async def get(self, rights: Rights, name: str, deadline: float) -> ClusterReport:
        """Returns a cluster's report; calls the KMS where its last answer is older than the TTL.

        It never calls the KMS of a revoked region, or of one that this replica does not serve.

        Raises:
            ClusterNotFoundError: The cluster does not exist, or the caller may not see it.
            NotAllowedError: The caller may not read its status.
            RowNotAuthenticError: A row of the cluster, or of its history, is not authentic.
            StoreStaleError: This replica has not seen the store for too long.
        """
        check_name(name, "cluster")
        rights.check_named("GetStatus", name, ())
        self._check_fresh(self._clock.monotonic())
        cluster = existing(await self._storage.run(self._storage.store.cluster, name), name)
        readable = [
            region.name for region in cluster.regions if may_read(rights, cluster, region.name)
        ]
        rights.check_cluster("GetStatus", name, cluster.organization, readable)
        history = await self._history(cluster)
        report = await self._report(cluster, rights, history)
        serves = self._kek_wrapper.served.serves
        old = [r.region for r in report.regions if serves(r.region.name) and self._is_old(r)]
        if not old:
            return report
        ends = deadline - _BEFORE_DEADLINE
        await asyncio.gather(*(self._observe(rights, cluster, region, ends) for region in old))
        return await self._report(cluster, rights, history)

    async def _report(
        self, cluster: Cluster, rights: Rights, history: Sequence[SupersededWrap]
    ) -> ClusterReport:
        return await self._reports.report(cluster, rights, history=history, with_replicas=True)

    async def _history(self, cluster: Cluster) -> list[SupersededWrap]:
        """Reads a cluster's superseded wraps from the store, if it has any (protocol C6)."""
        generations = (g for region in cluster.regions for g in region.generations)
        if all(generation.current.number == 1 for generation in generations):
            return []
        return await self._storage.run(self._storage.store.superseded_wraps, cluster.name)

    def _is_old(self, report: RegionReport) -> bool:
        """Says whether the KMS is to be called before this report is given out."""
        if not report.region.in_service:
            return False
        seen = report.asked
        if seen is None:
            return True
        # An observation from the future was made before a clock was set back: it is as old.
        age = abs(self._clock.wall() - seen.last_check / 1000)
        if seen.can_wrap is None or seen.can_unwrap is None:
            # Spare a KMS that refused or could not be asked a moment ago.
            return seen.health is Health.HEALTHY or age > _FRESH
        ttl = report.region.policy.cache_ttl
        return age > max(_FRESH, self._timing.cache_ttl if ttl is None else ttl)

    async def _observe(self, rights: Rights, cluster: Cluster, region: Region, ends: float) -> None:
        """Has a region's root key unwrap and wrap, and records the answers."""
        call = Call(rights, self._clock.monotonic())
        await self._loads.satisfy([Need(cluster.name)], call, ends)
        if not call.failed:
            need = Need(cluster.name, region.newest.kek_id)
            await self._loads.satisfy([need], call, ends, uses=False)
        left = max(0.0, ends - self._clock.monotonic())
        try:
            await asyncio.wait_for(
                self._kek_wrapper.prove_wrap(cluster, region.name, region.newest), timeout=left
            )
        except TimeoutError:
            return
        except KmsError as error:
            self._health.wrapping(region.name, region.newest, error)
        except KeyfoldError:
            return
        else:
            self._health.wrapping(region.name, region.newest, None)
