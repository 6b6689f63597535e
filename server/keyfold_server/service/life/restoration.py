"""Restoration: Restore takes revoked regions back into service, once their keys are proven.

Restore takes back the regions whose keys the KMS unwraps and says why the others stay revoked
(protocol R7). Nothing is committed before its proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from keyfold_server.domain.changes import restored
from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import KeyfoldError, RevokedError, StateError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.lifecycle import Action, allows
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.texts import check_reason
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.observed.health import HealthRecorder


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
class RestoreResult:
    """How a restoration ended.

    Attributes:
        mutation: The change itself.
        regions: The names of the regions that are in service now.
        failed: The reason why a region stays revoked, by its name.
    """

    mutation: MutationResult
    regions: tuple[str, ...]
    failed: dict[str, KeyfoldError]


class Restoration:
    """Carries out Restore."""

    def __init__(
        self, mutations: Mutations, kek_wrapper: KekWrapper, health: HealthRecorder
    ) -> None:
        """Joins Restore to the KMS and to the store.

        Args:
            mutations: Carries out changes.
            kek_wrapper: Proves that KEKs can be unwrapped.
            health: Records what this replica observes of keys.
        """
        self._mutations = mutations
        self._kek_wrapper = kek_wrapper
        self._health = health

    async def restore(self, call: MutationCall[RestoreRequest]) -> RestoreResult:
        """Proves the keys of regions, and takes back those that are proven (protocol R7)."""
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions(request.regions, "regions")
        check_reason(request.reason)

        def replay(mutation: MutationResult) -> RestoreResult:
            return _as_it_is(mutation, request)

        return await self._mutations.run(
            call, lambda seen: self._restore(call, existing(seen, call.cluster)), replay
        )

    async def _restore(self, call: MutationCall[RestoreRequest], seen: Cluster) -> RestoreResult:
        request = call.request
        names = request.regions or _out_of_use(seen)
        regions = [seen.region(name) for name in names]
        for region in regions:
            # Before any KMS call: no proof takes a deletion back. The commit checks it again.
            region.following(Action.RESTORE, seen.name)
        errors = await asyncio.gather(*(self._proven(seen, region) for region in regions))
        failed = {
            name: error for name, error in zip(names, errors, strict=True) if error is not None
        }
        proven = tuple(name for name in names if name not in failed)
        moving = [name for name in proven if not seen.region(name).in_service]
        if not moving and failed:
            first = next(iter(failed.values()))
            await self._mutations.attempted(call, first.reason, first)
            return RestoreResult(MutationResult(seen), proven, failed)
        if not moving:
            # The request counts as carried out: if the caller repeats it after a later Revoke, it
            # must not undo that (protocol R6).
            return RestoreResult(await self._mutations.unchanged(call, seen), proven, failed)
        left = ", ".join(f"{name} ({error.reason})" for name, error in failed.items())
        mutation = await self._mutations.commit(
            call,
            restored(seen, moving, self._mutations.now()),
            f"not restored: {left}" if left else "",
        )
        return RestoreResult(mutation, proven, failed)

    async def _proven(self, seen: Cluster, region: Region) -> KeyfoldError | None:
        """Unwraps every generation of a region; returns the error if that fails."""
        try:
            for generation in region.generations:
                await self._kek_wrapper.prove_unwrap(seen, region.name, generation)
                self._health.succeeded(region.name, generation)
        except KeyfoldError as error:
            return error.at(cluster=seen.name, region=region.name)
        return None


def _out_of_use(cluster: Cluster) -> tuple[str, ...]:
    """Returns the regions that a Restore of no named region means: the revoked ones.

    Where the others are all deleted, it returns these, so that the caller learns why.
    """
    out = [region for region in cluster.regions if not region.in_service]
    revoked = [region for region in out if allows(region.state, Action.RESTORE)]
    return tuple(region.name for region in revoked or out)


def _as_it_is(mutation: MutationResult, request: RestoreRequest) -> RestoreResult:
    """Returns the answer to a repeated request, from the cluster as it is now."""
    cluster = mutation.cluster
    names: Sequence[str] = request.regions or [region.name for region in cluster.regions]
    failed = {
        name: _still_out(cluster, cluster.region(name))
        for name in names
        if not cluster.region(name).in_service
    }
    return RestoreResult(mutation, tuple(n for n in names if n not in failed), failed)


def _still_out(cluster: Cluster, region: Region) -> KeyfoldError:
    """Returns why a region is out of service although a Restore was carried out before."""
    try:
        region.following(Action.RESTORE, cluster.name)
    except StateError as error:
        return error
    return RevokedError(
        f"region {region.name} is revoked; call Restore with a new request_id",
        cluster=cluster.name,
        region=region.name,
    )
