"""Deletion: DeleteCluster ends the life of regions' keys, and UndeleteCluster takes that back.

A deletion says when the keys are to be erased; `upkeep` erases them (protocol D3). Neither method
asks a KMS, so that an outage on the last day cannot keep anybody from taking a deletion back (D2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.changes import deleted, undeleted
from keyfold_server.domain.cluster import Cluster, Generation, existing
from keyfold_server.domain.erasure import at_once
from keyfold_server.domain.errors import InvalidWaitingPeriodError, RegionsNotChosenError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.retention import final_after
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.texts import check_reason
from keyfold_server.domain.timing import Timing
from keyfold_server.domain.usage import MINUTE, UsageFilter, UsageKey, UsageQuery
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.acknowledgements import Acknowledgements
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.reports import ClusterReport, RegionReport, Reports
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.storage import Storage

_DAY: Final = 24 * 60 * MINUTE
"""Milliseconds of a day."""

WAITING: Final = 7 * _DAY
"""Milliseconds of the waiting period if the request gives none."""

MOST_WAITING: Final = 90 * _DAY
"""Milliseconds of the longest waiting period."""

_RECENT: Final = 30 * _DAY
"""Milliseconds back to which the answer counts uses."""

_EVERYTHING: Final = (Coverage(None, None),)
_ROWS: Final = 1_000
"""Most counts in one read of the store."""


@dataclass(frozen=True, slots=True)
class DeleteClusterRequest:
    """The request of DeleteCluster.

    Attributes:
        cluster: The cluster's name.
        regions: The names of the regions to delete; empty with `all_regions`.
        all_regions: Whether to delete every region, and the cluster with them.
        waiting: Milliseconds until Keyfold erases the keys; None: the default.
        reason: The caller's reason, for the audit trail.
        validate_only: Whether to say what would become unreadable, and store nothing.
    """

    cluster: str
    regions: tuple[str, ...]
    all_regions: bool
    waiting: int | None
    reason: str
    validate_only: bool

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names; empty: all regions."""
        return self.regions

    @property
    def at_once(self) -> bool:
        """Whether the keys go without a wait, if nobody has ever used the cluster (D6)."""
        return self.waiting == 0


@dataclass(frozen=True, slots=True)
class UndeleteClusterRequest:
    """The request of UndeleteCluster.

    Attributes:
        cluster: The cluster's name.
        regions: The names of the regions; empty: all that are deleted.
        reason: The caller's reason, for the audit trail.
    """

    cluster: str
    regions: tuple[str, ...]
    reason: str

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names."""
        return self.regions


@dataclass(frozen=True, slots=True)
class Loss:
    """A generation that a deletion makes unreadable, with what it wrapped.

    Attributes:
        region: The region's name.
        generation: The generation.
        last_use: When it was last used, in milliseconds of Unix time; None: never.
        recent_uses: How often the region's keys were used in the last 30 days.
    """

    region: str
    generation: Generation
    last_use: int | None
    recent_uses: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """How DeleteCluster ended.

    Attributes:
        mutation: The change itself.
        report: The report of the cluster as it is now or, with `validate_only`, as it would be;
            None: no region of it is left, so it is gone.
        losses: What becomes unreadable, by region and generation.
        purge_time: When the last of the regions is erased, in milliseconds of Unix time by the
            store's clock; None: a repeated request, and the deletion has been taken back since.
        final_after: When the last backup with these keys is gone, in milliseconds of Unix time.
        confirmed: The names of the replicas that have applied the deletion.
        pending: The replicas that have not confirmed that they did.
        erased: Whether the keys are gone at once, because nobody had ever used them. No replica has
            them in memory, so none has to confirm it.
    """

    mutation: MutationResult
    report: ClusterReport | None
    losses: tuple[Loss, ...]
    purge_time: int | None
    final_after: int | None
    confirmed: tuple[str, ...] = ()
    pending: tuple[PendingReplica, ...] = ()
    erased: bool = False


class Deletion:
    """Carries out DeleteCluster and UndeleteCluster."""

    def __init__(
        self,
        mutations: Mutations,
        acknowledgements: Acknowledgements,
        reports: Reports,
        storage: Storage,
        timing: Timing,
    ) -> None:
        """Joins deletions to the store and to the other replicas.

        Args:
            mutations: Carries out changes.
            acknowledgements: Waits for the other replicas.
            reports: Makes the reports of clusters.
            storage: The store, in threads.
            timing: How long the vendor keeps backups.
        """
        self._mutations = mutations
        self._acknowledgements = acknowledgements
        self._reports = reports
        self._storage = storage
        self._timing = timing

    async def delete(self, call: MutationCall[DeleteClusterRequest]) -> DeleteResult:
        """Has the keys of regions erased after a waiting period (protocol D1).

        It loses no race, as Revoke does, and answers as Revoke does. Without a waiting period,
        regions of a cluster that was never used are erased at once, from any state, and an operator
        may do so (protocol D6).

        Raises:
            RegionsNotChosenError: The request names no regions and does not say `all_regions`, or
                does both.
            InvalidWaitingPeriodError: The waiting period is out of bounds.
            NotRevokedError: A region is not revoked; nothing was changed.
            KeyDeletedError: A region is deleted already, with another waiting period.
            NotAllowedError: The caller may delete only a cluster that was never used.
            ConcurrentChangeError: The cluster was used for the first time at this moment.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions(request.regions, "regions")
        check_reason(request.reason)
        _check_chosen(request)
        waiting = WAITING if request.waiting is None else request.waiting
        if not 0 <= waiting <= MOST_WAITING:
            raise InvalidWaitingPeriodError(
                f"waiting_period must be 0 to {MOST_WAITING // _DAY} days; leave it out for "
                f"{WAITING // _DAY} days",
                cluster=request.cluster,
                field="waiting_period",
            )
        change = deleted(request.cluster, request.regions, waiting)
        days = waiting / _DAY
        message = f"to be erased after {days:g} days; UndeleteCluster takes it back until then"

        async def work(seen: Cluster | None) -> tuple[MutationResult, dict[str, int]]:
            cluster = existing(seen, request.cluster)
            chosen, told, uses = change, message, {}
            if request.at_once and cluster.unused:
                chosen, told = at_once(cluster, request.regions), "erased; it was never used"
            else:
                _check_may_delete(call, cluster)
                # Before the commit, so that a store that cannot say it now changes nothing.
                uses = await self._recent_uses(request.cluster)
            if request.validate_only:
                would_be = chosen.at(self._mutations.now())(cluster)
                return MutationResult(would_be.cluster), uses
            return await self._mutations.commit(call, chosen, told), uses

        mutation, uses = await self._mutations.run(call, work, lambda replayed: (replayed, {}))
        if request.validate_only or _is_erased(request, mutation.cluster):
            return await self._result(call, mutation, uses)
        if mutation.replayed:
            uses = await self._recent_uses(request.cluster)
        confirmed, pending, _ = await self._acknowledgements.of(call, mutation.number)
        return await self._result(call, mutation, uses, confirmed, pending)

    async def undelete(self, call: MutationCall[UndeleteClusterRequest]) -> MutationResult:
        """Takes deletions back: the regions are revoked again (protocol D2).

        Raises:
            ClusterNotFoundError: The cluster is erased, or never existed.
            RegionNotFoundError: A region is erased, or never existed.
            NotDeletedError: A region is in use, so there is nothing to take back.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions(request.regions, "regions")
        check_reason(request.reason)

        async def work(_: Cluster | None) -> MutationResult:
            change = undeleted(request.cluster, request.regions, self._mutations.now())
            return await self._mutations.commit(call, change)

        return await self._mutations.run(call, work, lambda replayed: replayed)

    async def _result(
        self,
        call: MutationCall[DeleteClusterRequest],
        mutation: MutationResult,
        uses: dict[str, int],
        confirmed: tuple[str, ...] = (),
        pending: tuple[PendingReplica, ...] = (),
    ) -> DeleteResult:
        request = call.request
        report = None
        if mutation.cluster.regions:
            report = await self._reports.report(mutation.cluster, call.caller.rights)
        meant = [
            each
            for each in (report.regions if report is not None else ())
            if each.region.purge_time is not None
            and (request.all_regions or each.region.name in request.regions)
        ]
        purge_time = max((each.region.purge_time or 0 for each in meant), default=None)
        return DeleteResult(
            mutation,
            report,
            tuple(_losses(meant, uses)),
            purge_time,
            None if purge_time is None else final_after(purge_time, self._timing.backup_retention),
            confirmed,
            pending,
            erased=_is_erased(request, mutation.cluster),
        )

    async def _recent_uses(self, cluster: str) -> dict[str, int]:
        """Returns how often the keys of a cluster's regions were used of late, by region."""
        which = UsageFilter(cluster, start=self._mutations.now() - _RECENT, span=2 * _RECENT)
        uses: dict[str, int] = {}
        after: UsageKey | None = None
        while True:
            query = UsageQuery(which, _EVERYTHING, after, _ROWS)
            rows = (await self._storage.run(self._storage.store.usage, query)).rows
            for key, count in rows:
                if key.outcome == "OK":
                    uses[key.region] = uses.get(key.region, 0) + count
            if len(rows) < _ROWS:
                return uses
            after = rows[-1][0]


def _losses(reports: Iterable[RegionReport], uses: dict[str, int]) -> Iterable[Loss]:
    for report in reports:
        name = report.region.name
        for each in report.region.generations:
            yield Loss(name, each, report.last_uses.get(each.kek_id), uses.get(name, 0))


def _is_erased(request: DeleteClusterRequest, cluster: Cluster) -> bool:
    """Returns whether a deletion at once is done, or would be with `validate_only`."""
    left = {region.name for region in cluster.regions}
    gone = left.isdisjoint(request.regions) if request.regions else not left
    return request.at_once and cluster.unused and gone


def _check_may_delete(call: MutationCall[DeleteClusterRequest], cluster: Cluster) -> None:
    """Refuses a caller that may only delete clusters that were never used (protocol D6).

    Raises:
        NotAllowedError: The caller lacks the role for a deletion of anything else.
    """
    request = call.request
    call.caller.rights.check_cluster(call.rpc, cluster.name, cluster.organization, request.named)


def _check_chosen(request: DeleteClusterRequest) -> None:
    """Refuses a deletion that does not say what it means (protocol D1).

    Raises:
        RegionsNotChosenError: It names no regions and does not say `all_regions`, or does both.
    """
    if request.all_regions == bool(request.regions):
        raise RegionsNotChosenError(
            "name the regions to delete in regions, or set all_regions to delete the cluster"
            + (", but not both" if request.regions else ""),
            cluster=request.cluster,
            field="all_regions" if request.regions else "regions",
        )
