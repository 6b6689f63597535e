"""`replica_of`: a region whose key is the replica of another region's key.

Keyfold works out, from the request and the cluster as it is, which key spec `replica_of` means.
That spec is granted, proven and stored as if the caller had written it. The store remembers whose
replica it is, so that a rotation of the source works it out again (`service.life.following`). No
KMS is called here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from keyfold_server.domain.cluster import Cluster, no_region
from keyfold_server.domain.errors import (
    AccessDeniedError,
    InvalidKeySpecError,
    KeyfoldError,
    KeyNotFoundError,
)
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionSpec, check_name
from keyfold_server.domain.provider import HasRegions, HasReplicas
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.seats import SeatPool
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.resolution import Resolution

OWN_POLICY: Final = "a replica has a policy of its own, and a missing one may look the same"
"""What a denied replica may mean: a KMS may not tell a caller of another account which it is."""


def check_replica_of(specs: Sequence[RegionSpec]) -> None:
    """Refuses a spec that has both a key and `replica_of`, or that names its own region.

    Raises:
        InvalidKeySpecError: One of the specs does.
        InvalidNameError: A `replica_of` is not a valid name of a region.
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


class ReplicaKeys:
    """Replaces `replica_of` by the key spec that it means."""

    def __init__(
        self, kms: KmsClient, resolution: Resolution, regions: ResidencyPolicy, seats: SeatPool
    ) -> None:
        """Takes the providers, what resolves key specs, and the settings' regions and seats."""
        self._seats = seats
        self._kms = kms
        self._resolution = resolution
        self._regions = regions

    async def spelled_out(
        self,
        rights: Rights,
        specs: Sequence[RegionSpec],
        cluster: str,
        current: Cluster | None,
    ) -> tuple[RegionSpec, ...]:
        """Returns a request's region specs, each `replica_of` with the key spec that it means.

        Args:
            rights: The caller's rights: only a caller that may read a stored region's key may
                name a replica of it.
            specs: The request's specs, which `check_replica_of` has accepted. One that has both a
                key spec and `replica_of` is spelled out already.
            cluster: The cluster's name.
            current: The cluster as the store has it, or None.

        Raises:
            InvalidKeySpecError: The named region's key is unknown, or has no replica there.
            RegionNotFoundError: The cluster has no such region, or the caller may not see it.
            NotAllowedError: The caller may not read that region's key.
        """
        spelled_out = []
        for index, spec in enumerate(specs):
            if not spec.replica_of or spec.key_spec is not None:
                spelled_out.append(spec)
                continue
            path = f"region_specs[{index}].replica_of"
            try:
                source = _source(rights, spec, specs, cluster, current)
                key_spec = await self.replica(source, spec.replica_of, spec.region)
            except InvalidKeySpecError as error:
                # Report the field of our own request: the caller did not write the key spec about
                # which the provider complains.
                raise InvalidKeySpecError(
                    error.message, cluster=cluster, region=spec.region, field=path
                ) from None
            spelled_out.append(replace(spec, key_spec=key_spec))
        return tuple(spelled_out)

    async def replica(self, key_spec: KeySpec, source: str, region: str) -> KeySpec:
        """Returns the key spec of the replica of a key.

        Args:
            key_spec: The key.
            source: The region that uses the key.
            region: The region that is to use the replica.

        Raises:
            InvalidKeySpecError: The key has no replica there.
        """
        if key_spec.type == PLATFORM:
            raise InvalidKeySpecError(
                f"region {source} uses the vendor's own key; give region {region} a key_spec, of "
                f"type {PLATFORM} for the vendor's own there"
            )
        root = await self._resolution.root_key(key_spec, source)
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, HasReplicas):
            raise InvalidKeySpecError(
                f"{root.type} keys have no replicas in other regions; give region {region} a "
                "key_spec"
            )
        target = self._regions.provider_region(region, root.type)
        try:
            found = provider.replica(root, target)
        except InvalidKeySpecError as error:
            key_region = provider.region(root) if isinstance(provider, HasRegions) else ""
            if self._regions.knows(region, root.type, key_region):
                raise
            raise InvalidKeySpecError(
                f"{error.message}; the settings do not say where region {region} is: have "
                f'{root.type} = "…" added to their table [regions."{region}"]'
            ) from None
        # The seat of one region is not another one's.
        principal = self._seats.asked(found.type, found.principal)
        return KeySpec(found.type, found.uri, principal, found.options)


def _source(
    rights: Rights,
    spec: RegionSpec,
    specs: Sequence[RegionSpec],
    cluster: str,
    current: Cluster | None,
) -> KeySpec:
    """Returns the key spec of the region that `replica_of` names: the request's, else the stored.

    A caller that may not read a stored region must not learn that it exists, nor read its key in
    an error message about the replica.
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
    source = current.region(spec.replica_of)
    if source.replica_of:
        raise InvalidKeySpecError(
            f"region {source.name} is itself a replica of {source.replica_of}; name that region"
        )
    return source.key_spec


def replica_error(spec: RegionSpec, error: KeyfoldError) -> KeyfoldError:
    """Returns an error about a region's key, saying so where the key came from `replica_of`."""
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
            message += f"; {OWN_POLICY}"
    copy = error.at()
    copy.message = message
    copy.args = (message,)
    return copy
