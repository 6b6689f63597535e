"""What exists of what a document declares. It only reads, so it leaves nothing in the log."""

from __future__ import annotations

from typing import Final

from keyfold import calls
from keyfold.calls import organizations as organization_calls
from keyfold.calls import pages
from keyfold.calls.pages import ClusterFilter
from keyfold.cli.session import Session
from keyfold.errors import ClusterNotFoundError, KeyLinkNotFoundError, OrganizationNotFoundError
from keyfold.models.organizations import KeyLink, Organization
from keyfold.models.status import ClusterStatus

_PAGE: Final = 1_000


class Actual:
    """What exists, each part read once."""

    def __init__(self, session: Session) -> None:
        """Takes the connection."""
        self._session = session
        self._organizations: dict[str, Organization | None] = {}
        self._links: dict[str, dict[str, KeyLink]] = {}
        self._clusters: dict[str, dict[str, ClusterStatus]] = {}

    def organization(self, name: str) -> Organization | None:
        """Returns an organization; None: it does not exist, or the caller may not see it."""
        if name not in self._organizations:
            self._organizations[name] = organization(self._session, name)
        return self._organizations[name]

    def key_links(self, organization: str) -> dict[str, KeyLink]:
        """Returns the key links of an organization by name."""
        if organization not in self._links:
            self._links[organization] = {
                link.key_link: link for link in key_links(self._session, organization)
            }
        return self._links[organization]

    def cluster(self, name: str, organization: str) -> ClusterStatus | None:
        """Returns a cluster; None: it does not exist, or the caller may not see it.

        Args:
            name: Its name.
            organization: The organization that it should have; empty: any. If the clusters of that
                one were listed and it is not among them, it counts as one that does not exist, and
                Enable says what it is.
        """
        if organization in self._clusters:
            return self._clusters[organization].get(name)
        return cluster(self._session, name)

    def clusters(self, organization: str) -> dict[str, ClusterStatus]:
        """Returns the clusters of an organization by name, but those whose rows are not sound."""
        if organization not in self._clusters:
            found = clusters(self._session, organization)
            self._clusters[organization] = {one.cluster: one for one in found}
        return self._clusters[organization]


def organization(session: Session, name: str) -> Organization | None:
    """Returns an organization; None: it does not exist, or the caller may not see it."""
    try:
        return session.ask(organization_calls.get_organization(name))[0]
    except OrganizationNotFoundError:
        return None


def key_link(session: Session, organization: str, name: str) -> KeyLink | None:
    """Returns a key link; None: it does not exist, or the caller may not see it."""
    try:
        return session.ask(organization_calls.get_key_link(organization, name))[0]
    except (KeyLinkNotFoundError, OrganizationNotFoundError):
        return None


def cluster(session: Session, name: str) -> ClusterStatus | None:
    """Returns a cluster's status; None: it does not exist, or the caller may not see it."""
    try:
        return session.ask(calls.get_status(name))[0]
    except ClusterNotFoundError:
        return None


def organizations(session: Session) -> tuple[Organization, ...]:
    """Returns the organizations by name.

    Raises:
        RowNotAuthenticError: The stored rows of some are not those that Keyfold wrote.
    """
    first = organization_calls.first_organizations(_PAGE)
    whole, _ = session.listed(first, "organizations", "not_authentic")
    organization_calls.check_authentic(whole.not_authentic)
    return organization_calls.organizations_of(whole)


def key_links(session: Session, organization: str) -> tuple[KeyLink, ...]:
    """Returns the key links of an organization by name; none if it does not exist."""
    first = organization_calls.first_key_links(organization, _PAGE)
    try:
        whole, _ = session.listed(first, "key_links")
    except OrganizationNotFoundError:
        return ()
    return organization_calls.key_links_of(whole)


def clusters(
    session: Session, organization: str, *, sound: bool = False
) -> tuple[ClusterStatus, ...]:
    """Returns clusters by name.

    Args:
        session: The connection.
        organization: Only those of this one; empty: all.
        sound: Whether a cluster whose stored rows serve nobody is an error.
    """
    first = pages.first_page(ClusterFilter(organization), _PAGE)
    whole, _ = session.listed(first, "clusters", "not_authentic", "banned")
    if sound:
        pages.check_usable(whole.not_authentic, whole.banned)
    return pages.clusters_of(whole)
