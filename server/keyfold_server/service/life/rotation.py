"""Rotation: wraps the same KEKs under a newer version of their root key or under another root key.

One commit rotates all regions of a request, or none. Callers' wrapped keys stay valid, because the
KEKs stay. Keyfold needs the old root key until the commit, and not after it (protocol S5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace

from keyfold_server.domain.changes import rotated, with_regions
from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import (
    KeyLinkNotFoundError,
    KeySpecMissingError,
    KeyVersionPinnedError,
    KmsError,
    WrongRegionError,
)
from keyfold_server.domain.holders import Claim
from keyfold_server.domain.keyspec import PLATFORM, RegionPolicy, RegionSpec, RootKey, check_name
from keyfold_server.domain.lifecycle import Action
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.seats import SeatClaim
from keyfold_server.service.fleet.confirmations import Confirmations, PendingReplica
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.gates import YIELDS
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.life.following import Following, left, moves, related, unable
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.reports import ClusterReport, Reports
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.life.seating import seated
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.root_keys.admission import Admission
from keyfold_server.service.root_keys.holders import NamedHolders
from keyfold_server.service.root_keys.link_keys import check_key_links
from keyfold_server.service.root_keys.replica_of import check_replica_of, replica_error
from keyfold_server.service.root_keys.seats import again_if_taken, named
from keyfold_server.service.root_keys.spec_keys import SpecKeys


@dataclass(frozen=True, slots=True)
class RotateRequest:
    """The request of Rotate.

    Attributes:
        cluster: The cluster's name.
        specs: One spec for each region to rotate. A spec with neither a key spec nor `replica_of`
            stays with the root key that the region has.
        new_generation: Whether to make a new KEK as well, which wraps from then on.
        validate_only: Whether to prove old and new keys and store nothing.
        only_named_regions: Whether the replicas of the regions' keys stay where they are.
    """

    cluster: str
    specs: tuple[RegionSpec, ...]
    new_generation: bool
    validate_only: bool
    only_named_regions: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names."""
        return tuple(spec.region for spec in self.specs)


@dataclass(frozen=True, slots=True)
class RotateResult:
    """How a rotation ended.

    Attributes:
        mutation: The change itself.
        pending: The replicas that have not applied the change yet.
        report: The report of the cluster, if it was read together with these.
    """

    mutation: MutationResult
    pending: tuple[PendingReplica, ...] = ()
    report: ClusterReport | None = None


class Rotation:
    """Carries out Rotate."""

    def __init__(
        self,
        mutations: Mutations,
        confirmations: Confirmations,
        kms: KmsClient,
        spec_keys: SpecKeys,
        admission: Admission,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        reports: Reports,
    ) -> None:
        """Joins Rotate to the KMS, to the store and to the other replicas.

        Args:
            mutations: Carries out changes.
            confirmations: Knows which replicas have applied a change.
            kms: Knows which version of a key a uri names.
            spec_keys: Replaces what stands for key specs in a request.
            admission: Admits the root keys of a request.
            kek_wrapper: Wraps and proves KEKs.
            health: Records what this replica observes of keys.
            reports: Makes the report of the rotated cluster.
        """
        self._mutations = mutations
        self._confirmations = confirmations
        self._kms = kms
        self._spec_keys = spec_keys
        self._following = Following(spec_keys.replica_keys)
        self._admission = admission
        self._seats = admission.seats
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._reports = reports

    async def rotate(
        self, call: MutationCall[RotateRequest], *, users_of: str = ""
    ) -> RotateResult:
        """Re-wraps the KEKs of the named regions.

        Args:
            call: The caller's request.
            users_of: A key link that the named regions must use when they change; empty: none.

        Raises:
            KeyLinkNotFoundError: A region does not use `users_of`, or not any more.
            KeySpecMissingError: The request names no region.
            RevokedError: A region is revoked.
            WrongRegionError: This replica does not serve a region, or that of a replica of its key.
            KeyHeldByAnotherError: A new key is in what another organization holds.
            NotAllowedError: The caller may not rotate a replica that rotates with a named region.
            KmsError: An old or new key could not be used; nothing was changed.
        """
        request = call.request
        check_name(request.cluster, "cluster")
        check_regions((spec.region for spec in request.specs), "region_specs")
        check_replica_of(request.specs)
        check_key_links(request.specs)
        if not request.specs:
            raise KeySpecMissingError(
                "no region is named; name each region to rotate, without a key_spec to stay with "
                "its key",
                cluster=request.cluster,
                field="region_specs",
            )
        held = await self._admission.named_holders(request.specs, None)
        return await self._mutations.run(
            call,
            lambda seen: again_if_taken(
                lambda: self._rotate(call, existing(seen, call.cluster), held, users_of)
            ),
            RotateResult,
            held,
        )

    async def _rotate(
        self,
        call: MutationCall[RotateRequest],
        seen: Cluster,
        held: NamedHolders,
        users_of: str,
    ) -> RotateResult:
        request = call.request
        if users_of:
            _check_users(request, seen, users_of)
        now = self._mutations.now()
        # Before any KMS call, so that a region that is revoked or unknown costs the others nothing.
        regions = {
            spec.region: seen.region(spec.region).moved(Action.ROTATE, seen.name, now)
            for spec in request.specs
        }
        self._kms.served.check_each(regions, seen.name)
        rights = call.caller.rights
        given = await self._spec_keys.link_keys.given(request.specs, seen.name, seen.organization)
        specs = await self._spec_keys.spelled_out(rights, given.specs, seen.name, seen)
        specs = self._seats.kept(specs, seen)
        if not request.only_named_regions:
            followers = await self._following.of(rights, specs, seen)
            regions |= {spec.region: seen.region(spec.region) for spec in followers}
            specs += self._seats.kept(followers, seen)
            self._check_served(regions, followers, seen)
        roots, seats, claim = await self._roots(call, seen, specs, held)
        specs = named(specs, roots)
        done_regions = await for_each_region(
            {
                spec.region: self._told(
                    spec,
                    request,
                    self._region(
                        seen, regions[spec.region], spec, roots[spec.region], request, now
                    ),
                )
                for spec in specs
            },
            seen.name,
        )
        after = [
            replace(related(done_regions[spec.region], spec, specs, seen), link=_link(spec, seen))
            for spec in specs
        ]
        decide = with_regions(seen, [*after, *left(specs, seen)], now)
        if request.validate_only:
            return RotateResult(MutationResult(decide(seen).cluster))
        done = await self._mutations.commit(
            call, decide, reliance=given.reliance, seats=seats, claim=claim
        )
        for region in done_regions.values():
            self._health.succeeded(region.name, region.newest)
            self._health.wrapping(region.name, region.newest, None)
        moved = {spec.region: roots[spec.region] for spec in specs if moves(spec, seen)}
        await self._admission.log_notices(seen.name, moved)
        if YIELDS.get():
            return RotateResult(done)  # An operation shows neither status nor replicas.
        # It need not wait: a replica that has not applied the change yet reads the store again
        # before it believes a refusal of the old key (protocol F3).
        report, rows = await self._reports.with_replicas(done.cluster, call.caller.rights)
        _, pending = self._confirmations.told(done.number or 0, rows)
        return RotateResult(done, tuple(pending), report)

    def _check_served(
        self, regions: Iterable[str], followers: Sequence[RegionSpec], seen: Cluster
    ) -> None:
        """Refuses a rotation with replicas in regions whose KMSs are not called from here.

        Raises:
            WrongRegionError: The message says why a region is touched that nobody named.
        """
        try:
            self._kms.served.check_each(regions, seen.name)
        except WrongRegionError as error:
            sources = {spec.region: spec.replica_of for spec in followers}
            region = error.region or ""
            raise unable(region, sources[region], error) from None

    async def _roots(
        self,
        call: MutationCall[RotateRequest],
        seen: Cluster,
        specs: Sequence[RegionSpec],
        held: NamedHolders,
    ) -> tuple[dict[str, RootKey], tuple[SeatClaim, ...], Claim | None]:
        """Returns the root keys to rotate to, by region, and what the rotation takes for them."""
        moved = [
            replace(spec, policy=_policy(spec, seen.region(spec.region)))
            for spec in specs
            if moves(spec, seen)
        ]
        admitted = await self._admission.admit(
            call.caller.rights, moved, seen.name, seen.organization, held, seen
        )
        seating = await seated(self._seats, admitted, seen.name, seen.organization)
        roots = dict(seating.roots)
        for spec in specs:
            if spec.region not in roots:
                roots[spec.region] = await self._kept(call.request, seen, spec)
        return roots, seating.claims, admitted.claim

    async def _kept(self, request: RotateRequest, seen: Cluster, spec: RegionSpec) -> RootKey:
        """Returns the root key that a region has and stays with.

        Raises:
            KeyVersionPinnedError: The key's uri names one version of it, so that this rotation, or
                the `auto_rotate` that it sets, would change nothing, while the caller believes
                that it does.
        """
        region = seen.region(spec.region)
        follows = spec.policy is not None and spec.policy.auto_rotate
        root = await self._admission.readmit(seen, region)
        pinned = await self._kms.pinned(root)
        if pinned is not None and (follows or not request.new_generation):
            raise KeyVersionPinnedError(
                f"the uri of region {region.name}'s key names version {pinned}; name the newer "
                "version, or the key without one",
                cluster=seen.name,
                region=region.name,
            )
        return root

    async def _told(
        self, spec: RegionSpec, request: RotateRequest, rotated: Awaitable[Region]
    ) -> Region:
        """Awaits the rotation of a region; an error says where only its source was named."""
        try:
            return await rotated
        except KmsError as error:
            if spec.region in request.named:
                raise
            raise unable(spec.region, spec.replica_of, error) from None

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
        # A region that leaves the vendor's key needs a new KEK: with that key, old backups open
        # the KEK that the region had (protocol C6).
        leaves = region.key_spec.type == PLATFORM != key_spec.type
        fresh = None
        if request.new_generation or leaves or spec.replica_of:
            # Before the first call to the old key, so that a failure here is the new key's.
            number = region.newest.number + 1
            try:
                fresh = await self._kek_wrapper.create(
                    seen.name, seen.organization, region.name, root, number, now
                )
            except KmsError as error:
                raise replica_error(spec, error) from None
        wraps = {
            generation.kek_id: await self._kek_wrapper.rewrap(
                seen, region.name, generation, root, now
            )
            for generation in region.generations
        }
        policy = _policy(spec, region)
        kept = fresh if request.new_generation or leaves else None
        return rotated(region, key_spec, policy, wraps, kept)


def _check_users(request: RotateRequest, seen: Cluster, link: str) -> None:
    """Refuses a rotation of regions that do not use a key link. The commit finds them unchanged.

    Raises:
        KeyLinkNotFoundError: One of them does not.
    """
    for name in request.named:
        if seen.region(name).link != link:
            raise KeyLinkNotFoundError(
                f"region {name} does not use key link {link} any more",
                cluster=seen.name,
                region=name,
            )


def _link(spec: RegionSpec, seen: Cluster) -> str:
    """Returns the key link of a region after its rotation; empty: it has a key of its own."""
    return seen.region(spec.region).link if spec.key_spec is None else spec.key_link


def _policy(spec: RegionSpec, region: Region) -> RegionPolicy:
    """Returns the policy that a region has after its rotation."""
    return region.policy if spec.policy is None else spec.policy
