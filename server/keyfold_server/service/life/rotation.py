"""Rotation: the same KEKs under a newer version of their root key, or under another root key.

All named regions or none, in one commit. Callers' wrapped keys stay valid, because KEKs stay; the
old root key is needed until the commit, and not after (protocol S5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyfold_server.domain.changes import rotated, with_regions
from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import KeySpecMissingError, KeyVersionPinnedError, KmsError
from keyfold_server.domain.keyspec import PLATFORM, RegionSpec, RootKey, check_name, check_regions
from keyfold_server.domain.lifecycle import Action
from keyfold_server.service.fleet.changes import Changes, Pending
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.kek_wrapper import KekWrapper, by_region
from keyfold_server.service.life.admission import NewKeys, check_replicas, of_replica
from keyfold_server.service.life.mutations import MutationCall, MutationResult, Mutations
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.observed.health import HealthRecorder


@dataclass(frozen=True, slots=True)
class RotateRequest:
    """The request of Rotate.

    Attributes:
        cluster: The cluster's name.
        specs: The regions to rotate; neither key spec nor `replica_of`: the key that the region
            has.
        new_generation: Also make a new KEK, which wraps from then on.
        validate_only: Prove old and new keys, store nothing.
    """

    cluster: str
    specs: tuple[RegionSpec, ...]
    new_generation: bool
    validate_only: bool

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that it names."""
        return tuple(spec.region for spec in self.specs)


@dataclass(frozen=True, slots=True)
class RotateResult:
    """How a rotation ended.

    Attributes:
        mutation: The change.
        pending: Replicas that have not applied it yet.
    """

    mutation: MutationResult
    pending: tuple[Pending, ...] = ()


class Rotation:
    """Carries out Rotate."""

    def __init__(
        self,
        mutations: Mutations,
        changes: Changes,
        kms: KmsClient,
        resolution: Resolution,
        keys: NewKeys,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
    ) -> None:
        """Joins the change to key services and store."""
        self._mutations = mutations
        self._changes = changes
        self._kms = kms
        self._resolution = resolution
        self._keys = keys
        self._kek_wrapper = kek_wrapper
        self._health = health

    async def rotate(self, call: MutationCall[RotateRequest]) -> RotateResult:
        """Re-wraps the named regions' KEKs.

        Raises:
            KeySpecMissingError: No region is named.
            RevokedError: A region is revoked.
            KmsError: An old or new key could not be used; nothing was changed.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions((spec.region for spec in request.specs), "region_specs")
        check_replicas(request.specs)
        if not request.specs:
            raise KeySpecMissingError(
                "no region is named; name each region to rotate, without a key_spec to stay with "
                "its key",
                cluster=request.cluster,
                field="region_specs",
            )
        return await self._mutations.run(call, lambda: self._rotate(call), RotateResult)

    async def _rotate(self, call: MutationCall[RotateRequest]) -> RotateResult:
        request = call.request
        seen = existing(await self._mutations.cluster(request.cluster), request.cluster)
        now = self._mutations.now()
        # Before any KMS is asked: one region that is revoked or unknown costs the others nothing.
        regions = {
            spec.region: seen.region(spec.region).moved(Action.ROTATE, seen.name, now)
            for spec in request.specs
        }
        specs = await self._keys.spelled(call.caller.rights, request.specs, seen.name, seen)
        roots = await self._roots(call, seen, specs)
        done_regions = await by_region(
            {
                spec.region: self._region(
                    seen, regions[spec.region], spec, roots[spec.region], request, now
                )
                for spec in specs
            },
            seen.name,
        )
        decide = with_regions(seen, done_regions.values(), now)
        if request.validate_only:
            return RotateResult(MutationResult(decide(seen)))
        done = await self._mutations.commit(call, decide)
        for region in done_regions.values():
            self._health.succeeded(region.newest)
            self._health.wrapping(region.newest, None)
        moved = {spec.region: roots[spec.region] for spec in specs if _moves(spec, seen)}
        await self._keys.tell(seen.name, moved)
        # One look, no waiting: a replica that has not applied it reads the store again before it
        # believes the old key's refusal (protocol F3).
        _, pending = await self._changes.confirmations(done.number or 0, 0.0)
        return RotateResult(done, tuple(pending))

    async def _roots(
        self, call: MutationCall[RotateRequest], seen: Cluster, specs: Sequence[RegionSpec]
    ) -> dict[str, RootKey]:
        """Returns the root keys to rotate to; the one that a region has needs no grant (C1)."""
        moves = [spec for spec in specs if _moves(spec, seen)]
        roots = await self._keys.accepted(call.caller.rights, moves, seen.name, seen.organization)
        for spec in specs:
            if spec.region not in roots:
                roots[spec.region] = await self._same(seen, seen.region(spec.region), call.request)
        return roots

    async def _same(self, seen: Cluster, region: Region, request: RotateRequest) -> RootKey:
        """Returns the root key that a region has, resolved anew.

        Raises:
            KeyVersionPinnedError: Its uri names one version of it: rotating would change nothing,
                and be taken for more than that.
            KeyElsewhereError: The settings have another PLATFORM key now, it is elsewhere, and
                residency is demanded.
        """
        root = await self._resolution.resolve(
            region.key_spec, region.name, seen.name, seen.organization
        )
        current = region.newest.current.root
        if (root.type, root.uri) != (current.type, current.uri):
            await self._resolution.check_place(root, region.name, seen.name)
        pinned = await self._kms.pinned(root)
        if pinned is not None and not request.new_generation:
            raise KeyVersionPinnedError(
                f"the uri of region {region.name}'s key names version {pinned}; name the newer "
                "version, or the key without one",
                cluster=seen.name,
                region=region.name,
            )
        return root

    async def _region(
        self,
        seen: Cluster,
        region: Region,
        spec: RegionSpec,
        root: RootKey,
        request: RotateRequest,
        now: int,
    ) -> Region:
        key_spec = spec.key_spec or region.key_spec
        # Who leaves the vendor's key must not go on under a KEK that old backups open with it
        # (protocol C6).
        leaves = region.key_spec.type == PLATFORM != key_spec.type
        fresh = None
        if request.new_generation or leaves or spec.replica_of:
            # Before the old key is asked: what fails here is known to be the new one's.
            number = region.newest.number + 1
            try:
                fresh = await self._kek_wrapper.create(
                    seen.name, seen.organization, region.name, root, number, now
                )
            except KmsError as error:
                raise of_replica(spec, error) from None
        wraps = {
            generation.kek_id: await self._kek_wrapper.rewrap(
                seen, region.name, generation, root, now
            )
            for generation in region.generations
        }
        policy = region.policy if spec.policy is None else spec.policy
        kept = fresh if request.new_generation or leaves else None
        return rotated(region, key_spec, policy, wraps, kept)


def _moves(spec: RegionSpec, seen: Cluster) -> bool:
    """Says whether a region is to get another key than the one that it has."""
    return spec.key_spec not in (None, seen.region(spec.region).key_spec)
