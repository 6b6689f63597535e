"""Revocation: Revoke stops all use of regions at once, without a KMS (protocol R1).

RetireGeneration stops all use of a single generation the same way. Its `bring_back` needs no proof:
the region is in service, and Keyfold proves the KEK when it loads it. Taking regions back is
`restoration`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.bans import CommittedBan
from keyfold_server.domain.changes import Decide, retired, revoked
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ClusterNotFoundError,
    InvalidReasonError,
    RowNotAuthenticError,
)
from keyfold_server.domain.keyspec import check_name, check_regions
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.confirmations import Confirmations, PendingReplica
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.reports import ClusterReport, Reports
from keyfold_server.service.life.requests import MutationCall, MutationRequest, MutationResult
from keyfold_server.service.storage import Storage

MAX_REASON: Final = 1_024
"""Most characters in a reason for the audit trail."""

_BEFORE_DEADLINE: Final = 0.5
"""Seconds before the caller's deadline at which Revoke answers."""


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
    """

    mutation: MutationResult
    confirmed: tuple[str, ...] = ()
    pending: tuple[PendingReplica, ...] = ()


@dataclass(frozen=True, slots=True)
class BanResult:
    """How Revoke ended where the cluster's rows are not authentic, or are gone (protocol A6).

    Attributes:
        ban: The ban of the cluster's name.
        confirmed: The names of the replicas that have dropped the keys.
        pending: The replicas that have not confirmed that they did.
    """

    ban: CommittedBan
    confirmed: tuple[str, ...] = ()
    pending: tuple[PendingReplica, ...] = ()


class Revocation:
    """Carries out Revoke and RetireGeneration."""

    def __init__(
        self,
        mutations: Mutations,
        confirmations: Confirmations,
        reports: Reports,
        storage: Storage,
        clock: Clock,
        timing: Timing,
    ) -> None:
        """Joins Revoke to the store and to the other replicas.

        Args:
            mutations: Carries out changes.
            confirmations: Knows which replicas have applied a change.
            reports: Makes the reports of revoked clusters.
            storage: The store, in threads.
            clock: Time.
            timing: The times to wait for other replicas.
        """
        self._mutations = mutations
        self._confirmations = confirmations
        self._reports = reports
        self._storage = storage
        self._clock = clock
        self._timing = timing

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
        confirmed, pending = await self._confirmed(call, result.number)
        if isinstance(result, CommittedBan):
            return BanResult(result, confirmed, pending)
        return RevokeResult(result, confirmed, pending)

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
        return RevokeResult(result, *await self._confirmed(call, result.number))

    async def report(self, caller: Caller, mutation: MutationResult) -> ClusterReport:
        """Returns the report of the cluster, as the answer shows it; reads in the lane (R9)."""
        run = self._storage.revoking(caller.name).run
        return await self._reports.report(mutation.cluster, caller.rights, run)

    async def _confirmed(
        self, call: MutationCall[MutationRequest], number: int | None
    ) -> tuple[tuple[str, ...], tuple[PendingReplica, ...]]:
        """Waits for the other replicas to confirm; a repeated request waits, too.

        Returns:
            The names of the replicas that have dropped the keys, and the replicas that have not.
        """
        # A repeated request has no number. It waits for the cluster's newest decision instead: if
        # another replica carried the request out, this one may not have read of it yet.
        if number is None:
            number = await self._mutations.attempted(call, "repeated")
        ends = min(
            self._clock.monotonic() + self._timing.revoke_wait, call.deadline - _BEFORE_DEADLINE
        )
        confirmed, pending = await self._confirmations.wait(number, ends)
        return tuple(confirmed), tuple(pending)


def check_reason(reason: str) -> None:
    """Refuses a reason that is too long for the audit trail.

    Raises:
        InvalidReasonError: It is too long.
    """
    if len(reason) > MAX_REASON:
        raise InvalidReasonError(
            f"the reason has more than {MAX_REASON:,} characters", field="reason"
        )
