"""Access policies: what a customer attaches so that Keyfold may use their key, and no more.

No KMS is asked and nothing is tried. What is kept is the external id alone, where the provider
demands one: it is issued here, since the customer needs it before any key can be proven.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError, InvalidNameError
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, DescribesAccess
from keyfold_server.domain.rights import Rights
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.external_ids import ExternalIds
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.life.scope import Scope, Scopes

_RPC: Final = "GetAccessPolicy"


@dataclass(frozen=True, slots=True)
class AccessPolicyRequest:
    """The request of GetAccessPolicy.

    Attributes:
        key_spec: The key, and as whom Keyfold is to call it.
        scope: Who is to use it: a cluster, or all of an organization; in a region, or in all.
    """

    key_spec: KeySpec
    scope: Scope


@dataclass(frozen=True, slots=True)
class AccessPolicyResult:
    """What is to be put in place.

    Attributes:
        policy: By the provider.
        external_id: What the customer's trust policy must demand; empty where the provider has
            no such thing.
    """

    policy: AccessPolicy
    external_id: str


class AccessPolicies:
    """Carries out GetAccessPolicy."""

    def __init__(
        self,
        kms: KmsClient,
        scopes: Scopes,
        resolution: Resolution,
        external_ids: ExternalIds,
        changes: Changes,
    ) -> None:
        """Joins it to the providers, to what decides and resolves, and to what was issued."""
        self._kms = kms
        self._scopes = scopes
        self._resolution = resolution
        self._external_ids = external_ids
        self._changes = changes

    async def get(self, rights: Rights, wanted: AccessPolicyRequest) -> AccessPolicyResult:
        """Tells what permits Keyfold to use a key; issues an external id where one is needed.

        Without a cluster it speaks for every cluster of the organization, those included that are
        not there yet: only a grant that is narrowed to none lets a caller name a key for all.

        Args:
            rights: What the caller may do.
            wanted: The key, and for whom.

        Raises:
            InvalidNameError: Neither cluster nor organization is named, or a name is none.
            ClusterNotFoundError: The caller may not see the cluster.
            OrganizationMismatchError: The cluster belongs to another organization.
            ForbiddenError: The caller may not name this key there.
            InvalidKeySpecError: The key spec is wrong, or its provider tells no policies.
            StoreRolledBackError: The store is not the one that this replica knew.
        """
        if not (wanted.scope.cluster or wanted.scope.organization):
            raise InvalidNameError(
                "name the cluster that is to use the key, or the organization whose clusters are",
                field="cluster",
            )
        scope = await self._scopes.allowed(_RPC, rights, wanted.scope)
        cluster = scope.cluster or None
        # Before anything is issued: for a key that may not be named, nothing is (protocol C1).
        root = await self._resolution.permitted(
            rights, wanted.key_spec, cluster, scope.organization, scope.region
        )
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, DescribesAccess):
            raise InvalidKeySpecError(
                f"provider {root.type} cannot tell what permits the use of its keys; its own "
                "documentation does, and TestKey tells whether it is enough",
                field="key_spec.type",
            )
        external_id = ""
        if await self._resolution.takes_external_id(root):
            # What is issued in a store that is not the right one is lost with it.
            self._changes.check_store()
            external_id = await self._external_ids.issue(scope.organization, cluster)
            root = replace(root, external_id=external_id)
        policy = provider.access_policy(
            root, AccessWanted(cluster, scope.region or None, scope.organization)
        )
        place = await self._resolution.place(root, scope.region)
        return AccessPolicyResult(
            replace(policy, notices=(*policy.notices, *place.notices)), external_id
        )
