"""Clusters: Enable and AddRegions, each for all regions of a request or for none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyfold_server.domain.changes import (
    Decide,
    check_takes_regions,
    created,
    with_more_regions,
)
from keyfold_server.domain.cluster import MAX_REGIONS, Cluster, Region, existing
from keyfold_server.domain.errors import (
    ClusterExistsError,
    KeySpecMissingError,
    KmsError,
    OrganizationMismatchError,
    RegionExistsError,
    RegionMismatchError,
    TooManyRegionsError,
)
from keyfold_server.domain.keyspec import (
    KeySpec,
    RegionPolicy,
    RegionSpec,
    check_name,
    check_regions,
)
from keyfold_server.domain.lifecycle import Action, after
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.root_keys.admission import Admission
from keyfold_server.service.root_keys.replica_of import (
    ReplicaKeys,
    check_replica_of,
    replica_error,
)


@dataclass(frozen=True, slots=True)
class RegionsRequest:
    """What the requests of Enable and of AddRegions have in common.

    Attributes:
        cluster: The cluster's name.
        organization: The customer's organization, or None.
        regions: The names of all regions that the caller means; empty: those of the specs.
        specs: One spec for each region.
        validate_only: Whether to prove the keys and store nothing.
    """

    cluster: str
    organization: str | None
    regions: tuple[str, ...]
    specs: tuple[RegionSpec, ...]
    validate_only: bool

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names."""
        return tuple(dict.fromkeys((*self.regions, *(spec.region for spec in self.specs))))


class EnableRequest(RegionsRequest):
    """The request of Enable."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class AddRegionsRequest(RegionsRequest):
    """The request of AddRegions.

    Attributes:
        into_revoked: Whether to add the regions even where all others are revoked.
    """

    into_revoked: bool = False


class Clusters:
    """Carries out Enable and AddRegions."""

    def __init__(
        self,
        mutations: Mutations,
        replica_keys: ReplicaKeys,
        admission: Admission,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins Enable and AddRegions to the KMS and to the store.

        Args:
            mutations: Carries out changes.
            replica_keys: Replaces `replica_of` in a request by key specs.
            admission: Admits the root keys of a request.
            kek_wrapper: Makes and proves KEKs.
            health: Records what this replica observes of keys.
            random: The source of ids.
        """
        self._mutations = mutations
        self._replica_keys = replica_keys
        self._admission = admission
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._random = random

    async def enable(self, call: MutationCall[EnableRequest]) -> MutationResult:
        """Makes a cluster with its keys; repeated with the same specs, it changes nothing.

        Raises:
            KeyNotGrantedError: The caller may not name one of the keys.
            ClusterExistsError: The cluster is enabled with other specs.
            RevokedError: The cluster exists, and one of its regions is revoked.
            KmsError: A key could not be proven; nothing was stored.
        """
        request = call.request
        _check(request)
        # By the organization that the new cluster is to have. `Mutations` checks the rights again
        # by the organization of a cluster that exists.
        rights = call.caller.rights
        rights.check_cluster(call.rpc, request.cluster, request.organization, request.named)
        # The keys before any look-up, so that they show nothing of whether the cluster exists (C8).
        specs = await self._replica_keys.spelled_out(rights, request.specs, request.cluster, None)
        await self._admission.permit(rights, specs, request.cluster, request.organization)
        return await self._mutations.run(
            call, lambda seen: self._enable(call, specs, seen), lambda result: result
        )

    async def add_regions(self, call: MutationCall[AddRegionsRequest]) -> MutationResult:
        """Adds regions to a cluster; a region that it has with the same spec is no change.

        Raises:
            ClusterNotFoundError: The cluster does not exist.
            KeyNotGrantedError: The caller may not name one of the keys.
            RegionExistsError: The cluster has one of the regions, with another spec.
            ClusterRevokedError: Every region is revoked, and the request does not say that it
                means such a cluster.
            KmsError: A key could not be proven; nothing was stored.
        """
        request = call.request
        _check(request)
        rights = call.caller.rights
        rights.check_named(call.rpc, request.cluster, request.named)
        await self._admission.check_named(rights, request.specs, request.cluster)
        return await self._mutations.run(
            call, lambda seen: self._add(call, existing(seen, call.cluster)), lambda result: result
        )

    async def _enable(
        self,
        call: MutationCall[EnableRequest],
        specs: Sequence[RegionSpec],
        current: Cluster | None,
    ) -> MutationResult:
        request = call.request
        if current is not None:
            _check_enabled(current, request.organization, specs)
            return await self._unchanged(call, current)
        now = self._mutations.now()
        regions = await self._make(call, specs, request.organization, now)
        new = Cluster(
            self._random(16), request.cluster, request.organization, 0, 1, regions, now, now
        )
        return await self._store(call, created(new), regions, current)

    async def _add(self, call: MutationCall[AddRegionsRequest], current: Cluster) -> MutationResult:
        request = call.request
        if request.organization not in (None, current.organization):
            raise OrganizationMismatchError(
                f"cluster {current.name} belongs to another organization; leave the organization "
                "out, or check the cluster's name",
                cluster=current.name,
                field="organization",
            )
        there = {region.name for region in current.regions}
        added = []
        specs = await self._replica_keys.spelled_out(
            call.caller.rights, request.specs, request.cluster, current
        )
        for spec in specs:
            if spec.region not in there:
                added.append(spec)
                continue
            current.region(spec.region).following(Action.ADD, current.name)
            if not _same(current.region(spec.region), spec):
                raise RegionExistsError(
                    f"region {spec.region} has another key spec or policy; change it with Rotate",
                    cluster=current.name,
                    region=spec.region,
                )
        if not added:
            return await self._unchanged(call, current)
        _check_count(len(there) + len(added))
        # Before any KMS call. The commit checks it again.
        check_takes_regions(current, into_revoked=request.into_revoked)
        regions = await self._make(call, added, current.organization, self._mutations.now())
        decide = with_more_regions(
            current, regions, self._mutations.now(), into_revoked=request.into_revoked
        )
        return await self._store(call, decide, regions, current)

    async def _make(
        self,
        call: MutationCall[RegionsRequest],
        specs: Sequence[RegionSpec],
        organization: str | None,
        now: int,
    ) -> tuple[Region, ...]:
        """Proves every key and makes the regions, sorted by name."""
        cluster = call.request.cluster
        roots = await self._admission.admit(call.caller.rights, specs, cluster, organization)

        async def make(spec: RegionSpec, key_spec: KeySpec) -> Region:
            name = spec.region
            state = after(None, Action.ENABLE, cluster=cluster, region=name)
            try:
                first = await self._kek_wrapper.create(
                    cluster, organization, name, roots[name], 1, now
                )
            except KmsError as error:
                raise replica_error(spec, error) from None
            return Region(name, state, now, key_spec, spec.policy or RegionPolicy(), (first,))

        made = await for_each_region(
            {
                spec.region: make(spec, spec.key_spec)
                for spec in sorted(specs, key=lambda spec: spec.region)
                if spec.key_spec is not None
            },
            cluster,
        )
        return tuple(made.values())

    async def _unchanged(
        self, call: MutationCall[RegionsRequest], current: Cluster
    ) -> MutationResult:
        """Answers a request for what exists already; the request counts as carried out (R6)."""
        if call.request.validate_only:
            return MutationResult(current)
        return await self._mutations.unchanged(call, current)

    async def _store(
        self,
        call: MutationCall[RegionsRequest],
        decide: Decide,
        regions: Sequence[Region],
        current: Cluster | None,
    ) -> MutationResult:
        """Commits a change, or with `validate_only` returns what the change would result in."""
        if call.request.validate_only:
            return MutationResult(decide(current).cluster)
        result = await self._mutations.commit(call, decide)
        for region in regions:
            self._health.succeeded(region.newest)
            self._health.wrapping(region.newest, None)
        roots = {region.name: region.newest.current.root for region in regions}
        await self._admission.log_notices(call.request.cluster, roots)
        return result


def _check(request: RegionsRequest) -> None:
    """Refuses a request that cannot be right, whatever the cluster is."""
    check_name(request.cluster, "cluster")
    if request.organization is not None:
        check_name(request.organization, "organization")
    check_regions(request.regions, "regions")
    check_regions((spec.region for spec in request.specs), "region_specs")
    check_replica_of(request.specs)
    given = {spec.region for spec in request.specs if spec.key_spec is not None or spec.replica_of}
    named = request.regions or tuple(spec.region for spec in request.specs)
    missing = [region for region in named if region not in given]
    if missing or not named:
        raise KeySpecMissingError(
            f"no key spec for region {', '.join(missing)}; give one for each region"
            if missing
            else "no region is named; give one region spec for each region of the cluster",
            cluster=request.cluster,
            region=missing[0] if missing else None,
            field="region_specs",
        )
    for index, spec in enumerate(request.specs):
        if spec.region not in named:
            raise RegionMismatchError(
                f"region_specs names {spec.region}, which regions does not list",
                cluster=request.cluster,
                region=spec.region,
                field=f"region_specs[{index}].region",
            )
    _check_count(len(named))


def _check_count(count: int) -> None:
    if count > MAX_REGIONS:
        raise TooManyRegionsError(
            f"a cluster has at most {MAX_REGIONS} regions, not {count}", field="region_specs"
        )


def _same(region: Region, spec: RegionSpec) -> bool:
    return region.key_spec == spec.key_spec and spec.policy in (None, region.policy)


def _check_enabled(current: Cluster, organization: str | None, specs: Sequence[RegionSpec]) -> None:
    """Refuses an Enable of a cluster that exists with other specs."""
    for region in current.regions:
        region.following(Action.ENABLE, current.name)
    given = {spec.region: spec for spec in specs}
    differing = sorted(
        {region.name for region in current.regions}.symmetric_difference(given)
        | {
            region.name
            for region in current.regions
            if region.name in given and not _same(region, given[region.name])
        }
    )
    if differing or organization != current.organization:
        what = f"region {', '.join(differing)}" if differing else "its organization"
        raise ClusterExistsError(
            f"cluster {current.name} is enabled and differs in {what}; change keys with Rotate, "
            "add regions with AddRegions",
            cluster=current.name,
        )
