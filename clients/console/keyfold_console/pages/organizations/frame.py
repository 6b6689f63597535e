"""What all pages of a customer share: whose page it is, what the visitor may do, and its lists.

An organization that the visitor may not see looks like one that does not exist, because the server
says the same of both. Only the one that the visitor's own token names may be new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

from keyfold import (
    AlreadyExistsError,
    CallerIdentity,
    CallerKey,
    ClusterFilter,
    ClusterNotFoundError,
    ClusterStatus,
    ConflictError,
    InvalidInputError,
    KeyfoldError,
    KeyLink,
    KeyNotGrantedError,
    KmsError,
    LimitError,
    NotAllowedError,
    NotFoundError,
    Organization,
    StateError,
)
from keyfold.calls.organizations import first_key_links
from keyfold.calls.pages import first_page
from keyfold_console.api import caller_of, client_of, one_page
from keyfold_console.rendering import page

T = TypeVar("T")

ROWS: Final = 50
"""Most rows of a list on one page."""

MANY: Final = 500
"""Most clusters and key links that a page counts up. Its lists go on past them."""

_TOLD: Final = (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    KmsError,
    LimitError,
    NotAllowedError,
    KeyNotGrantedError,
    StateError,
)
"""What a form says of itself, beside what was filled in. Anything else is a page of its own."""

DONE: Final[Mapping[str, str]] = {
    "linked": "The key is linked.",
    "unlinked": "The key is no longer linked.",
    "adopted": "The cluster uses this key from now on.",
    "replaced": "The link has the new key.",
    "moving": "The link has the new key, and what uses it moves to it now.",
    "revoked": "Revoked.",
    "restored": "Restored. The service uses the keys again.",
}
"""What a page says after a form was sent, by the word in its address."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A part of a list.

    Attributes:
        items: What is in it.
        next: The token of the part that follows; empty: the list ends here.
        distrusted: Names of clusters whose stored rows somebody else wrote: they serve nobody.
    """

    items: tuple[T, ...]
    next: str = ""
    distrusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around the content of a customer's page.

    Attributes:
        organization: The organization; with the name alone if it is new.
        caller: Who visits.
        tab: The page's word in the navigation.
    """

    organization: Organization
    caller: CallerIdentity
    tab: str

    @property
    def name(self) -> str:
        """The name of the organization."""
        return self.organization.organization

    @property
    def path(self) -> str:
        """The path of the organization's pages."""
        return f"/organizations/{self.name}"

    @property
    def title(self) -> str:
        """The organization's name for people."""
        return self.organization.display_name or self.name

    def nameable(self, type_: str = "") -> list[CallerKey]:
        """Returns the root keys that the visitor may link, of one provider or of all."""
        found = [
            key
            for grant in self.caller.grants
            if grant.allows("CreateKeyLink", organization=self.name)
            for key in grant.keys
            if not type_ or key.type in {type_, "*"}
        ]
        return list(dict.fromkeys(found))

    def may(self, method: str, cluster: str | None = None) -> bool:
        """Says whether to offer an action. The server decides anyway."""
        return self.caller.may(method, cluster, self.name)


async def framed(request: web.Request, tab: str) -> Frame:
    """Returns the frame of the organization that the address names.

    Raises:
        OrganizationNotFoundError: It does not exist, or the visitor may not see it.
    """
    name, client = request.match_info["organization"], client_of(request)
    caller = await caller_of(request)
    try:
        organization = await client.get_organization(name)
    except NotFoundError:
        # Before its first key and cluster nobody has made it, yet its administrator is at work.
        if caller.organization != name:
            raise
        organization = Organization(name)
    return Frame(organization, caller, tab)


async def clusters_of(request: web.Request, organization: str) -> Listed[ClusterStatus]:
    """Returns the first clusters of an organization, at most `MANY`."""
    call = first_page(ClusterFilter(organization=organization), MANY)
    found, response = await one_page(request, call, "")
    distrusted = (*response.not_authentic, *response.banned)
    return Listed(found, response.next_page_token, distrusted)


async def links_of(request: web.Request, organization: str) -> Listed[KeyLink]:
    """Returns the first key links of an organization, at most `MANY`; a new one has none."""
    try:
        found, response = await one_page(request, first_key_links(organization, MANY), "")
    except NotFoundError:
        return Listed(())
    return Listed(found, response.next_page_token)


async def everything(
    request: web.Request, organization: str
) -> tuple[Listed[KeyLink], Listed[ClusterStatus]]:
    """Returns the key links and the clusters of an organization."""
    return await asyncio.gather(links_of(request, organization), clusters_of(request, organization))


async def cluster_of(request: web.Request, frame: Frame, name: str) -> ClusterStatus:
    """Returns a cluster, if it is this organization's.

    Raises:
        ClusterNotFoundError: It does not exist, the visitor may not see it, or it is another
            organization's.
    """
    status = await client_of(request).get_status(name)
    if status.organization != frame.name:
        raise ClusterNotFoundError(f"{frame.name} has no cluster {name}", code="NOT_FOUND")
    return status


def told(error: KeyfoldError) -> KeyfoldError:
    """Returns an error that a form shows beside what was filled in.

    Raises:
        KeyfoldError: It is an error of another kind, which has a page of its own.
    """
    if isinstance(error, _TOLD):
        return error
    raise error


async def back(request: web.Request) -> web.Response:
    """Leads from where a form is sent to the page with the form: somebody opened the address."""
    raise web.HTTPSeeOther(request.path.rpartition("/")[0])


async def shown(
    request: web.Request, frame: Frame, template: str, *, status: int = 200, **values: Any
) -> web.Response:
    """Returns a page of an organization."""
    return await page(
        request,
        f"organizations/{template}",
        status=status,
        frame=frame,
        # What follows asks for the page again, which is no page where a form was sent to it.
        live=request.method == "GET",
        done=DONE.get(request.query.get("done", ""), ""),
        **values,
    )
