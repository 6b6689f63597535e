"""Access policies: what a customer attaches to a key so that Keyfold may use it, and no more.

GetAccessPolicy calls no KMS and tries nothing. It stores one thing, the external id, where the
provider needs one: the customer needs that id before anybody can prove the key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError, InvalidNameError
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, DescribesAccess
from keyfold_server.domain.rights import Caller
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.audit import DONE, Audit, Inquiry
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.scope import Scope, Scopes

_RPC: Final = "GetAccessPolicy"


@dataclass(frozen=True, slots=True)
class AccessPolicyRequest:
    """The request of GetAccessPolicy.

    Attributes:
        key_spec: The key, and the principal with which Keyfold is to call it.
        scope: The cluster, or all clusters of an organization, that are to use the key, in one
            region or in all.
    """

    key_spec: KeySpec
    scope: Scope


@dataclass(frozen=True, slots=True)
class AccessPolicyResult:
    """What the customer has to put in place.

    Attributes:
        policy: The provider's statements.
        external_id: The external id that the customer's trust policy must demand; empty where the
            key needs no external id.
    """

    policy: AccessPolicy
    external_id: str


class AccessPolicies:
    """Carries out GetAccessPolicy."""

    def __init__(
        self,
        kms: KmsClient,
        scopes: Scopes,
        residency: Residency,
        external_ids: ExternalIds,
        audit: Audit,
        changes: Changes,
    ) -> None:
        """Takes the providers, what authorizes, places, external ids, audit events, and changes."""
        self._kms = kms
        self._scopes = scopes
        self._residency = residency
        self._external_ids = external_ids
        self._audit = audit
        self._changes = changes

    async def get(self, caller: Caller, request: AccessPolicyRequest) -> AccessPolicyResult:
        """Returns what permits Keyfold to use a key; issues an external id where one is needed.

        Without a cluster, the answer is for every cluster of the organization, those that do not
        exist yet included. Only a grant that is narrowed to no cluster allows that.

        Args:
            caller: The caller.
            request: The key, and the scope that is to use it.

        Raises:
            InvalidNameError: The request names neither cluster nor organization, or a name is not
                valid.
            ClusterNotFoundError: The caller may not see the cluster.
            OrganizationMismatchError: The cluster belongs to another organization.
            ForbiddenError: The caller may not name this key there.
            InvalidKeySpecError: The key spec is wrong, or its provider cannot describe access.
            RateLimitedError: The caller has had too many external ids issued.
            StoreRolledBackError: The store is not the one that this replica knew.
        """
        if not (request.scope.cluster or request.scope.organization):
            raise InvalidNameError(
                "name the cluster that is to use the key, or the organization whose clusters are",
                field="cluster",
            )
        # The key first, so that Keyfold issues nothing for one that the caller may not name (C1).
        scope, root = await self._scopes.authorized(
            _RPC, caller.rights, request.scope, request.key_spec
        )
        inquiry = Inquiry(caller, _RPC, request.key_spec, scope)
        return await self._audit.recorded(inquiry, self._described(inquiry, root))

    async def _described(self, inquiry: Inquiry, root: RootKey) -> AccessPolicyResult:
        scope = inquiry.scope
        cluster = scope.cluster or None
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, DescribesAccess):
            raise InvalidKeySpecError(
                f"provider {root.type} cannot say which permissions Keyfold needs; see its own "
                "documentation, and use TestKey to see whether they are enough",
                field="key_spec.type",
            )
        external_id = await self._external_id(inquiry, root)
        if external_id:
            root = replace(root, external_id=external_id)
        policy = provider.access_policy(
            root, AccessWanted(cluster, scope.region or None, scope.organization)
        )
        place = await self._residency.report(root, scope.region)
        return AccessPolicyResult(
            replace(policy, notices=(*policy.notices, *place.notices)), external_id
        )

    async def _external_id(self, inquiry: Inquiry, root: RootKey) -> str:
        """Returns the external id of the key's owner; empty where the key needs no external id."""
        if not await self._external_ids.needed_for(root):
            return ""
        # An id that Keyfold issued into the wrong store would be lost with that store.
        self._changes.check_store()
        cluster, organization = inquiry.scope.cluster or None, inquiry.scope.organization
        found = await self._external_ids.issued_to(cluster, organization)
        if found is not None:
            return found
        self._external_ids.charge(inquiry.caller.name)
        event = inquiry.event("rpc:external_id:issue", DONE)
        named = cluster if inquiry.scope.exists else None
        return await self._external_ids.issue(cluster, organization, event, named)
