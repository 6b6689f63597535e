"""Revocation and its end: all use stops at once and without asking a KMS; resuming needs proof.

A single generation is taken out of use the same way. It is brought back without proof: its region
is in service, and its KEK is proven when it is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.changes import restored, retired, revoked
from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import InvalidReasonError, KeyfoldError, RevokedError
from keyfold_server.domain.keyspec import check_name, check_regions
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.changes import Changes, Pending
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.mutations import (
    MutationCall,
    MutationRequest,
    MutationResult,
    Mutations,
)
from keyfold_server.service.observed.health import HealthRecorder

MAX_REASON: Final = 1_024
"""Characters of a reason for the audit trail."""

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
class RestoreRequest:
    """The request of Restore.

    Attributes:
        cluster: The cluster's name.
        regions: The names of the regions to restore; empty: all that are revoked.
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
        region: The region's.
        generation: Its number within the region.
        bring_back: Take it back into use instead.
        reason: For the audit trail.
    """

    cluster: str
    region: str
    generation: int
    bring_back: bool
    reason: str

    @property
    def named(self) -> tuple[str, ...]:
        """The region that it names."""
        return (self.region,)


@dataclass(frozen=True, slots=True)
class RevokeResult:
    """How a revocation ended.

    Attributes:
        mutation: The change.
        confirmed: Replicas that have dropped the keys.
        pending: Those that have not said so.
    """

    mutation: MutationResult
    confirmed: tuple[str, ...] = ()
    pending: tuple[Pending, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """How a restoration ended.

    Attributes:
        mutation: The change.
        regions: Regions in service.
        failed: Why each other one stays revoked.
    """

    mutation: MutationResult
    regions: tuple[str, ...]
    failed: dict[str, KeyfoldError]


class Revocation:
    """Carries out Revoke, Restore and RetireGeneration."""

    def __init__(
        self,
        mutations: Mutations,
        changes: Changes,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        clock: Clock,
        timing: Timing,
    ) -> None:
        """Joins the changes to key services, store and the other replicas."""
        self._mutations = mutations
        self._changes = changes
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._clock = clock
        self._timing = timing

    async def revoke(self, call: MutationCall[RevokeRequest]) -> RevokeResult:
        """Stops all use of regions; it loses no race and needs no KMS (protocol R1).

        It answers when every live replica has dropped the keys, or when it has waited long
        enough, with those that are pending.
        """
        request = call.request
        _check(request)

        async def work() -> RevokeResult:
            decide = revoked(request.cluster, request.regions, self._mutations.now())
            return RevokeResult(await self._mutations.commit(call, decide))

        outcome = await self._mutations.run(call, work, RevokeResult)
        return await self._confirmed(call, outcome.mutation)

    async def retire(self, call: MutationCall[RetireGenerationRequest]) -> RevokeResult:
        """Stops all use of one old generation, or takes it back; answers as `revoke` does.

        Its KEK goes on being re-wrapped by rotations, so that it can be brought back whatever
        became of the root key that it was retired under.

        Raises:
            GenerationNotFoundError: There is no such generation.
            GenerationInUseError: It is the newest, which wraps.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_name(request.region, "region")
        _check_reason(request.reason)

        async def work() -> RevokeResult:
            decide = retired(
                request.cluster,
                request.region,
                request.generation,
                self._mutations.now(),
                back=request.bring_back,
            )
            return RevokeResult(await self._mutations.commit(call, decide))

        outcome = await self._mutations.run(call, work, RevokeResult)
        return await self._confirmed(call, outcome.mutation)

    async def _confirmed(
        self, call: MutationCall[MutationRequest], done: MutationResult
    ) -> RevokeResult:
        """Waits for the other replicas; for a repeated request too, which asks the same."""
        # Repeated: what it confirms is the last change, not what this replica happened to hear.
        number = done.number
        if number is None:
            number = await self._mutations.attempted(call, "repeated")
        ends = min(
            self._clock.monotonic() + self._timing.revoke_wait, call.deadline - _BEFORE_DEADLINE
        )
        confirmed, pending = await self._changes.confirmations(number, ends)
        return RevokeResult(done, tuple(confirmed), tuple(pending))

    async def restore(self, call: MutationCall[RestoreRequest]) -> RestoreResult:
        """Proves keys again and takes those regions back that are proven (protocol R7)."""
        _check(call.request)

        def replay(done: MutationResult) -> RestoreResult:
            return _as_it_is(done, call.request)

        return await self._mutations.run(call, lambda: self._restore(call), replay)

    async def _restore(self, call: MutationCall[RestoreRequest]) -> RestoreResult:
        request = call.request
        seen = existing(await self._mutations.cluster(request.cluster), request.cluster)
        names = request.regions or tuple(
            region.name for region in seen.regions if region.state is State.REVOKED
        )
        regions = [seen.region(name) for name in names]
        errors = await asyncio.gather(*(self._proven(seen, region) for region in regions))
        failed = {
            name: error for name, error in zip(names, errors, strict=True) if error is not None
        }
        proven = tuple(name for name in names if name not in failed)
        moving = [n for n in proven if seen.region(n).state is not State.ENABLED]
        if not moving and failed:
            await self._mutations.attempted(call, next(iter(failed.values())).reason)
            return RestoreResult(MutationResult(seen), proven, failed)
        if not moving:
            # It counts as carried out: repeated after a later Revoke, it must not undo that (R6).
            return RestoreResult(await self._mutations.unchanged(call, seen), proven, failed)
        done = await self._mutations.commit(call, restored(seen, moving, self._mutations.now()))
        return RestoreResult(done, proven, failed)

    async def _proven(self, seen: Cluster, region: Region) -> KeyfoldError | None:
        """Unwraps every generation of a region; returns why it could not."""
        try:
            for generation in region.generations:
                await self._kek_wrapper.prove_unwrap(seen, region.name, generation)
                self._health.succeeded(generation)
        except KeyfoldError as error:
            return error.at(cluster=seen.name, region=region.name)
        return None


def _as_it_is(done: MutationResult, request: RestoreRequest) -> RestoreResult:
    names: Sequence[str] = request.regions or [r.name for r in done.cluster.regions]
    states = {name: done.cluster.region(name).state for name in names}
    failed: dict[str, KeyfoldError] = {
        name: RevokedError(
            f"region {name} is revoked; call Restore with a new request_id",
            cluster=done.cluster.name,
            region=name,
        )
        for name, state in states.items()
        if state is not State.ENABLED
    }
    return RestoreResult(done, tuple(n for n in names if n not in failed), failed)


def _check(request: RevokeRequest | RestoreRequest) -> None:
    check_name(request.cluster, "cluster")
    check_regions(request.regions, "regions")
    _check_reason(request.reason)


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON:
        raise InvalidReasonError(
            f"the reason has more than {MAX_REASON:,} characters", field="reason"
        )
