"""The keys of a request's region specs: what stands for a key spec there, replaced by it.

No KMS is called here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.keyspec import RegionSpec
from keyfold_server.domain.rights import Rights
from keyfold_server.service.root_keys.geo_keys import GeoKeys
from keyfold_server.service.root_keys.link_keys import LinkKeys
from keyfold_server.service.root_keys.replica_of import ReplicaKeys


class SpecKeys:
    """Replaces geos, `replica_of` and key links by key specs.

    Attributes:
        geo_keys: Works out the keys of a geo's regions.
        replica_keys: Works out the replicas of keys.
        link_keys: Looks up what an organization gives to its clusters' regions.
    """

    def __init__(self, geo_keys: GeoKeys, replica_keys: ReplicaKeys, link_keys: LinkKeys) -> None:
        """Takes what works out the keys."""
        self.link_keys: Final = link_keys
        self.geo_keys: Final = geo_keys
        self.replica_keys: Final = replica_keys

    async def spelled_out(
        self, rights: Rights, specs: Sequence[RegionSpec], cluster: str, current: Cluster | None
    ) -> tuple[RegionSpec, ...]:
        """Returns a request's region specs with the key specs that they mean.

        Those that name a key link must have its key already.

        Args:
            rights: The caller's rights.
            specs: The request's specs. One that is spelled out already stays as it is.
            cluster: The cluster's name.
            current: The cluster as the store has it, or None.

        Raises:
            InvalidKeySpecError: A key has no replica where the request needs one.
            RegionNotFoundError: The cluster has no such region, or the caller may not see it.
            NotAllowedError: The caller may not read the key of a region that `replica_of` names.
        """
        of_geos = await self.geo_keys.spelled_out(specs)
        return await self.replica_keys.spelled_out(rights, of_geos, cluster, current)
