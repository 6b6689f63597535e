"""Moves of key links: the beginning and the end of an operation that moves one to another key.

A link has its new key from the commit that starts the operation, so what comes to the link later
takes that key. The operation rotates the users that were there before (`operations.steps`). When it
ends, whatever it has not moved keeps its old key and works on, and the link says that it is not at
its end (`key_links.LinkReport`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.operations import Operation, OperationChange, Work, full_name
from keyfold_server.domain.organization_changes import (
    OrganizationChange,
    link_moved,
    link_moving,
)
from keyfold_server.domain.organizations import OrganizationView
from keyfold_server.domain.rights import Caller
from keyfold_server.service.organizations.key_links import visible_link
from keyfold_server.service.organizations.link_proofs import LinkProofs
from keyfold_server.service.organizations.mutations import OrganizationMutations
from keyfold_server.service.organizations.requests import (
    MoveKeyLinkRequest,
    OrganizationCall,
    OrganizationResult,
)
from keyfold_server.service.storage import Storage

_RIGHT: Final = "UpdateKeyLink"
"""The method whose role a caller needs for the link that it has moved."""


class LinkMoves:
    """Begins and ends the moves of key links."""

    def __init__(
        self, mutations: OrganizationMutations, proofs: LinkProofs, storage: Storage
    ) -> None:
        """Joins moves to the KMSs and to the store.

        Args:
            mutations: Carries out changes of organizations.
            proofs: Proves keys.
            storage: The store.
        """
        self._mutations = mutations
        self._proofs = proofs
        self._storage = storage

    async def begin(
        self, caller: Caller, work: Work, deadline: float, started: OperationChange | None
    ) -> None:
        """Gives a link its new key, and starts the operation that moves its users, in one change.

        Args:
            caller: The caller.
            work: The work of the operation, which names the link and the key.
            deadline: Monotonic seconds until which the caller waits.
            started: The change that starts the operation; None: prove the key and store nothing.

        Raises:
            KeyLinkNotFoundError: There is no such link, or the caller may not see it.
            NotAllowedError: The caller may not change it.
            KeyNotGrantedError: The caller may not name the key for the organization.
            KeyLinkMovingError: An operation is moving the link.
            KeyLinkExistsError: The organization has a link of the new key's type for the region.
            KeyHeldByAnotherError: The key is in what another organization holds.
            KmsError: The key could not be proven in each region; nothing was changed.
        """
        organization, name, key_spec = work.organization or "", work.key_link, work.key_spec
        assert key_spec is not None  # noqa: S101  `operations.check` has looked
        operation = "" if started is None else full_name(started.key)
        request = MoveKeyLinkRequest(
            organization, name, key_spec, operation, validate_only=started is None
        )
        call = OrganizationCall(caller, "StartOperation", "", request, deadline)
        rights = caller.rights
        rights.check_organization(_RIGHT, organization)

        async def proven(view: OrganizationView) -> OrganizationResult:
            link = visible_link(_RIGHT, rights, view.organization, name)
            keys = await self._proofs.keys(key_spec, link.region, link.geo)
            self._proofs.check_granted(rights, organization, keys)
            now = self._mutations.now()
            in_each = tuple(sorted(keys))
            # Before any KMS call. The commit checks it again.
            link_moving(name, (key_spec, in_each), operation, now, seen=link)(view)
            read = self._storage.store.organization
            used = (await self._storage.decide(read, organization, link=name, users=1)).use(name)
            done = await self._proofs.prove(organization, keys, used.keys)
            decide = link_moving(name, (key_spec, done.regions), operation, now, seen=link)
            return await self._mutations.commit(call, decide, started, holders=done.holders)

        await self._mutations.run(call, proven)

    async def end(self, operation: Operation, ended: OperationChange) -> None:
        """Ends an operation and, in the same change, the move of its link.

        Raises:
            ConcurrentChangeError: Another replica runs the operation by now.
        """
        work, name = operation.work, full_name(operation.key)
        organization = work.organization or ""
        detail = {"key_link": work.key_link, "operation": name, "organization": organization}
        event = AuditEvent(
            "",
            "server:key_link:moved",
            "done",
            json.dumps(detail, sort_keys=True, separators=(",", ":")),
            organization=organization,
        )
        change = OrganizationChange(
            organization,
            link_moved(work.key_link, name, self._mutations.now()),
            event,
            operation=ended,
        )
        await self._storage.decide(self._storage.store.change_organization, change)

    async def keys(self, work: Work) -> Mapping[str, KeySpec]:
        """Returns the key that a move gives to the users of its link, by their region."""
        key_spec = work.key_spec
        assert key_spec is not None  # noqa: S101  as above
        read = self._storage.store.organization
        view = await self._storage.decide(read, work.organization or "")
        link = view.organization.link(work.key_link)
        if not link.geo:
            return {link.region: key_spec}
        return await self._proofs.replicas(replace(link, key_spec=key_spec))
