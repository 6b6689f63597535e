"""New keys: what a request gives to regions, spelled out and let in before any KMS is asked.

What `replica_of` means is settled once, from the request and the cluster as it is; the key spec
that comes out is granted, proven and stored as an ordinary one, and follows its source no more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from keyfold_server.domain.cluster import Cluster, no_region
from keyfold_server.domain.errors import (
    AccessDeniedError,
    InvalidKeySpecError,
    KeyfoldError,
    KeyNotFoundError,
    KeyNotGrantedError,
)
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionSpec, RootKey, check_name
from keyfold_server.domain.provider import HasRegions, HasReplicas
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Rights
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.resolution import Resolution

log = logging.getLogger(__name__)


def check_replicas(specs: Sequence[RegionSpec]) -> None:
    """Refuses specs that name a replica and a key, or themselves.

    Raises:
        InvalidKeySpecError: One does.
        InvalidNameError: What `replica_of` names is no region.
    """
    for index, spec in enumerate(specs):
        if not spec.replica_of:
            continue
        path = f"region_specs[{index}].replica_of"
        check_name(spec.replica_of, path)
        if spec.key_spec is not None:
            raise InvalidKeySpecError(
                f"region {spec.region} has both a key_spec and replica_of; give one of them",
                region=spec.region,
                field=path,
            )
        if spec.replica_of == spec.region:
            raise InvalidKeySpecError(
                f"region {spec.region} cannot be a replica of itself; name the region whose key "
                "has a replica here",
                region=spec.region,
                field=path,
            )


class NewKeys:
    """Takes the region specs of Enable, AddRegions and Rotate; asks no KMS."""

    def __init__(self, kms: KmsClient, resolution: Resolution, regions: ResidencyPolicy) -> None:
        """Joins it to the providers, to what resolves specs, and to the table of regions."""
        self._kms = kms
        self._resolution = resolution
        self._regions = regions

    async def spelled(
        self,
        rights: Rights,
        specs: Sequence[RegionSpec],
        cluster: str,
        current: Cluster | None,
    ) -> tuple[RegionSpec, ...]:
        """Returns a request's region specs, each `replica_of` with the key spec that it means.

        Args:
            rights: What the caller may do: whoever takes a stored region's key must be allowed to
                read it.
            specs: The request's, as `check_replicas` lets them through.
            cluster: The cluster's name.
            current: As the store has it, or None.

        Raises:
            InvalidKeySpecError: There is no such key, or it has no replica there.
            RegionNotFoundError: The cluster has no such region, or the caller may not see it.
            NotAllowedError: The caller may not read its key.
        """
        spelled = []
        for index, spec in enumerate(specs):
            if not spec.replica_of:
                spelled.append(spec)
                continue
            path = f"region_specs[{index}].replica_of"
            try:
                source = _source(rights, spec, specs, cluster, current)
                key_spec = await self._derived(source, spec)
            except InvalidKeySpecError as error:
                # Where it stood is known here; what a provider names as the field stood elsewhere.
                raise InvalidKeySpecError(
                    error.message, cluster=cluster, region=spec.region, field=path
                ) from None
            spelled.append(replace(spec, key_spec=key_spec))
        return tuple(spelled)

    async def accepted(
        self,
        rights: Rights,
        specs: Iterable[RegionSpec],
        cluster: str,
        organization: str | None,
    ) -> dict[str, RootKey]:
        """Returns the root keys, by region, that a caller gives to a cluster.

        All are let in before any is tried: a key that may not be named there, or that must not be
        there, costs nobody a call (protocol C1).

        Args:
            rights: What the caller may do.
            specs: Spelled out; those without a key spec are left out.
            cluster: The cluster's name.
            organization: The cluster's organization.

        Raises:
            InvalidKeySpecError: A key spec does not fit its provider.
            KeyNotGrantedError: The caller may not name a key.
            KeyElsewhereError: A key is elsewhere, and residency is demanded.
            ExternalIdNotIssuedError: A provider demands an external id, and there is none.
        """
        let_in = self._resolution
        roots = {}
        for spec in specs:
            if spec.key_spec is None:
                continue
            try:
                roots[spec.region] = await let_in.permitted(
                    rights, spec.key_spec, cluster, organization, spec.region
                )
            except KeyNotGrantedError as error:
                raise of_replica(spec, error) from None
        for region, root in roots.items():
            await let_in.check_place(root, region, cluster)
        return {
            region: await let_in.identified(root, cluster, organization, region)
            for region, root in roots.items()
        }

    async def tell(self, cluster: str, roots: Mapping[str, RootKey]) -> None:
        """Logs which of a cluster's new root keys are in other regions than they are named for."""
        for region, root in roots.items():
            for notice in (await self._resolution.place(root, region)).notices:
                log.warning("cluster %s, region %s: %s", cluster, region, notice)

    async def _derived(self, source: KeySpec, spec: RegionSpec) -> KeySpec:
        """Returns the key spec of the replica of a source region's key."""
        if source.type == PLATFORM:
            raise InvalidKeySpecError(
                f"region {spec.replica_of} uses the vendor's own key; give region {spec.region} a "
                f"key_spec, of type {PLATFORM} for the vendor's own there"
            )
        root = await self._resolution.named(source, spec.replica_of)
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, HasReplicas):
            raise InvalidKeySpecError(
                f"{root.type} keys have no replicas in other regions; give region {spec.region} a "
                "key_spec"
            )
        target = self._regions.provider_region(spec.region, root.type)
        try:
            found = provider.replica(root, target)
        except InvalidKeySpecError as error:
            told = provider.region(root) if isinstance(provider, HasRegions) else ""
            if self._regions.knows(spec.region, root.type, told):
                raise
            raise InvalidKeySpecError(
                f"{error.message}; the settings do not say where region {spec.region} is: have "
                f'{root.type} = "…" added to their table [regions."{spec.region}"]'
            ) from None
        return KeySpec(found.type, found.uri, found.principal, found.options)


def _source(
    rights: Rights,
    spec: RegionSpec,
    specs: Sequence[RegionSpec],
    cluster: str,
    current: Cluster | None,
) -> KeySpec:
    """Returns the key spec of the region that `replica_of` names: the request's, else the stored.

    What is stored is a region's own business: who may not read it learns neither that it is there
    nor, from a message about its replica, what its key is.
    """
    for other in specs:
        if other.region == spec.replica_of:
            if other.replica_of:
                raise InvalidKeySpecError(
                    f"region {other.region} is itself a replica of {other.replica_of}; name that "
                    "region"
                )
            if other.key_spec is not None:
                return other.key_spec
    if current is None:
        raise InvalidKeySpecError(
            f"the request has no key spec for region {spec.replica_of}, whose key region "
            f"{spec.region} is to have a replica of; give it one"
        )
    if all(region.name != spec.replica_of for region in current.regions):
        raise no_region(cluster, spec.replica_of)
    rights.check_cluster("GetStatus", cluster, current.organization, (spec.replica_of,))
    return current.region(spec.replica_of).key_spec


def of_replica(spec: RegionSpec, error: KeyfoldError) -> KeyfoldError:
    """Returns an error about a region's new key, which says so where the key was derived."""
    if not spec.replica_of or spec.key_spec is None:
        return error
    if isinstance(error, KeyNotFoundError):
        message = (
            f"there is no replica of region {spec.replica_of}'s key at {spec.key_spec.uri}; "
            "replicate the key there first"
        )
    else:
        message = f"the replica {spec.key_spec.uri} of region {spec.replica_of}'s key: "
        message += error.message
        if isinstance(error, AccessDeniedError):
            message += "; a replica has a policy of its own"
    told = error.at()
    told.message = message
    told.args = (message,)
    return told
