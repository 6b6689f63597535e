"""Revocation: Revoke stops all use of regions at once, without a KMS (protocol R1).

RetireGeneration stops all use of a single generation the same way. Its `bring_back` needs no proof:
the region is in service, and Keyfold proves the KEK when it loads it. Taking regions back is
`restoration`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from keyfold_server import telemetry
from keyfold_server.domain.bans import CommittedBan
from keyfold_server.domain.changes import Decide, retired, revoked
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ClusterNotFoundError,
    RowNotAuthenticError,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.texts import check_reason
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.acknowledgements import Acknowledged, Acknowledgements
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.reports import ClusterReport, Reports
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.storage import Storage


@dataclass(frozen=True, slots=True)
class RevokeRequest:
    """The request of Revoke.

    Attributes:
        cluster: The cluster's name.
        regions: The names of the regions to revoke; empty: all regions.
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
class RetireGenerationRequest:
    """The request of RetireGeneration.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        generation: The generation's number within the region.
        bring_back: Whether to take the generation back into use instead.
        reason: The caller's reason, for the audit trail.
    """

    cluster: str
    region: str
    generation: int
    bring_back: bool
    reason: str

    @property
    def named(self) -> tuple[str, ...]:
        """The region that the request names."""
        return (self.region,)


@dataclass(frozen=True, slots=True)
class RevokeResult:
    """How Revoke or RetireGeneration ended.

    Attributes:
        mutation: The change itself.
        confirmed: The names of the replicas that have dropped the keys.
        pending: The replicas that have not confirmed that they did.
        decision: The number of the change, or of a later one of the same cluster.
    """

    mutation: MutationResult
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    decision: int


@dataclass(frozen=True, slots=True)
class BanResult:
    """How Revoke ended where the cluster's rows are not authentic, or are gone (protocol A6).

    Attributes:
        ban: The ban of the cluster's name.
        confirmed: The names of the replicas that have dropped the keys.
        pending: The replicas that have not confirmed that they did.
        decision: The number of the change, or of a later one of the same cluster.
    """

    ban: CommittedBan
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    decision: int


class Revocation:
    """Carries out Revoke and RetireGeneration."""

    def __init__(
        self,
        mutations: Mutations,
        acknowledgements: Acknowledgements,
        reports: Reports,
        storage: Storage,
    ) -> None:
        """Joins Revoke to the store and to the other replicas.

        Args:
            mutations: Carries out changes.
            acknowledgements: Waits for the other replicas.
            reports: Makes the reports of revoked clusters.
            storage: The store, in threads.
        """
        self._mutations = mutations
        self._acknowledgements = acknowledgements
        self._reports = reports
        self._storage = storage

    async def revoke(self, call: MutationCall[RevokeRequest]) -> RevokeResult | BanResult:
        """Stops all use of regions. It loses no race and needs no KMS (protocol R1).

        It answers when every live replica has dropped the keys, or when the time for waiting is
        up; the answer then names the replicas that are pending. Where the cluster's rows are not
        authentic, or are gone, it bans the cluster's name instead (protocol A6).
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions(request.regions, "regions")
        check_reason(request.reason)

        async def work(_: Cluster | None) -> MutationResult | CommittedBan:
            decide = revoked(request.cluster, request.regions, self._mutations.now())
            return await self._revoked(call, decide)

        result = await self._mutations.run(call, work, lambda replayed: replayed)
        acknowledged = await self._acknowledged(call, result.number)
        if isinstance(result, CommittedBan):
            return BanResult(result, *acknowledged)
        return RevokeResult(result, *acknowledged)

    async def _revoked(
        self, call: MutationCall[RevokeRequest], decide: Decide
    ) -> MutationResult | CommittedBan:
        """Commits a revocation or, if the cluster's rows cannot be believed, a ban."""
        try:
            return await self._mutations.commit(call, decide)
        except (RowNotAuthenticError, ClusterBannedError, ClusterNotFoundError) as error:
            if not call.bans or error.cluster != call.cluster:
                raise
            ban = await self._mutations.ban(call)
        if ban is not None:
            return ban
        # Somebody has just mended the rows, or it was another row that is not authentic.
        return await self._mutations.commit(call, decide)

    async def retire(self, call: MutationCall[RetireGenerationRequest]) -> RevokeResult:
        """Stops all use of one old generation, or takes it back; answers as `revoke` does.

        Rotations go on re-wrapping the KEK of a retired generation, so that a caller can bring the
        generation back whatever became of the root key under which it was retired.

        Raises:
            GenerationNotFoundError: The region has no such generation.
            GenerationInUseError: The generation is the newest one, which wraps.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_name(request.region, "region")
        check_reason(request.reason)

        async def work(_: Cluster | None) -> MutationResult:
            decide = retired(
                request.cluster,
                request.region,
                request.generation,
                self._mutations.now(),
                back=request.bring_back,
            )
            return await self._mutations.commit(call, decide)

        result = await self._mutations.run(call, work, lambda replayed: replayed)
        return RevokeResult(result, *await self._acknowledged(call, result.number))

    async def _acknowledged(
        self,
        call: MutationCall[RevokeRequest] | MutationCall[RetireGenerationRequest],
        number: int | None,
    ) -> Acknowledged:
        began = perf_counter()
        told = await self._acknowledgements.of(call, number)
        outcome = "pending" if told.pending else "confirmed"
        telemetry.REVOCATION_CONFIRMED.labels(outcome).observe(perf_counter() - began)
        return told

    async def report(self, caller: Caller, mutation: MutationResult) -> ClusterReport:
        """Returns the report of the cluster, as the answer shows it; reads in the lane (R9)."""
        run = self._storage.revoking(caller.name).run
        return await self._reports.report(mutation.cluster, caller.rights, run)
