"""One multi-Region key for the regions of a geo: which region uses the key, and which a replica.

The region in which the key is uses the key itself. It is the source of the others, which are its
replicas exactly as `replica_of` makes them. No KMS is called here, so nothing here says that a
replica exists; Enable proves each, and so does a trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionSpec
from keyfold_server.domain.provider import HasRegions, HasReplicas
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.replica_of import ReplicaKeys
from keyfold_server.service.root_keys.resolution import Resolution


class GeoKeys:
    """Works out the key spec of each region of a geo."""

    def __init__(
        self,
        kms: KmsClient,
        resolution: Resolution,
        regions: ResidencyPolicy,
        replica_keys: ReplicaKeys,
    ) -> None:
        """Takes the settings, and what tells where a key and its replicas are.

        Args:
            kms: The providers.
            resolution: Resolves key specs.
            regions: The geos of the vendor's regions, and their places.
            replica_keys: Works out the replica of a key.
        """
        self._kms = kms
        self._resolution = resolution
        self._regions = regions
        self._replica_keys = replica_keys

    async def keys(self, key_spec: KeySpec, geo: str) -> tuple[RegionSpec, ...]:
        """Returns a spec for each region of a geo, in the order of their names.

        Each has a key spec. Those of replicas also say whose replica it is (`replica_of`), and the
        one of the region that uses the key itself says for which geo the key is.

        Raises:
            UnknownGeoError: The settings have no such geo.
            InvalidKeySpecError: The key is not in a region of the geo, or has no replica in one of
                them.
        """
        regions = self._regions.geos.regions(geo)
        homes = await self._homes(key_spec, geo, regions)
        source, specs = homes[0], []
        for region in regions:
            if region in homes:
                specs.append(RegionSpec(region, key_spec, geo=geo if region == source else ""))
                continue
            try:
                found = await self._replica_keys.replica(key_spec, source, region)
            except InvalidKeySpecError as error:
                raise InvalidKeySpecError(
                    f"geo {geo} has the regions {', '.join(regions)}: {error.message}",
                    region=region,
                    field="key_spec.uri",
                ) from None
            specs.append(RegionSpec(region, found, replica_of=source))
        return tuple(specs)

    async def spelled_out(self, specs: Sequence[RegionSpec]) -> tuple[RegionSpec, ...]:
        """Returns a request's specs, those of geos with the key specs that they mean.

        Args:
            specs: The request's specs. Each region of a geo has a spec with the geo and its key.

        Raises:
            InvalidKeySpecError: As `keys` says.
        """
        keys: dict[tuple[str, KeySpec], dict[str, RegionSpec]] = {}
        spelled_out = []
        for spec in specs:
            if not spec.geo or spec.key_spec is None:
                # Without a key, a region of a geo is like a region that is named by itself.
                spelled_out.append(replace(spec, geo=""))
                continue
            known = (spec.geo, spec.key_spec)
            if known not in keys:
                keys[known] = {
                    each.region: each for each in await self.keys(spec.key_spec, spec.geo)
                }
            spelled_out.append(replace(keys[known][spec.region], policy=spec.policy))
        return tuple(spelled_out)

    async def _homes(self, key_spec: KeySpec, geo: str, regions: Sequence[str]) -> list[str]:
        """Returns the regions of a geo in which the key itself is; at least one."""
        if key_spec.type == PLATFORM:
            raise InvalidKeySpecError(
                f"{PLATFORM} stands for a key of one region, and not of geo {geo}; name each "
                "region that is to use it",
                field="key_spec.type",
            )
        root = await self._resolution.root_key(key_spec, regions[0])
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, HasRegions) or not isinstance(provider, HasReplicas):
            raise InvalidKeySpecError(
                f"{root.type} keys have no replicas in other regions, so one key cannot serve geo "
                f"{geo}; give each of its regions a key_spec: {', '.join(regions)}",
                field="key_spec.type",
            )
        place = provider.region(root)
        homes = [
            region
            for region in regions
            if place in (self._regions.locations(region, root.type) or (region,))
        ]
        if not homes:
            raise InvalidKeySpecError(
                f"the key is in {place}, where geo {geo} has no region; name its replica in one of "
                f"{', '.join(regions)}",
                field="key_spec.uri",
            )
        return homes
