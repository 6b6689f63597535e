"""Reports: what Keyfold knows of a cluster and its keys, as far as a caller may read it.

A report joins the cluster in the store with what the replicas observed of its keys. It calls no KMS
(`status` does, where an observation is too old).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from keyfold_server.domain.cluster import Cluster, Region, SupersededWrap
from keyfold_server.domain.errors import (
    ForbiddenError,
    KeyfoldError,
    NotFoundError,
    RowNotAuthenticError,
)
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.health import COULD_NOT_TELL, Observation
from keyfold_server.domain.ports import Clock, ReplicaRow, Seen
from keyfold_server.domain.region_health import RegionHealth, subjects_of
from keyfold_server.domain.retention import final_after
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.fleet.serving import served_by
from keyfold_server.service.life import notices
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.observed.uses import UseRecorder
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.storage import RunInStore, Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegionReport:
    """A region, and what the KMS last answered about its newest KEK.

    Attributes:
        region: The region as the store has it.
        seen: The observation of its newest KEK that decides, or None.
        asked: The last observation by a replica that asks as this one does, or None.
        last_uses: The last use of each KEK by kek_id, in milliseconds of Unix time. A KEK that
            nobody ever used is not in it.
        superseded: The superseded wraps of the region's KEKs, oldest first, if the report is made
            with the cluster's history.
        key_region: The provider's own name of the region in which the root key is; may be empty.
        notices: Facts that an operator should know, one line each.
        described: The last observation of whether its root key can be described, or None.
        final_after: Of a deleted region: when the last backup with its keys is gone, in
            milliseconds of Unix time; otherwise None.
        replica_of: The region whose key the region's key is a replica of, if the caller may read
            that one; empty otherwise.
    """

    region: Region
    seen: Observation | None
    asked: Observation | None = None
    last_uses: Mapping[bytes, int] = field(default_factory=dict)
    superseded: tuple[SupersededWrap, ...] = ()
    key_region: str = ""
    notices: tuple[str, ...] = ()
    described: Observation | None = None
    final_after: int | None = None
    replica_of: str = ""


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """A cluster as the store has it, and what a caller may read of it.

    Attributes:
        cluster: The cluster.
        regions: The reports of its regions, sorted by name.
        declared: The declared regions, sorted.
        geos: For each geo whose regions have one key: the regions that the cluster lacks.
    """

    cluster: Cluster
    regions: tuple[RegionReport, ...]
    declared: tuple[str, ...] = ()
    geos: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


def may_read(rights: Rights, cluster: Cluster, region: str) -> bool:
    """Says whether the caller may read a region's status: to see the region is not enough."""
    try:
        rights.check_cluster("GetStatus", cluster.name, cluster.organization, (region,))
    except (ForbiddenError, NotFoundError):
        return False
    return True


class _Part(NamedTuple):
    """What a report of one cluster needs.

    Attributes:
        cluster: The cluster.
        regions: Its regions that the caller may read.
        subjects: The subjects of observations about them.
        kek_ids: Their KEKs.
    """

    cluster: Cluster
    regions: list[Region]
    subjects: list[str]
    kek_ids: list[bytes]

    @classmethod
    def of(cls, cluster: Cluster, rights: Rights) -> _Part:
        """Returns what the report of a cluster to a caller needs."""
        regions = [each for each in cluster.regions if may_read(rights, cluster, each.name)]
        subjects = [s for region in regions for s in subjects_of(region.name, region.newest)]
        kek_ids = [g.kek_id for region in regions for g in region.generations]
        return cls(cluster, regions, subjects, kek_ids)


def _of(known: Mapping[_Key, _Item], keys: Iterable[_Key]) -> dict[_Key, _Item]:
    return {key: known[key] for key in keys if key in known}


class Reports:
    """Makes reports."""

    def __init__(
        self,
        loads: Loads,
        health: HealthRecorder,
        uses: UseRecorder,
        residency: Residency,
        geos: Geos,
        storage: Storage,
        clock: Clock,
        backup_retention: float,
    ) -> None:
        """Takes what this replica knows of keys.

        Args:
            loads: Knows until when a KEK in memory serves.
            health: Knows what the replicas observed of keys.
            uses: Knows when KEKs were last used.
            residency: Knows where root keys are.
            geos: The settings' geos.
            storage: The store, which has what the other replicas know.
            clock: Time.
            backup_retention: Seconds for which the vendor keeps backups.
        """
        self._backup_retention = backup_retention
        self._loads = loads
        self._health = health
        self._uses = uses
        self._residency = residency
        self._geos = geos
        self._storage = storage
        self._clock = clock

    async def report(
        self,
        cluster: Cluster,
        rights: Rights,
        run: RunInStore | None = None,
        *,
        history: Iterable[SupersededWrap] = (),
        with_replicas: bool = False,
    ) -> ClusterReport:
        """Returns the report of a cluster, with the regions that the caller may read.

        Args:
            cluster: The cluster.
            rights: The caller's rights.
            run: Runs the reads of the store; None: the threads for reads.
            history: The cluster's superseded wraps, oldest first. A rotation may have come after
                the cluster was read: what it superseded is current in this report.
            with_replicas: Whether to look which regions the replicas serve, for a notice about
                those that none does.
        """
        [report], _ = await self._reports(
            [cluster], rights, run, history, with_replicas=with_replicas
        )
        return report

    async def with_replicas(
        self, cluster: Cluster, rights: Rights
    ) -> tuple[ClusterReport, list[ReplicaRow] | None]:
        """Returns a report as `report` does, and the replicas; None: the store did not answer.

        Both are read in one round trip (protocol S13), in the threads for changes.
        """
        run = self._storage.decide
        [report], replicas = await self._reports([cluster], rights, run, (), with_replicas=True)
        return report, replicas

    async def reports(self, clusters: Sequence[Cluster], rights: Rights) -> list[ClusterReport]:
        """Returns reports as `report` does, and reads the store as often as for one (S12)."""
        reports, _ = await self._reports(clusters, rights, None, (), with_replicas=True)
        return reports

    async def _reports(
        self,
        clusters: Sequence[Cluster],
        rights: Rights,
        run: RunInStore | None,
        history: Iterable[SupersededWrap],
        *,
        with_replicas: bool = False,
    ) -> tuple[list[ClusterReport], list[ReplicaRow] | None]:
        parts = [_Part.of(cluster, rights) async for cluster in one_by_one(clusters)]
        subjects = [subject for part in parts for subject in part.subjects]
        kek_ids = [kek_id for part in parts for kek_id in part.kek_ids]
        seen = await self._seen(subjects, kek_ids, run, with_replicas=with_replicas)
        served = ServedRegions() if seen.replicas is None else served_by(seen.replicas)
        past: dict[bytes, list[SupersededWrap]] = {}
        for old in history:
            past.setdefault(old.kek_id, []).append(old)
        reports = []
        async for part in one_by_one(parts):
            known = self._health.combined(_of(seen.observations, part.subjects), part.subjects)
            of_cluster = {part.cluster.name: part.kek_ids}
            used = self._uses.combined(_of(seen.last_uses, part.kek_ids), of_cluster)
            each = [await self._region(part, r, known, used, past, served) for r in part.regions]
            reports.append(self._of_cluster(part, tuple(each), rights))
        return reports, seen.replicas

    def _of_cluster(
        self, part: _Part, regions: tuple[RegionReport, ...], rights: Rights
    ) -> ClusterReport:
        cluster = part.cluster
        there = [region.name for region in cluster.regions]

        def readable(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name for name in names if may_read(rights, cluster, name))

        geos = sorted({region.geo for region in part.regions if region.geo})
        return ClusterReport(
            cluster,
            regions,
            readable(cluster.declared_now),
            {geo: readable(self._geos.missing(geo, there)) for geo in geos},
        )

    async def _seen(
        self,
        subjects: Sequence[str],
        kek_ids: Sequence[bytes],
        run: RunInStore | None,
        *,
        with_replicas: bool,
    ) -> Seen:
        """Reads what the replicas observed of subjects, and last uses of KEKs, from the store.

        A store that does not answer is logged and not raised: observations decide nothing, and
        a change that was committed a moment ago must not look as if it had failed.
        """
        read, store = run or self._storage.run, self._storage.store
        try:
            return await read(store.seen, subjects, kek_ids, with_replicas=with_replicas)
        except RowNotAuthenticError as error:
            # Of what is read here, only the replicas' rows have a MAC.
            log.warning("cannot read the replicas from the store: %s", error.message)
            return await self._seen(subjects, kek_ids, run, with_replicas=False)
        except KeyfoldError as error:
            log.warning("cannot read observations from the store: %s", error.reason)
            return Seen({}, {})

    async def _region(
        self,
        part: _Part,
        region: Region,
        known: Mapping[str, Observation],
        used: Mapping[bytes, int],
        past: Mapping[bytes, Sequence[SupersededWrap]],
        served: ServedRegions,
    ) -> RegionReport:
        g = region.newest
        own_since = self._health.own_since
        health = RegionHealth.of(known, region.name, g, own_since)
        seen = health.seen
        place = await self._residency.report(g.current.root, region.name)
        described = health.described if region.in_service else None
        final = (
            None
            if region.purge_time is None
            else final_after(region.purge_time, self._backup_retention)
        )
        more = (
            self._outage(part.cluster, region, seen),
            notices.another_view(region, health, own_since),
            notices.not_described(described),
            notices.unserved(region, served),
            *notices.deletion(region, final),
        )
        return RegionReport(
            region,
            seen,
            self._asked(health),
            {each.kek_id: used[each.kek_id] for each in region.generations if each.kek_id in used},
            superseded=tuple(
                old
                for each in region.generations
                for old in past.get(each.kek_id, ())
                if old.number < each.current.number
            ),
            key_region=place.key_region,
            notices=(*place.notices, *(notice for notice in more if notice is not None)),
            described=described,
            final_after=final,
            replica_of=region.replica_of
            if any(other.name == region.replica_of for other in part.regions)
            else "",
        )

    def _asked(self, health: RegionHealth) -> Observation | None:
        """Returns the last observation by a replica that asks as this one does, or None.

        What a region's own replicas saw tells a control replica enough, and not the other way
        round.
        """
        if not self._loads.served.all:
            return health.own
        both = [each for each in (health.own, health.common) if each is not None]
        return max(both, key=lambda each: each.last_check, default=None)

    def _outage(self, cluster: Cluster, region: Region, seen: Observation | None) -> str | None:
        """Returns a notice of how long a region serves while its KMS cannot be asked (F1, F6)."""
        if not region.in_service or seen is None or seen.health not in COULD_NOT_TELL:
            return None
        if not self._loads.served.serves(region.name):
            return (
                "the KMS cannot be asked; the replica that answers here does not serve the region, "
                "and does not know until when those serve on that do"
            )
        ends = self._loads.freshness.grace_ends(cluster.name, region.newest.kek_id)
        if ends is None:
            return (
                "the KMS cannot be asked, and the replica that answers here has no key of this "
                "region in memory: its calls fail until the KMS answers"
            )
        left = ends - self._clock.monotonic()
        at = notices.time_text(self._clock.wall() + left)
        if left <= 0:
            return f"the KMS cannot be asked, and the outage grace ended at {at}: calls fail"
        return (
            "the KMS cannot be asked; the replica that answers here serves on from memory until "
            f"{at} at the latest, which is counted from its last proof"
        )
