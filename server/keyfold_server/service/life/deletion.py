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
from keyfold_server.domain.errors import InvalidWaitingPeriodError, RegionsNotChosenError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.retention import final_after
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.timing import Timing
from keyfold_server.domain.usage import MINUTE, UsageFilter, UsageKey, UsageQuery
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.acknowledgements import Acknowledgements
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.reports import ClusterReport, RegionReport, Reports
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.life.revocation import check_reason
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
        report: The report of the cluster as it is now or, with `validate_only`, as it would be.
        losses: What becomes unreadable, by region and generation.
        purge_time: When the last of the regions is erased, in milliseconds of Unix time by the
            store's clock; None: a repeated request, and the deletion has been taken back since.
        final_after: When the last backup with these keys is gone, in milliseconds of Unix time.
        confirmed: The names of the replicas that have applied the deletion.
        pending: The replicas that have not confirmed that they did.
    """

    mutation: MutationResult
    report: ClusterReport
    losses: tuple[Loss, ...]
    purge_time: int | None
    final_after: int | None
    confirmed: tuple[str, ...] = ()
    pending: tuple[PendingReplica, ...] = ()


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

        It loses no race, as Revoke does, and answers as Revoke does.

        Raises:
            RegionsNotChosenError: The request names no regions and does not say `all_regions`, or
                does both.
            InvalidWaitingPeriodError: The waiting period is out of bounds.
            NotRevokedError: A region is not revoked; nothing was changed.
            KeyDeletedError: A region is deleted already, with another waiting period.
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

        async def work(seen: Cluster | None) -> tuple[MutationResult, dict[str, int]]:
            # Before the commit, so that a store that cannot say it now changes nothing.
            uses = await self._recent_uses(request.cluster)
            if request.validate_only:
                would_be = change.at(self._mutations.now())(existing(seen, request.cluster))
                return MutationResult(would_be.cluster), uses
            days = waiting / _DAY
            message = f"to be erased after {days:g} days; UndeleteCluster takes it back until then"
            return await self._mutations.commit(call, change, message), uses

        mutation, uses = await self._mutations.run(call, work, lambda replayed: (replayed, {}))
        if request.validate_only:
            return await self._result(call, mutation, uses)
        if mutation.replayed:
            uses = await self._recent_uses(request.cluster)
        confirmed, pending = await self._acknowledgements.of(call, mutation.number)
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
        report = await self._reports.report(mutation.cluster, call.caller.rights)
        meant = [
            each
            for each in report.regions
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
        )

    async def _recent_uses(self, cluster: str) -> dict[str, int]:
        """Returns how often the keys of a cluster's regions were used of late, by region."""
        which = UsageFilter(cluster, start=self._mutations.now() - _RECENT, span=2 * _RECENT)
        uses: dict[str, int] = {}
        after: UsageKey | None = None
        while True:
            query = UsageQuery(which, _EVERYTHING, after, _ROWS)
            rows = await self._storage.run(self._storage.store.usage, query)
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
