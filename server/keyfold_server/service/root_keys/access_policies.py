"""Access policies: what a customer attaches to a key so that Keyfold may use it, and no more.

GetAccessPolicy calls no KMS and tries nothing. It stores one thing: the external id, where the
provider needs one, or the seat that it reserves. The customer needs it before anybody can prove the
key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError, InvalidNameError
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, DescribesAccess
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.seats import SEAT, IssuedSeat, Seat, asks_for_seat
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.audit import DONE, Audit, Inquiry
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.scope import Scope, Scopes
from keyfold_server.service.root_keys.seats import SeatedKey, Seats
from keyfold_server.service.storage import Storage

_RPC: Final = "GetAccessPolicy"


@dataclass(frozen=True, slots=True)
class AccessPolicyRequest:
    """The request of GetAccessPolicy.

    Attributes:
        key_spec: The key, and the principal with which Keyfold is to call it.
        scope: The cluster, or all clusters of an organization, that are to use the key, in one
            region or in all.
        seats: How many seats the owner is to have, if the key spec asks for a seat; 0: one.
    """

    key_spec: KeySpec
    scope: Scope
    seats: int = 0


@dataclass(frozen=True, slots=True)
class AccessPolicyResult:
    """What the customer has to put in place.

    Attributes:
        policy: The provider's statements.
        external_id: The external id that the customer's trust policy must demand; empty where the
            key needs no external id.
        seats: The names of the seats that the statements are for, in the order in which Keyfold
            takes them.
    """

    policy: AccessPolicy
    external_id: str
    seats: tuple[str, ...] = ()


class AccessPolicies:
    """Carries out GetAccessPolicy."""

    def __init__(
        self,
        storage: Storage,
        kms: KmsClient,
        scopes: Scopes,
        residency: Residency,
        identities: tuple[ExternalIds, Seats],
        holders: Holders,
        audit: Audit,
        changes: Changes,
    ) -> None:
        """Joins GetAccessPolicy to the store.

        Args:
            storage: The store.
            kms: The providers.
            scopes: Authorizes the scope, and the key in it.
            residency: Knows where keys are.
            identities: The external ids and the seats of owners.
            holders: Knows whose the accounts of keys are.
            audit: Records the calls.
            changes: Knows whether the store is the right one.
        """
        self._storage = storage
        self._kms = kms
        self._scopes = scopes
        self._residency = residency
        self._external_ids, self._seats = identities
        self._holders = holders
        self._audit = audit
        self._changes = changes

    async def get(self, caller: Caller, request: AccessPolicyRequest) -> AccessPolicyResult:
        """Returns what permits Keyfold to use a key; issues an identity where one is needed.

        That is an external id or, if the key spec asks for a seat, one that is reserved for the
        owner: the same one again until a region takes it.

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
            KeyHeldByAnotherError: The key is in what another organization holds.
            RateLimitedError: The caller has had too many identities issued.
            SeatsExhaustedError: No seat is free.
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
        if request.seats and not asks_for_seat(root.principal):
            raise InvalidKeySpecError(
                f"the request asks for seats, and its key spec for none; name principal {SEAT}",
                field="key_spec.auth_principal",
            )
        inquiry = Inquiry(caller, _RPC, request.key_spec, scope)
        return await self._audit.recorded(inquiry, self._described(inquiry, root, request.seats))

    async def _described(self, inquiry: Inquiry, root: RootKey, seats: int) -> AccessPolicyResult:
        scope = inquiry.scope
        cluster = scope.cluster or None
        await self._holders.claim(scope.organization, [(inquiry.key_spec.type, root)])
        provider = await self._kms.provider(root.type)
        if not isinstance(provider, DescribesAccess):
            raise InvalidKeySpecError(
                f"provider {root.type} cannot say which permissions Keyfold needs; see its own "
                "documentation, and use TestKey to see whether they are enough",
                field="key_spec.type",
            )
        wanted = AccessWanted(cluster, scope.region or None, scope.organization)
        names: tuple[str, ...] = ()
        if asks_for_seat(root.principal):
            keys = await self._reserved(inquiry, root, max(1, seats))
            root = keys[0].root
            external_id, names = root.external_id, tuple(key.seat.name for key in keys)
            policy = _joined(
                provider.access_policy(key.root, replace(wanted, seat=key.seat)) for key in keys
            )
        else:
            external_id = await self._external_id(inquiry, root)
            if external_id:
                root = replace(root, external_id=external_id)
            seat = self._seats.pool.named_by(root.type, root.principal) if root.principal else None
            policy = provider.access_policy(root, replace(wanted, seat=seat))
        place = await self._residency.report(root, scope.region)
        notices = (*policy.notices, *place.notices, *self._elsewhere(scope.region))
        return AccessPolicyResult(replace(policy, notices=notices), external_id, names)

    def _elsewhere(self, region: str) -> tuple[str, ...]:
        """Returns the notice that the policy may name another identity than the region's own."""
        served = self._kms.served
        if served.serves(region):
            return ()
        where = f"region {region}" if region else "every region"
        notice = (
            f"the replica that answers here serves only {served}: where the vendor's own identity "
            f"stands in the policy, it is this replica's; if {where} is served under another one, "
            "ask a replica there"
        )
        return (notice,)

    async def _reserved(self, inquiry: Inquiry, root: RootKey, count: int) -> list[SeatedKey]:
        """Returns the key as each seat of the owner, of which there are at least so many then."""
        scope = inquiry.scope
        cluster, organization = scope.cluster or None, scope.organization

        async def issue(owner: str, pool: Sequence[Seat], wanted: int) -> list[IssuedSeat]:
            # A seat that Keyfold reserved in the wrong store would be issued twice.
            self._changes.check_store()
            self._external_ids.charge(inquiry.caller.name)
            event = inquiry.event("rpc:seat:reserve", DONE)
            named = cluster if scope.exists else None
            store = self._storage.store
            return await self._storage.run(store.reserve_seats, owner, pool, wanted, event, named)

        return await self._seats.reserve(
            root, cluster, organization, scope.region, count, issue, scope.current
        )

    async def _external_id(self, inquiry: Inquiry, root: RootKey) -> str:
        """Returns the external id of the key's owner; empty where the key needs no external id."""
        if root.external_id:
            return root.external_id
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


def _joined(policies: Iterable[AccessPolicy]) -> AccessPolicy:
    """Returns the policy of several seats: that of the first, with the statements of the others."""
    first, *others = policies
    statements = [*first.statements, *(s for other in others for s in other.statements)]
    notices = [*first.notices, *(n for other in others for n in other.notices)]
    return replace(
        first,
        statements=tuple(dict.fromkeys(statements)),
        notices=tuple(dict.fromkeys(notices)),
    )
