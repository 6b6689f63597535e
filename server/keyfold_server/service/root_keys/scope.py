"""Scopes: the cluster, region and organization for which a caller asks about a key.

TestKey and GetAccessPolicy take a scope and change nothing in it. A cluster that exists has an
organization of its own: its keys are bound to that organization, and its external id was issued
under it, so a request cannot choose another.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.errors import OrganizationMismatchError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.rights import Rights
from keyfold_server.service.storage import Storage


@dataclass(frozen=True, slots=True)
class Scope:
    """The cluster, region and organization that are to use a key.

    Attributes:
        cluster: The cluster's name, whether it exists or not; empty: no cluster.
        region: The region's name; empty: no region.
        organization: The organization's name, or None.
    """

    cluster: str
    region: str
    organization: str | None


class Scopes:
    """Decides whether a caller may ask about keys for a scope."""

    def __init__(self, storage: Storage) -> None:
        """Takes the store, which knows each cluster's organization."""
        self._storage = storage

    async def authorized(self, rpc: str, rights: Rights, asked: Scope) -> Scope:
        """Returns the scope, with the cluster's own organization where the cluster exists.

        Raises:
            InvalidNameError: A name is not valid.
            ClusterNotFoundError: The caller may not see the cluster.
            OrganizationMismatchError: The cluster belongs to another organization.
            ForbiddenError: The caller may not do this there.
        """
        for name, field in (
            (asked.cluster, "cluster"),
            (asked.region, "region"),
            (asked.organization or "", "organization"),
        ):
            if name:
                check_name(name, field)
        rights.check(rpc)
        if not asked.cluster:
            return asked
        regions = (asked.region,) if asked.region else ()
        rights.check_named(rpc, asked.cluster, regions)
        current = await self._storage.run(self._storage.store.cluster, asked.cluster)
        organization = asked.organization if current is None else current.organization
        rights.check_cluster(rpc, asked.cluster, organization, regions)
        if asked.organization not in (None, organization):
            raise OrganizationMismatchError(
                f"cluster {asked.cluster} does not belong to organization {asked.organization}; "
                "leave the organization out, or check the cluster's name",
                cluster=asked.cluster,
                field="organization",
            )
        return Scope(asked.cluster, asked.region, organization)
