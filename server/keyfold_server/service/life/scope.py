"""For whom a key is asked about: a cluster that is there, one that is to be, or an organization.

TestKey and GetAccessPolicy name one without changing it. A cluster that is there has its own
organization, under which its keys are bound and its external id was issued, whatever was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.errors import OrganizationMismatchError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.rights import Rights
from keyfold_server.service.storage import Storage


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom.

    Attributes:
        cluster: The cluster's name, empty for none.
        region: The region's name, empty for none.
        organization: The organization's, or None.
    """

    cluster: str
    region: str
    organization: str | None


class Scopes:
    """Decides whether a caller may ask about a key for a scope."""

    def __init__(self, storage: Storage) -> None:
        """Joins it to the store, which knows each cluster's organization."""
        self._storage = storage

    async def allowed(self, rpc: str, rights: Rights, asked: Scope) -> Scope:
        """Returns the scope with the organization that the cluster has, if it is there.

        Raises:
            InvalidNameError: A name is none.
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
