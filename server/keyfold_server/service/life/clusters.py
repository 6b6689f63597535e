"""Clusters: Enable and AddRegions, each for all regions of a request or for none."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

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
from keyfold_server.domain.holders import Claim
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec, check_name
from keyfold_server.domain.lifecycle import Action, after
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.reliance import Reliance
from keyfold_server.domain.seats import SeatClaim
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.requests import MutationCall, MutationResult
from keyfold_server.service.life.seating import seated
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.root_keys.admission import Admission
from keyfold_server.service.root_keys.holders import NamedHolders
from keyfold_server.service.root_keys.link_keys import Given, check_key_links
from keyfold_server.service.root_keys.replica_of import check_replica_of, replica_error
from keyfold_server.service.root_keys.seats import again_if_taken, named
from keyfold_server.service.root_keys.spec_keys import SpecKeys


@dataclass(frozen=True, slots=True)
class RegionsRequest:
    """What the requests of Enable and of AddRegions have in common.

    Attributes:
        cluster: The cluster's name.
        organization: The customer's organization, or None.
        regions: The names of all regions of the cluster, which the call declares; empty: it
            declares none.
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
        spec_keys: SpecKeys,
        admission: Admission,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins Enable and AddRegions to the KMS and to the store.

        Args:
            mutations: Carries out changes.
            spec_keys: Replaces what stands for key specs in a request.
            admission: Admits the root keys of a request.
            kek_wrapper: Makes and proves KEKs.
            health: Records what this replica observes of keys.
            random: The source of ids.
        """
        self._mutations = mutations
        self._spec_keys = spec_keys
        self._admission = admission
        self._seats = admission.seats
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._random = random

    async def enable(self, call: MutationCall[EnableRequest]) -> MutationResult:
        """Makes a cluster with its keys; repeated with the same specs, it changes nothing.

        Raises:
            KeyNotGrantedError: The caller may not name one of the keys.
            ClusterExistsError: The cluster is enabled with other specs.
            RevokedError: The cluster exists, and one of its regions is revoked.
            KeyHeldByAnotherError: A key is in what another organization holds.
            WrongRegionError: This replica does not serve one of the regions.
            KmsError: A key could not be proven; nothing was stored.
        """
        request = call.request
        _check(request)
        _check_declared(request)
        without = _without_key(request.specs, request.named)
        if request.organization is None:
            _require_keys(request, without)
        # By the organization that the new cluster is to have. `Mutations` checks the rights again
        # by the organization of a cluster that exists.
        rights = call.caller.rights
        rights.check_cluster(call.rpc, request.cluster, request.organization, request.named)
        # The keys before any look-up, so that they show nothing of whether the cluster exists (C8).
        given = await self._spec_keys.link_keys.given(
            request.specs, request.cluster, request.organization, without=without, makes=rights
        )
        _require_keys(request, _without_key(given.specs, request.named), given.rule)
        specs = await self._spec_keys.spelled_out(rights, given.specs, request.cluster, None)
        await self._admission.permit(rights, specs, request.cluster, request.organization)
        held = await self._admission.named_holders(specs, request.organization)
        return await self._mutations.run(
            call,
            lambda seen: again_if_taken(
                lambda: self._enable(call, replace(given, specs=specs), seen, held)
            ),
            lambda result: result,
            held,
        )

    async def add_regions(self, call: MutationCall[AddRegionsRequest]) -> MutationResult:
        """Adds regions to a cluster; a region that it has with the same spec is no change.

        Raises:
            ClusterNotFoundError: The cluster does not exist.
            KeyNotGrantedError: The caller may not name one of the keys.
            RegionExistsError: The cluster has one of the regions, with another spec.
            ClusterRevokedError: Every region is revoked, and the request does not say that it
                means such a cluster.
            WrongRegionError: This replica does not serve one of the new regions.
            KmsError: A key could not be proven; nothing was stored.
        """
        request = call.request
        _check(request)
        rights = call.caller.rights
        rights.check_named(call.rpc, request.cluster, request.named)
        specs = await self._spec_keys.geo_keys.spelled_out(request.specs)
        await self._admission.check_named(rights, specs, request.cluster)
        held = await self._admission.named_holders(specs, None)
        return await self._mutations.run(
            call,
            lambda seen: again_if_taken(
                lambda: self._add(call, specs, existing(seen, call.cluster), held)
            ),
            lambda result: result,
            held,
        )

    async def _enable(
        self,
        call: MutationCall[EnableRequest],
        given: Given,
        current: Cluster | None,
        held: NamedHolders,
    ) -> MutationResult:
        request = call.request
        if current is not None:
            _check_enabled(call, current, self._seats.kept(given.specs, current))
            return await self._unchanged(call, current)
        given.check()
        # Before any KMS call, as all of these checks.
        self._kek_wrapper.served.check_each((s.region for s in given.specs), request.cluster)
        organization = request.organization
        now = self._mutations.now()
        regions, seats, claim = await self._make(call, given.specs, organization, held, now)
        uid, declared = self._random(16), tuple(sorted(request.regions))
        new = Cluster(
            uid,
            request.cluster,
            organization,
            epoch=0,
            version=1,
            regions=regions,
            created_at=now,
            updated_at=now,
            declared=declared,
            first_use=0,
        )
        return await self._store(call, created(new), regions, current, given.reliance, seats, claim)

    async def _add(
        self,
        call: MutationCall[AddRegionsRequest],
        specs: Sequence[RegionSpec],
        current: Cluster,
        held: NamedHolders,
    ) -> MutationResult:
        request = call.request
        if request.organization not in (None, current.organization):
            raise OrganizationMismatchError(
                f"cluster {current.name} belongs to another organization; leave the organization "
                "out, or check the cluster's name",
                cluster=current.name,
                field="organization",
            )
        there = {region.name: region for region in current.regions}
        for name in filter(there.__contains__, request.regions):
            there[name].following(Action.ADD, current.name)
        declared_so_far = (*request.regions, *current.declared_now)
        needed = [*(s.region for s in specs), *(r for r in declared_so_far if r not in there)]
        given = await self._spec_keys.link_keys.given(
            specs, current.name, current.organization, without=_without_key(specs, needed)
        )
        _require_keys(request, _without_key(given.specs, needed), given.rule)
        _check_declared(request, there)
        added, changed = [], []
        specs = await self._spec_keys.replica_keys.spelled_out(
            call.caller.rights, given.specs, request.cluster, current
        )
        for spec in self._seats.kept(specs, current):
            if spec.region not in there:
                added.append(spec)
                continue
            known = there[spec.region]
            known.following(Action.ADD, current.name)
            if spec.geo not in ("", known.geo):
                changed.append(replace(known, geo=spec.geo))
            if not _same(known, spec):
                raise RegionExistsError(
                    f"region {spec.region} has another key spec or policy; change it with Rotate",
                    cluster=current.name,
                    region=spec.region,
                )
        declared = current.declared_with(request.regions, [spec.region for spec in added])
        if not (added or changed or declared != current.declared):
            return await self._unchanged(call, current)
        _check_count(len(there) + len(added))
        regions: tuple[Region, ...] = ()
        seats: tuple[SeatClaim, ...] = ()
        claim: Claim | None = None
        if added:
            # Before any KMS call. The commit checks it again.
            check_takes_regions(current, into_revoked=request.into_revoked)
            self._kek_wrapper.served.check_each((s.region for s in added), current.name)
            now = self._mutations.now()
            regions, seats, claim = await self._make(call, added, current.organization, held, now)
        decide = with_more_regions(
            current,
            (*regions, *changed),
            self._mutations.now(),
            into_revoked=request.into_revoked,
            declared=declared,
        )
        return await self._store(call, decide, regions, current, given.reliance, seats, claim)

    async def _make(
        self,
        call: MutationCall[RegionsRequest],
        specs: Sequence[RegionSpec],
        organization: str | None,
        held: NamedHolders,
        now: int,
    ) -> tuple[tuple[Region, ...], tuple[SeatClaim, ...], Claim | None]:
        """Proves every key, and makes the regions by name; also says what they take."""
        cluster = call.request.cluster
        admitted = await self._admission.admit(
            call.caller.rights, specs, cluster, organization, held
        )
        seating = await seated(self._seats, admitted, cluster, organization)
        roots = seating.roots

        async def make(spec: RegionSpec, key_spec: KeySpec) -> Region:
            name = spec.region
            state = after(None, Action.ENABLE, cluster=cluster, region=name)
            try:
                first = seating.first.get(name) or await self._kek_wrapper.create(
                    cluster, organization, name, roots[name], 1, now
                )
            except KmsError as error:
                raise replica_error(spec, error) from None
            policy = spec.policy or RegionPolicy()
            made = Region(name, state, now, key_spec, policy, (first,))
            return replace(made, replica_of=spec.replica_of, geo=spec.geo, link=spec.key_link)

        made = await for_each_region(
            {
                spec.region: make(spec, spec.key_spec)
                for spec in sorted(named(specs, roots), key=lambda spec: spec.region)
                if spec.key_spec is not None
            },
            cluster,
        )
        return tuple(made.values()), seating.claims, admitted.claim

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
        reliance: Reliance | None,
        seats: tuple[SeatClaim, ...],
        claim: Claim | None,
    ) -> MutationResult:
        """Commits a change, or with `validate_only` returns what the change would result in."""
        if call.request.validate_only:
            return MutationResult(decide(current).cluster)
        result = await self._mutations.commit(
            call, decide, reliance=reliance, seats=seats, claim=claim
        )
        for region in regions:
            self._health.succeeded(region.name, region.newest)
            self._health.wrapping(region.name, region.newest, None)
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
    check_key_links(request.specs)
    if not request.named:
        raise KeySpecMissingError(
            "no region is named; give one region spec for each region of the cluster",
            cluster=request.cluster,
            field="region_specs",
        )
    _check_count(len(request.named))


def _without_key(specs: Iterable[RegionSpec], regions: Iterable[str]) -> list[str]:
    """Returns those of some regions for which no spec says what key they have."""
    given = {
        spec.region
        for spec in specs
        if spec.key_spec is not None or spec.replica_of or spec.key_link
    }
    return [each for each in dict.fromkeys(regions) if each not in given]


def _require_keys(request: RegionsRequest, without: Sequence[str], rule: str = "") -> None:
    """Refuses a request that leaves a region without a key: every region or nothing.

    Args:
        request: The request.
        without: The regions without a key.
        rule: What the organization says of such regions, for the message; may be empty.

    Raises:
        KeySpecMissingError: There is such a region.
    """
    if without:
        raise KeySpecMissingError(
            f"no key spec for region {', '.join(without)}; give one for each region{rule}",
            cluster=request.cluster,
            region=without[0],
            field="region_specs",
        )


def _check_declared(request: RegionsRequest, also: Container[str] = ()) -> None:
    """Refuses specs for regions that the request does not declare, if it declares some.

    Args:
        request: The request.
        also: Regions that were declared before.

    Raises:
        RegionMismatchError: A spec is for another region.
    """
    for index, spec in enumerate(request.specs if request.regions else ()):
        if spec.region not in request.regions and spec.region not in also:
            raise RegionMismatchError(
                f"region_specs names {spec.region}, which regions does not list",
                cluster=request.cluster,
                region=spec.region,
                field=f"region_specs[{index}].region",
            )


def _check_count(count: int) -> None:
    if count > MAX_REGIONS:
        raise TooManyRegionsError(
            f"a cluster has at most {MAX_REGIONS} regions, not {count}", field="region_specs"
        )


def _same(region: Region, spec: RegionSpec) -> bool:
    same = region.key_spec == spec.key_spec and region.link == spec.key_link
    return same and spec.policy in (None, region.policy)


def _check_enabled(
    call: MutationCall[EnableRequest], current: Cluster, specs: Sequence[RegionSpec]
) -> None:
    """Refuses an Enable of a cluster that exists with other specs.

    Regions that the caller may not see count as if the cluster did not have them (protocol C7).

    Raises:
        KeySpecMissingError: A region that the cluster has declared has no spec.
        ClusterExistsError: The cluster differs.
    """
    organization, sees = call.request.organization, call.caller.rights.sees
    seen = {r.name: r for r in current.regions if sees(current.name, current.organization, r.name)}
    for region in seen.values():
        region.following(Action.ENABLE, current.name)
    declared = (name for name in current.declared_now if name in seen)
    _require_keys(call.request, _without_key(specs, declared))
    given = {spec.region: spec for spec in specs}
    differing = sorted(
        seen.keys() ^ given.keys()
        | {name for name in seen.keys() & given.keys() if not _same(seen[name], given[name])}
    )
    if differing or organization != current.organization:
        what = f"region {', '.join(differing)}" if differing else "its organization"
        raise ClusterExistsError(
            f"cluster {current.name} is enabled and differs in {what}; change keys with Rotate, "
            "add regions with AddRegions",
            cluster=current.name,
        )
