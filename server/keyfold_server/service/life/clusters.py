"""Clusters: enabling them and adding regions, all of a request's regions or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keyfold_server.domain.cluster import (
    MAX_REGIONS,
    Cluster,
    Region,
    created,
    existing,
    with_regions,
)
from keyfold_server.domain.errors import (
    ClusterExistsError,
    InvalidNameError,
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
from keyfold_server.service.kms.proofs import Proofs, by_region
from keyfold_server.service.life.admission import NewKeys, check_replicas, of_replica
from keyfold_server.service.life.mutations import Ask, Done, Mutations
from keyfold_server.service.observed.health import HealthBook


@dataclass(frozen=True, slots=True)
class Enabling:
    """The request of Enable and of AddRegions.

    Attributes:
        cluster: The cluster's name.
        organization: The customer's organization, or None.
        regions: All regions that are meant; empty: those of the specs.
        specs: One per region.
        validate_only: Prove the keys, store nothing.
    """

    cluster: str
    organization: str | None
    regions: tuple[str, ...]
    specs: tuple[RegionSpec, ...]
    validate_only: bool

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that it names."""
        return tuple(dict.fromkeys((*self.regions, *(spec.region for spec in self.specs))))


class Clusters:
    """Carries out Enable and AddRegions."""

    def __init__(
        self,
        mutations: Mutations,
        keys: NewKeys,
        proofs: Proofs,
        health: HealthBook,
        name_length: int,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the changes to key services and store.

        Args:
            mutations: Carries out changes.
            keys: Lets keys in.
            proofs: Makes and proves KEKs.
            health: What was observed of keys.
            name_length: Characters that the names of new clusters and regions may have.
            random: The source of ids.
        """
        self._mutations = mutations
        self._keys = keys
        self._proofs = proofs
        self._health = health
        self._name_length = name_length
        self._random = random

    async def enable(self, ask: Ask, wanted: Enabling) -> Done:
        """Gives a cluster its keys; the same specs again change nothing.

        Raises:
            ClusterExistsError: It is enabled with other specs.
            RevokedError: It exists, and a region of it is revoked.
            KmsError: A key could not be proven; nothing was stored.
        """
        _check(wanted)
        # By the organization that it is to have; one that is there already has its own.
        ask.caller.rights.check_cluster(ask.rpc, wanted.cluster, wanted.organization, wanted.named)
        return await self._mutations.run(ask, lambda: self._enable(ask, wanted), lambda d: d)

    async def add_regions(self, ask: Ask, wanted: Enabling) -> Done:
        """Gives keys to further regions; a region given again with the same spec is no change.

        Raises:
            ClusterNotFoundError: There is no such cluster.
            RegionExistsError: A region has another spec.
            KmsError: A key could not be proven; nothing was stored.
        """
        _check(wanted)
        return await self._mutations.run(ask, lambda: self._add(ask, wanted), lambda d: d)

    async def _enable(self, ask: Ask, wanted: Enabling) -> Done:
        current = await self._mutations.cluster(wanted.cluster)
        wanted = await self._spelled(ask, wanted, current)
        if current is not None:
            _check_enabled(current, wanted)
            return await self._unchanged(ask, wanted, current)
        now = self._mutations.now()
        regions = await self._make(ask, wanted, wanted.specs, now)
        new = Cluster(
            self._random(16), wanted.cluster, wanted.organization, 0, 1, regions, now, now
        )
        return await self._store(ask, wanted, new, regions, current)

    async def _add(self, ask: Ask, wanted: Enabling) -> Done:
        current = existing(await self._mutations.cluster(wanted.cluster), wanted.cluster)
        if wanted.organization not in (None, current.organization):
            raise OrganizationMismatchError(
                f"cluster {current.name} belongs to another organization; leave the organization "
                "out, or check the cluster's name",
                cluster=current.name,
                field="organization",
            )
        wanted = await self._spelled(ask, wanted, current)
        there = {region.name for region in current.regions}
        for spec in wanted.specs:
            if spec.region in there and not _same(current.region(spec.region), spec):
                raise RegionExistsError(
                    f"region {spec.region} has another key spec or policy; change it with Rotate",
                    cluster=current.name,
                    region=spec.region,
                )
        specs = [spec for spec in wanted.specs if spec.region not in there]
        if not specs:
            return await self._unchanged(ask, wanted, current)
        _check_count(len(there) + len(specs))
        added = await self._make(ask, wanted, specs, self._mutations.now(), current)
        return await self._store(ask, wanted, None, added, current)

    async def _spelled(self, ask: Ask, wanted: Enabling, current: Cluster | None) -> Enabling:
        """Returns the request with a key spec for every region."""
        rights = ask.caller.rights
        specs = await self._keys.spelled(rights, wanted.specs, wanted.cluster, current)
        return replace(wanted, specs=specs)

    async def _make(
        self,
        ask: Ask,
        wanted: Enabling,
        specs: Sequence[RegionSpec],
        now: int,
        current: Cluster | None = None,
    ) -> tuple[Region, ...]:
        """Proves every key and makes the regions, sorted by name."""
        organization = wanted.organization if current is None else current.organization
        names = (("cluster", wanted.cluster), *(("region_specs", spec.region) for spec in specs))
        for field, name in names:
            if len(name) > self._name_length:
                raise InvalidNameError(
                    f"this server takes names of up to {self._name_length} characters for new "
                    "clusters and regions; choose a shorter one",
                    field=field,
                )
        roots = await self._keys.accepted(ask.caller.rights, specs, wanted.cluster, organization)

        async def make(spec: RegionSpec, key_spec: KeySpec) -> Region:
            name = spec.region
            state = after(None, Action.ENABLE, cluster=wanted.cluster, region=name)
            try:
                first = await self._proofs.fresh(
                    wanted.cluster, organization, name, roots[name], 1, now
                )
            except KmsError as error:
                raise of_replica(spec, error) from None
            return Region(name, state, now, key_spec, spec.policy or RegionPolicy(), (first,))

        made = await by_region(
            {
                spec.region: make(spec, spec.key_spec)
                for spec in sorted(specs, key=lambda spec: spec.region)
                if spec.key_spec is not None
            },
            wanted.cluster,
        )
        return tuple(made.values())

    async def _unchanged(self, ask: Ask, wanted: Enabling, current: Cluster) -> Done:
        """Answers a request for what is there already; it counts as carried out (R6)."""
        return (
            Done(current) if wanted.validate_only else await self._mutations.unchanged(ask, current)
        )

    async def _store(
        self,
        ask: Ask,
        wanted: Enabling,
        new: Cluster | None,
        regions: Sequence[Region],
        current: Cluster | None,
    ) -> Done:
        """Commits, or answers what would be."""
        if new is not None:
            decide = created(new)
        else:
            seen = existing(current, wanted.cluster)
            decide = with_regions(seen, regions, self._mutations.now())
        if wanted.validate_only:
            return Done(decide(current))
        done = await self._mutations.commit(ask, decide)
        for region in regions:
            self._health.succeeded(region.newest)
            self._health.wrapping(region.newest, None)
        roots = {region.name: region.newest.current.root for region in regions}
        await self._keys.tell(wanted.cluster, roots)
        return done


def _check(wanted: Enabling) -> None:
    """Refuses a request that is not whole in itself."""
    check_name(wanted.cluster, "cluster")
    if wanted.organization is not None:
        check_name(wanted.organization, "organization")
    check_regions(wanted.regions, "regions")
    check_regions((spec.region for spec in wanted.specs), "region_specs")
    check_replicas(wanted.specs)
    given = {spec.region for spec in wanted.specs if spec.key_spec is not None or spec.replica_of}
    named = wanted.regions or tuple(spec.region for spec in wanted.specs)
    missing = [region for region in named if region not in given]
    if missing or not named:
        raise KeySpecMissingError(
            f"no key spec for region {', '.join(missing)}; give one for each region"
            if missing
            else "no region is named; give one region spec for each region of the cluster",
            cluster=wanted.cluster,
            region=missing[0] if missing else None,
            field="region_specs",
        )
    for index, spec in enumerate(wanted.specs):
        if spec.region not in named:
            raise RegionMismatchError(
                f"region_specs names {spec.region}, which regions does not list",
                cluster=wanted.cluster,
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


def _check_enabled(current: Cluster, wanted: Enabling) -> None:
    """Refuses an Enable of a cluster that exists otherwise than wanted (protocol section 7)."""
    for region in current.regions:
        after(region.state, Action.ENABLE, cluster=current.name, region=region.name)
    given = {spec.region: spec for spec in wanted.specs}
    differing = sorted(
        {region.name for region in current.regions}.symmetric_difference(given)
        | {
            region.name
            for region in current.regions
            if region.name in given and not _same(region, given[region.name])
        }
    )
    if differing or wanted.organization != current.organization:
        what = f"region {', '.join(differing)}" if differing else "its organization"
        raise ClusterExistsError(
            f"cluster {current.name} is enabled and differs in {what}; change keys with Rotate, "
            "add regions with AddRegions",
            cluster=current.name,
        )
