"""Organizations and their key links."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from keyfold.aio.connection import Connection
from keyfold.calls import organizations as calls
from keyfold.calls.call import next_page
from keyfold.calls.organizations import KeyLinkPage, OrganizationPage
from keyfold.models.organizations import (
    KeyLink,
    KeyLinkChanged,
    Organization,
    OrganizationChanged,
    Removed,
)


class Organizations(Connection):
    """The calls of the organization service.

    Every change carries a request_id, so that gRPC can repeat it safely; the client makes one
    unless the caller passes one.
    """

    async def create_organization(
        self,
        organization: Organization,
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> OrganizationChanged:
        """Makes an organization, so that it can differ from the defaults.

        An organization that clusters name exists before anybody makes it, and has the defaults.

        Raises:
            OrganizationExistsError: It exists, and differs from this.
            InvalidOrganizationError: A value is out of bounds.
            KeyHeldByAnotherError: One of its holders is another organization's.

        Example:
            >>> linked = keyfold.DefaultKey.LINKED
            >>> acme = keyfold.Organization("acme", default_key=linked)
            >>> made = await client.create_organization(acme)
            >>> made.organization.default_key
            <DefaultKey.LINKED: 'LINKED'>
        """
        call = calls.create_organization(organization, request_id, validate_only=validate_only)
        return await self._ask(call, timeout)

    async def get_organization(self, name: str, *, timeout: float | None = None) -> Organization:
        """Returns an organization.

        Raises:
            OrganizationNotFoundError: There is none of this name, or the caller may not see it.
            RowNotAuthenticError: Somebody other than Keyfold wrote its stored rows.
        """
        return await self._ask(calls.get_organization(name), timeout)

    async def list_organizations(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[Organization]:
        """Yields organizations by name, and fetches one page after another.

        `page_size` is 1 to 1,000, or 0 for the server's choice; `timeout` is the deadline of each
        page. If somebody other than Keyfold wrote an organization's stored rows, the others are
        still listed, and RowNotAuthenticError names every such organization at the end.

        Raises:
            RowNotAuthenticError: Some organizations' stored rows are not Keyfold's; see above.
        """
        page: OrganizationPage | None = calls.first_organizations(page_size)
        spoilt: list[str] = []
        while page is not None:
            response = await self.send(page, timeout=timeout)
            for organization in page.result(response):
                yield organization
            spoilt += response.not_authentic
            page = next_page(page, response)
        calls.check_authentic(spoilt)

    async def update_organization(
        self,
        organization: Organization,
        *,
        fields: Iterable[str] | None = None,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> OrganizationChanged:
        """Changes fields of an organization, by default those that are set.

        With an `etag`, the call fails with `EtagMismatchError` if the organization has another one
        by now. A change holds for what comes after it: it changes no key of a cluster.

        Raises:
            OrganizationNotFoundError: There is none of this name, or the caller may not see it.
            EtagMismatchError: It has changed since the `etag`.
            InvalidOrganizationError: A value is out of bounds.
            InvalidUpdateMaskError: A field cannot be changed, or nothing is.
            KeyHeldByAnotherError: One of its holders is another organization's.
        """
        call = calls.update_organization(
            organization, fields, etag, request_id, validate_only=validate_only
        )
        return await self._ask(call, timeout)

    async def delete_organization(
        self,
        name: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Removed:
        """Deletes an organization that has neither clusters nor key links.

        Raises:
            OrganizationNotFoundError: There is none of this name, or the caller may not see it.
            OrganizationNotEmptyError: It has clusters or key links.
            EtagMismatchError: It has changed since the `etag`.
        """
        call = calls.delete_organization(name, etag, request_id, validate_only=validate_only)
        return await self._ask(call, timeout)

    async def create_key_link(
        self,
        key_link: KeyLink,
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> KeyLinkChanged:
        """Links a root key to an organization, after the server has proven it.

        Raises:
            KeyLinkExistsError: The organization has another link of this name, or with this key
                there.
            InvalidKeyLinkError: It has no place or two, or a key that no link can have.
            KeyHeldByAnotherError: The key belongs to another organization.
            KmsError: The root key cannot be proven: a `RefusedError` or a `CouldNotTellError`.
            TooManyKeyLinksError: The organization may have no more.

        Example:
            >>> key = keyfold.KeySpec("LOCAL", "local:acme")
            >>> link = keyfold.KeyLink("acme", "main", key, region="eu")
            >>> made = await client.create_key_link(link)
            >>> made.key_link.use
            <KeyLinkUse.AVAILABLE: 'AVAILABLE'>
        """
        call = calls.create_key_link(key_link, request_id, validate_only=validate_only)
        return await self._ask(call, timeout)

    async def get_key_link(
        self, organization: str, key_link: str, *, timeout: float | None = None
    ) -> KeyLink:
        """Returns a key link, with the regions that use it.

        Raises:
            KeyLinkNotFoundError: There is none of this name.
            OrganizationNotFoundError: There is no such organization, or the caller may not see
                it.
        """
        return await self._ask(calls.get_key_link(organization, key_link), timeout)

    async def list_key_links(
        self, organization: str, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[KeyLink]:
        """Yields an organization's key links by name, and fetches one page after another.

        Each names at most 10 of its users. `page_size` is 1 to 1,000, or 0 for the server's
        choice; `timeout` is the deadline of each page.

        Raises:
            OrganizationNotFoundError: There is no such organization, or the caller may not see
                it.
        """
        page: KeyLinkPage | None = calls.first_key_links(organization, page_size)
        while page is not None:
            response = await self.send(page, timeout=timeout)
            for link in page.result(response):
                yield link
            page = next_page(page, response)

    async def update_key_link(
        self,
        key_link: KeyLink,
        *,
        fields: Iterable[str] | None = None,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> KeyLinkChanged:
        """Changes a link's description, or its key, by default what is set.

        The server proves the key before it changes anything. With the key that the link has, it
        proves it again, also in the regions that its geo has gained. While regions use the link,
        it keeps its key: the call fails with `KeyLinkInUseError`.

        Raises:
            KeyLinkNotFoundError: There is none of this name.
            KeyLinkInUseError: Regions use it, so it keeps its key.
            KeyLinkMovingError: An operation is moving it to another key.
            EtagMismatchError: It has changed since the `etag`.
            InvalidKeyLinkError: No link can have this key or description.
            KmsError: The root key cannot be proven: a `RefusedError` or a `CouldNotTellError`.
        """
        call = calls.update_key_link(
            key_link, fields, etag, request_id, validate_only=validate_only
        )
        return await self._ask(call, timeout)

    async def delete_key_link(
        self,
        organization: str,
        key_link: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Removed:
        """Deletes a key link that no region uses.

        Raises:
            KeyLinkNotFoundError: There is none of this name.
            KeyLinkInUseError: Regions use it.
            KeyLinkMovingError: An operation is moving it to another key.
            EtagMismatchError: It has changed since the `etag`.
        """
        call = calls.delete_key_link(
            organization, key_link, etag, request_id, validate_only=validate_only
        )
        return await self._ask(call, timeout)
