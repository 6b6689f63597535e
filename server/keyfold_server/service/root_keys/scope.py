"""Scopes: the cluster, region and organization for which a caller asks about a key.

TestKey and GetAccessPolicy take a scope and change nothing in it. A cluster that exists has an
organization of its own: its keys are bound to that organization, and its external id was issued
under it, so a request cannot choose another.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.cluster import Region
from keyfold_server.domain.errors import OrganizationMismatchError
from keyfold_server.domain.keyspec import KeySpec, RootKey, check_name
from keyfold_server.domain.rights import Rights
from keyfold_server.service.root_keys.resolution import Resolution
from keyfold_server.service.root_keys.seats import Seats
from keyfold_server.service.storage import Storage


@dataclass(frozen=True, slots=True)
class Scope:
    """The cluster, region and organization that are to use a key.

    Attributes:
        cluster: The cluster's name, whether it exists or not; empty: no cluster.
        region: The region's name; empty: no region.
        organization: The organization's name, or None.
        exists: Whether the cluster is known to exist and the caller may see it. A request leaves
            that open.
        current: The region as it is, if it exists. A request leaves that open, too.
    """

    cluster: str
    region: str
    organization: str | None
    exists: bool = False
    current: Region | None = None


class Scopes:
    """Decides whether a caller may ask about a key for a scope."""

    def __init__(self, storage: Storage, resolution: Resolution, seats: Seats) -> None:
        """Takes the store, which knows each cluster's organization, what resolves keys, and seats.

        Args:
            storage: The store.
            resolution: Resolves keys.
            seats: The seats, which no caller may name.
        """
        self._storage = storage
        self._seats = seats
        self._resolution = resolution

    async def authorized(
        self, rpc: str, rights: Rights, asked: Scope, spec: KeySpec
    ) -> tuple[Scope, RootKey]:
        """Returns the scope, with the cluster's own organization, and the root key in it.

        The key is decided before any look-up, and a cluster that the caller may not see counts as
        one that does not exist. So no answer tells the two apart (protocol C8).

        Raises:
            InvalidNameError: A name is not valid.
            ClusterNotFoundError: The caller may see no cluster of that name and organization.
            OrganizationMismatchError: The cluster belongs to another organization.
            ForbiddenError: The caller may not do this there, or may not name this key there.
            InvalidKeySpecError: The key spec cannot be right.
        """
        for name, field in (
            (asked.cluster, "cluster"),
            (asked.region, "region"),
            (asked.organization or "", "organization"),
        ):
            if name:
                check_name(name, field)
        rights.check(rpc)
        cluster, region, organization = asked.cluster, asked.region, asked.organization
        if not cluster:
            root = await self._resolution.permitted(rights, spec, None, organization, region)
            return asked, self._seats.checked(root, None)
        regions = (region,) if region else ()
        rights.check_named(rpc, cluster, regions)
        if organization is not None:
            rights.check_cluster(rpc, cluster, organization, regions)
        await self._resolution.check_named(rights, spec, cluster, region)
        current = await self._storage.run(self._storage.store.cluster, cluster)
        exists = current is not None and rights.sees(cluster, current.organization)
        if current is not None and exists:
            organization = current.organization
        rights.check_cluster(rpc, cluster, organization, regions)
        if asked.organization not in (None, organization):
            raise OrganizationMismatchError(
                f"cluster {cluster} does not belong to organization {asked.organization}; "
                "leave the organization out, or check the cluster's name",
                cluster=cluster,
                field="organization",
            )
        root = await self._resolution.permitted(rights, spec, cluster, organization, region)
        there = [r for r in current.regions if r.name == region] if current and exists else []
        root = self._seats.checked(root, there[0] if there else None)
        return Scope(cluster, region, organization, exists, *there), root
