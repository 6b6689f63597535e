"""Organizations: their methods, apart from those of key links.

Invariant: rights are decided by the name alone, before any look-up. What a caller may not see is
answered as what does not exist (protocol C7, C8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from keyfold_server.domain.errors import InvalidPageError, NotAllowedError, RowNotAuthenticError
from keyfold_server.domain.holders import PATH
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.organization_changes import (
    created,
    deleted,
    existing_organization,
    updated,
)
from keyfold_server.domain.organizations import OrganizationView, Settings
from keyfold_server.domain.patterns import Pattern
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Rights
from keyfold_server.service.life.listing import DEFAULT_PAGE, MAX_PAGE, name_in, page_token
from keyfold_server.service.organizations.mutations import OrganizationMutations
from keyfold_server.service.organizations.requests import (
    HOLDERS,
    CreateOrganizationRequest,
    DeleteOrganizationRequest,
    OrganizationCall,
    OrganizationResult,
    UpdateOrganizationRequest,
    check_mask,
)
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.storage import Storage

FIELDS: Final = (*(each.name for each in fields(Settings)), HOLDERS)
"""The fields of an organization that UpdateOrganization changes."""


@dataclass(frozen=True, slots=True)
class OrganizationsPage:
    """One page of organizations.

    Attributes:
        views: The organizations, by name.
        not_authentic: The names of those whose rows are not authentic.
        next_token: The token of the next page; empty: this is the last one.
    """

    views: tuple[OrganizationView, ...]
    not_authentic: tuple[str, ...]
    next_token: str


class Organizations:
    """Carries out the methods of organizations."""

    def __init__(
        self,
        mutations: OrganizationMutations,
        holders: Holders,
        storage: Storage,
        clock: Clock,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins the methods to the store.

        Args:
            mutations: Carries out changes.
            holders: Knows the names of what holds keys.
            storage: The store.
            clock: Time.
            check_fresh: Raises if this replica is stale: a database that it can still read may be
                a frozen copy.
        """
        self._mutations = mutations
        self._holders = holders
        self._storage = storage
        self._clock = clock
        self._check_fresh = check_fresh

    async def create(self, call: OrganizationCall[CreateOrganizationRequest]) -> OrganizationResult:
        """Makes an organization; repeated with the same settings, it changes nothing.

        Raises:
            InvalidOrganizationError: A setting is out of bounds.
            OrganizationExistsError: It was made before, with other settings.
        """
        request = call.request
        request.settings.check()
        _check(call.caller.rights, call.rpc, request.organization)
        decide = created(request.settings, self._mutations.now())
        return await self._mutations.run(call, lambda _: self._mutations.commit(call, decide))

    async def update(self, call: OrganizationCall[UpdateOrganizationRequest]) -> OrganizationResult:
        """Changes settings of an organization, or what it holds.

        Raises:
            InvalidUpdateMaskError: The request changes nothing, or what cannot be changed.
            OrganizationNotFoundError: It does not exist, or the caller may not see it.
            EtagMismatchError: It has changed since it had the request's etag.
            NotAllowedError: The request changes holders, and the caller does not administer every
                organization: one could allow itself what is another one's (protocol C9).
        """
        request = call.request
        check_mask(request.fields, FIELDS)
        request.settings.check()
        _check(call.caller.rights, call.rpc, request.organization)
        # The vendor's administrators alone: an organization's own one could allow itself anything.
        allows = call.caller.rights.organizations(call.rpc) is None

        async def work(view: OrganizationView) -> OrganizationResult:
            holders, own = None, view.organization.holders
            if HOLDERS in request.fields:
                holders = await self._holders.canonical(request.holders, own)
            if holders not in (None, own) and not allows:
                raise NotAllowedError(
                    f"{call.caller.name} may change holders only under a grant that narrows no "
                    "organizations; ask an administrator of all of them",
                    field=PATH,
                )
            now = self._mutations.now()
            decide = updated(request.changed, request.etag, now, holders=holders)
            return await self._mutations.commit(call, decide)

        return await self._mutations.run(call, work)

    async def delete(self, call: OrganizationCall[DeleteOrganizationRequest]) -> OrganizationResult:
        """Deletes an organization that has no clusters, key links and holders.

        Raises:
            OrganizationNotFoundError: It does not exist, or the caller may not see it.
            OrganizationNotEmptyError: It has clusters, key links or holders.
            EtagMismatchError: It has changed since it had the request's etag.
        """
        request = call.request
        _check(call.caller.rights, call.rpc, request.organization)
        decide = deleted(request.etag, self._mutations.now())
        return await self._mutations.run(call, lambda _: self._mutations.commit(call, decide))

    async def get(self, rights: Rights, name: str) -> OrganizationView:
        """Returns an organization.

        Raises:
            OrganizationNotFoundError: It does not exist, or the caller may not see it.
            RowNotAuthenticError: Its rows are not authentic.
            StoreStaleError: This replica has not seen the store for too long.
        """
        _check(rights, "GetOrganization", name)
        self._check_fresh(self._clock.monotonic())
        view = await self._storage.run(self._storage.store.organization, name)
        existing_organization(view)
        return view

    async def page(self, rights: Rights, size: int, token: str) -> OrganizationsPage:
        """Returns a page of organizations, by name.

        Raises:
            InvalidPageError: The size is out of bounds, or the token is not valid.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        self._check_fresh(self._clock.monotonic())
        after, size = name_in(token), size or DEFAULT_PAGE
        patterns = rights.organizations("ListOrganizations")
        store = self._storage.store
        names: list[str] = []
        while patterns != () and len(names) <= size:
            wanted = size + 1 - len(names)
            found = await self._storage.run(store.organization_names, after, wanted, patterns)
            # A database may take small and capital letters for the same.
            names += [name for name in found if _fits(name, patterns)]
            if len(found) < wanted:
                break
            after = found[-1]
        listed = names[:size]
        views = await self._storage.run(store.organizations, listed)
        each = [(name, views[name]) for name in listed]
        return OrganizationsPage(
            tuple(view for _, view in each if isinstance(view, OrganizationView)),
            tuple(name for name, view in each if isinstance(view, RowNotAuthenticError)),
            page_token(listed[-1]) if len(names) > size else "",
        )


def _fits(name: str, patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or any(Pattern(text).matches(name) for text in patterns)


def _check(rights: Rights, rpc: str, organization: str) -> None:
    """Refuses a method for an organization by its name alone (protocol C8).

    Raises:
        InvalidNameError: The name is not one that an organization can have.
        OrganizationNotFoundError: The caller may not see it.
        NotAllowedError: The caller may see it, and may not call the method for it.
    """
    check_name(organization, "organization")
    rights.check_organization(rpc, organization)
    if not rights.covers_organization(rpc, organization, None):
        raise NotAllowedError(
            f"{rights.identity.name} may call {rpc} for some regions of organization "
            f"{organization} only; ask for a grant that narrows no regions",
            field="organization",
        )
