"""Key links: their methods.

Invariant: rights and keys are decided by the names alone, before any look-up. A link in a region
that the caller may not see is answered as one that does not exist (protocol C7, C8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from keyfold_server.domain.errors import InvalidKeyLinkError, InvalidPageError, NotAllowedError
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.key_links import (
    MAX_DESCRIPTION,
    SHOWN_USERS,
    KeyLink,
    LinkUse,
    LinkUser,
    Move,
)
from keyfold_server.domain.keyspec import KeySpec, check_name
from keyfold_server.domain.organization_changes import (
    check_link_etag,
    check_still,
    check_unused,
    existing_organization,
    link_created,
    link_deleted,
    link_updated,
)
from keyfold_server.domain.organizations import Organization, OrganizationView, no_link
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.texts import fault_of_text
from keyfold_server.service.life.listing import DEFAULT_PAGE, MAX_PAGE, name_in, page_token
from keyfold_server.service.organizations.link_proofs import LinkProofs, ProvenKey
from keyfold_server.service.organizations.mutations import OrganizationMutations
from keyfold_server.service.organizations.requests import (
    CreateKeyLinkRequest,
    DeleteKeyLinkRequest,
    OrganizationCall,
    OrganizationResult,
    UpdateKeyLinkRequest,
    check_mask,
)
from keyfold_server.service.storage import Storage

FIELDS: Final = ("description", "key_spec")
"""The fields of a link that UpdateKeyLink changes."""

_LISTED_USERS: Final = 10
"""Most users of a link that a list names."""

_READS: Final = "GetKeyLink"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """A link with what uses it, as a caller may see it.

    Attributes:
        link: The link.
        use: Its use. Users that the caller may not see count, and are not named.
        missing: The regions that its geo has and in which its key was not proven.
        keys: Of a geo's link, the replica of the key in each region, as far as it has one.
        unmoved: How many users do not have the link's key since its last move.
    """

    link: KeyLink
    use: LinkUse
    missing: tuple[str, ...] = ()
    keys: Mapping[str, KeySpec] = field(default_factory=dict)
    unmoved: int = 0

    @property
    def move(self) -> Move | None:
        """The move of the link that is not at its end, or None."""
        move = self.link.move
        return move if move is not None and (move.open or self.unmoved) else None


@dataclass(frozen=True, slots=True)
class LinkResult:
    """How a change of a link ended.

    Attributes:
        change: The change of its organization.
        report: The link, or None after a deletion.
    """

    change: OrganizationResult
    report: LinkReport | None = None


class KeyLinks:
    """Carries out the methods of key links."""

    def __init__(
        self,
        mutations: OrganizationMutations,
        proofs: LinkProofs,
        storage: Storage,
        clock: Clock,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins the methods to the store and to the KMSs.

        Args:
            mutations: Carries out changes.
            proofs: Proves keys.
            storage: The store.
            clock: Time.
            check_fresh: Raises if this replica is stale: a database that it can still read may be
                a frozen copy.
        """
        self._mutations = mutations
        self._proofs = proofs
        self._storage = storage
        self._clock = clock
        self._check_fresh = check_fresh

    async def create(self, call: OrganizationCall[CreateKeyLinkRequest]) -> LinkResult:
        """Links a key after it was proven; repeated with the same values, it changes nothing.

        Raises:
            InvalidKeyLinkError: The request has no place, or two, or a value out of bounds.
            KeyNotGrantedError: The caller may not name the key for the organization.
            KeyLinkExistsError: There is a link of that name, or for that provider and region.
            TooManyKeyLinksError: The organization has as many as it may.
            KeyHeldByAnotherError: The key is in what another organization holds.
            KmsError: The key could not be proven; nothing was stored.
        """
        request, rights = call.request, call.caller.rights
        _check_names(request.organization, request.key_link)
        _check_description(request.description)
        _check_place(request.region, request.geo)
        regions = self._proofs.regions(request.region, request.geo)
        self._check_rights(call, regions)
        keys = await self._proofs.keys(request.key_spec, request.region, request.geo)
        self._proofs.check_granted(rights, request.organization, keys)
        now = self._mutations.now()
        new = KeyLink(
            request.organization,
            request.key_link,
            request.description,
            request.region,
            request.geo,
            request.key_spec,
            regions,
            1,
            now,
            now,
        )

        async def work(view: OrganizationView) -> OrganizationResult:
            decide = link_created(new, now)
            # Before any KMS call. The commit checks it again.
            if decide(view) is view.organization:
                return await self._mutations.commit(call, decide)
            proven = await self._proofs.prove(request.organization, keys)
            return await self._mutations.commit(call, decide, holders=proven.holders)

        return await self._reported(call, await self._mutations.run(call, work), request.key_link)

    async def update(self, call: OrganizationCall[UpdateKeyLinkRequest]) -> LinkResult:
        """Changes a link's description, or its key after it was proven.

        Raises:
            InvalidUpdateMaskError: The request changes nothing.
            KeyLinkNotFoundError: There is no such link, or the caller may not see it.
            KeyNotGrantedError: The caller may not name the key for the organization.
            KeyLinkInUseError: Regions use the link, and would not change with it.
            KeyLinkMovingError: An operation is moving it.
            EtagMismatchError: The link has changed since it had the request's etag.
            KeyHeldByAnotherError: The key is in what another organization holds.
            KmsError: The key could not be proven; nothing was changed.
        """
        request, rights = call.request, call.caller.rights
        given = {"description": request.description, "key_spec": request.key_spec}
        check_mask(tuple(name for name, value in given.items() if value is not None), FIELDS)
        _check_names(request.organization, request.key_link)
        _check_description(request.description or "")
        self._check_rights(call)

        async def work(view: OrganizationView) -> OrganizationResult:
            link = visible_link(call.rpc, rights, view.organization, request.key_link)
            check_link_etag(link, request.etag)
            check_still(link)
            key: tuple[KeySpec, tuple[str, ...]] | None = None
            holders: tuple[Holder, ...] = ()
            if request.key_spec is not None:
                proven = await self._proved(rights, view, link, request.key_spec)
                key, holders = (request.key_spec, proven.regions), proven.holders
            now = self._mutations.now()
            decide = link_updated(
                link.name,
                request.etag,
                now,
                seen=link,
                description=request.description,
                key=key,
            )
            return await self._mutations.commit(call, decide, holders=holders)

        return await self._reported(call, await self._mutations.run(call, work), request.key_link)

    async def delete(self, call: OrganizationCall[DeleteKeyLinkRequest]) -> LinkResult:
        """Deletes a link that no region uses.

        Raises:
            KeyLinkNotFoundError: There is no such link, or the caller may not see it.
            KeyLinkInUseError: Regions use it.
            KeyLinkMovingError: An operation is moving it.
            EtagMismatchError: The link has changed since it had the request's etag.
        """
        request = call.request
        _check_names(request.organization, request.key_link)
        self._check_rights(call)

        async def work(view: OrganizationView) -> OrganizationResult:
            visible_link(call.rpc, call.caller.rights, view.organization, request.key_link)
            decide = link_deleted(request.key_link, request.etag, self._mutations.now())
            return await self._mutations.commit(call, decide)

        return LinkResult(await self._mutations.run(call, work))

    async def get(self, rights: Rights, organization: str, name: str) -> LinkReport:
        """Returns a link with what uses it.

        Raises:
            OrganizationNotFoundError: The caller may not see the organization.
            KeyLinkNotFoundError: There is no such link, or the caller may not see it.
            StoreStaleError: This replica has not seen the store for too long.
        """
        _check_names(organization, name)
        rights.check_organization(_READS, organization)
        self._check_fresh(self._clock.monotonic())
        read = self._storage.store.organization
        view = await self._storage.run(read, organization, link=name, users=SHOWN_USERS)
        link = visible_link(_READS, rights, existing_organization(view), name)
        return await self._report(rights, view, link)

    async def page(
        self, rights: Rights, organization: str, size: int, token: str
    ) -> tuple[tuple[LinkReport, ...], str]:
        """Returns a page of links, by name, and the token of the next page; empty: there is none.

        Raises:
            InvalidPageError: The size is out of bounds, or the token is not valid.
            OrganizationNotFoundError: The organization does not exist, or the caller may not see
                it.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        check_name(organization, "organization")
        rights.check_organization("ListKeyLinks", organization)
        self._check_fresh(self._clock.monotonic())
        after, size = name_in(token), size or DEFAULT_PAGE
        read = self._storage.store.organization
        view = await self._storage.run(read, organization, users=_LISTED_USERS)
        links = [
            link
            for link in existing_organization(view).links
            if link.name > after and _sees("ListKeyLinks", rights, link)
        ]
        reports = [await self._report(rights, view, link) for link in links[:size]]
        return tuple(reports), page_token(links[size - 1].name) if len(links) > size else ""

    async def _proved(
        self, rights: Rights, view: OrganizationView, link: KeyLink, key_spec: KeySpec
    ) -> ProvenKey:
        """Proves a new key of a link, or the one that it has again."""
        organization = view.organization
        keys = await self._proofs.keys(key_spec, link.region, link.geo)
        self._proofs.check_granted(rights, organization.name, keys)
        read = self._storage.store.organization
        view = await self._storage.decide(read, organization.name, link=link.name, users=10)
        used = view.use(link.name)
        if key_spec != link.key_spec:
            # Before any KMS call. The commit checks it again.
            check_unused(link, used)
        return await self._proofs.prove(organization.name, keys, used.keys)

    async def _reported(
        self,
        call: OrganizationCall[CreateKeyLinkRequest] | OrganizationCall[UpdateKeyLinkRequest],
        done: OrganizationResult,
        name: str,
    ) -> LinkResult:
        """Returns the result of a change, with the link as the answer shows it."""
        rights, view = call.caller.rights, done.view
        if not call.request.validate_only:
            read = self._storage.store.organization
            used = await self._storage.decide(read, call.organization, link=name, users=SHOWN_USERS)
            # The use of now, and the link that this change made.
            view = OrganizationView(view.organization, view.cluster_count, uses=used.uses)
        return LinkResult(done, await self._report(rights, view, view.organization.link(name)))

    async def _report(self, rights: Rights, view: OrganizationView, link: KeyLink) -> LinkReport:
        use = view.use(link.name)
        owner = link.organization
        seen = tuple(u for u in use.users if _may_read(rights, owner, u))
        missing = self._proofs.missing(link)
        keys = await self._proofs.replicas(link)
        unmoved = 0
        if link.move is not None:
            each = keys if link.geo else {link.region: link.key_spec}
            # Without its geo in the settings, nobody knows the keys of the link.
            unmoved = use.unmoved(each) if each else 0
        return LinkReport(link, LinkUse(seen, use.count), missing, keys, unmoved)

    def _check_rights(
        self,
        call: OrganizationCall[CreateKeyLinkRequest | UpdateKeyLinkRequest | DeleteKeyLinkRequest],
        regions: Iterable[str] = (),
    ) -> None:
        """Refuses a change by the names alone."""
        rights = call.caller.rights
        rights.check_organization(call.rpc, call.organization)
        for region in regions:
            if not rights.covers_organization(call.rpc, call.organization, region):
                raise NotAllowedError(
                    f"{rights.identity.name} may not call {call.rpc} for region {region} of "
                    f"organization {call.organization}; ask for a grant of that region",
                    region=region,
                    field="key_link",
                )


def visible_link(rpc: str, rights: Rights, organization: Organization, name: str) -> KeyLink:
    """Returns a link that the caller may see and, for a change, may change.

    Raises:
        KeyLinkNotFoundError: There is no such link, or the caller may not see it.
        NotAllowedError: The caller may see it, and may not call the method for it.
    """
    link = organization.link(name)
    if not _sees(_READS, rights, link):
        raise no_link(organization.name, name)
    if not _sees(rpc, rights, link):
        raise NotAllowedError(
            f"{rights.identity.name} may not call {rpc} for every region of key link {name}; "
            "ask for a grant of these regions",
            field="key_link",
        )
    return link


def _sees(rpc: str, rights: Rights, link: KeyLink) -> bool:
    """Says whether grants with a role for a method cover every region of a link."""
    regions = {*link.proven, link.region} - {""}
    return all(rights.covers_organization(rpc, link.organization, r) for r in regions)


def _may_read(rights: Rights, organization: str, user: LinkUser) -> bool:
    return rights.sees(user.cluster, organization, user.region)


def _check_names(organization: str, link: str) -> None:
    check_name(organization, "key_link.organization")
    check_name(link, "key_link.key_link")


def _check_description(description: str) -> None:
    if fault := fault_of_text(description, MAX_DESCRIPTION):
        raise InvalidKeyLinkError(f"description {fault}", field="key_link.description")


def _check_place(region: str, geo: str) -> None:
    if bool(region) == bool(geo):
        what = "both a region and a geo" if region else "neither a region nor a geo"
        raise InvalidKeyLinkError(
            f"the key link has {what}; give one of them", field="key_link.region"
        )
    if region:
        check_name(region, "key_link.region")
