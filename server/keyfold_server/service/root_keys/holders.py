"""Holders: whether an organization may name keys in an account, project, vault or origin (C9).

A key that Keyfold calls with an external id, or as a seat, is not concerned: these were issued to
one owner, and the customer's policy demands them. Every other principal serves whoever names it.

Invariant: no KMS is called here, and nobody is told whose a holder is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyfold_server.domain.errors import InvalidOrganizationError, UnknownProviderError
from keyfold_server.domain.holders import PATH, Claim, Holder, refuse_held
from keyfold_server.domain.keyspec import PLATFORM, RootKey
from keyfold_server.domain.provider import HeldByVendor, NamesHolders
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.seats import Seats
from keyfold_server.service.storage import Storage

NamedKey = tuple[str, RootKey]
"""The type in a key spec, which may be PLATFORM, and the root key that it stands for."""


@dataclass(slots=True)
class NamedHolders:
    """The holders in which a request names keys, before anybody has looked its cluster up.

    Attributes:
        claim: The holders, for an organization if the request names one.
        elsewhere: Those of them that another organization has; None: nobody has looked yet.
    """

    claim: Claim
    elsewhere: frozenset[Holder] | None = None


class Holders:
    """Decides about the holders of keys, before Keyfold tries them."""

    def __init__(
        self, kms: KmsClient, storage: Storage, external_ids: ExternalIds, seats: Seats
    ) -> None:
        """Takes the providers, the store, and what knows the principals of one owner alone."""
        self._kms = kms
        self._storage = storage
        self._external_ids = external_ids
        self._seats = seats

    async def of(self, keys: Iterable[NamedKey]) -> tuple[Holder, ...]:
        """Returns the holders of those keys that Keyfold calls as a shared principal, sorted."""
        found = set()
        for type_, root in keys:
            if type_ == PLATFORM or asks_for_seat(root.principal) or self._seats.of_seat(root):
                continue
            if await self._external_ids.needed_for(root):
                continue
            provider = await self._kms.provider(root.type)
            if isinstance(provider, HeldByVendor) and provider.held_by_vendor(root):
                continue
            found.add(Holder(root.type, provider.account(root)))
        return tuple(sorted(found))

    async def claim(
        self,
        organization: str | None,
        keys: Iterable[NamedKey],
        *,
        named: NamedHolders | None = None,
    ) -> Claim | None:
        """Returns what a change claims that gives keys to a cluster; the commit checks it again.

        Args:
            organization: The cluster's organization, or None.
            keys: The keys of the change.
            named: What was read with the cluster about the holders that the request names.

        Raises:
            KeyHeldByAnotherError: Another organization has one of the holders.
        """
        holders = await self.of(keys)
        await self.check(organization, holders, named)
        return Claim(organization, holders) if holders else None

    async def check(
        self,
        organization: str | None,
        holders: tuple[Holder, ...],
        named: NamedHolders | None = None,
    ) -> None:
        """Refuses keys in holders that another organization has.

        Raises:
            KeyHeldByAnotherError: Another organization has one of the holders.
        """
        left = set(holders)
        if named is not None and named.elsewhere is not None:
            refuse_held(holders, named.elsewhere)
            left.difference_update(named.claim.holders)
        if left:
            read = self._storage.store.held_elsewhere
            refuse_held(holders, await self._storage.decide(read, organization, left))

    async def canonical(self, texts: Iterable[str], own: Iterable[Holder]) -> tuple[Holder, ...]:
        """Returns the holders that an administrator wrote, in canonical form and sorted.

        Args:
            texts: The texts.
            own: The holders that the organization has, which stay as they are.

        Raises:
            InvalidOrganizationError: A text is not a holder of a provider that the server has.
        """
        found = set()
        kept = set(own)
        for text in texts:
            holder = Holder.parsed(text)
            if holder not in kept:
                holder = Holder(holder.type, await self._name(holder))
            found.add(holder)
        return tuple(sorted(found))

    async def _name(self, holder: Holder) -> str:
        try:
            provider = await self._kms.provider(holder.type)
        except UnknownProviderError as error:
            raise InvalidOrganizationError(error.message, field=PATH) from None
        if not isinstance(provider, NamesHolders):
            return holder.name
        name = provider.holder(holder.name)
        if name is None:
            raise InvalidOrganizationError(
                f"{holder} is not the name of what holds keys of {holder.type}; write it as "
                f"{holder.type}:{provider.holder_example}",
                field=PATH,
            )
        return name
