"""The part of the store's port for organizations and their key links."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from keyfold_server.domain.changes import RecordedRequest, RequestKey
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.organization_changes import OrganizationChange
from keyfold_server.domain.organizations import OrganizationView


class OrganizationsStore(Protocol):
    """Where organizations live.

    An organization without a row is one with the defaults. One whose rows are not those of the
    newest decision about it in the log, or are gone, raises RowNotAuthenticError (protocol S10).
    """

    def organization(
        self, name: str, *, link: str | None = None, users: int = 0
    ) -> OrganizationView:
        """Reads an organization, verifies its rows, and counts its clusters.

        Args:
            name: The name.
            link: The only link whose users are read; None: those of each link are, and the first
                names of the clusters.
            users: Most users of a link, and names, to read; 0: neither is read.
        """
        ...

    def requested_organization(
        self, name: str, key: RequestKey | None
    ) -> tuple[OrganizationView, RecordedRequest | None]:
        """Reads an organization without uses, and the request recorded under a request_id.

        Both are of one moment, and cost one round trip (protocol S13).
        """
        ...

    def organization_names(
        self, after: str, limit: int, patterns: tuple[str, ...] | None
    ) -> list[str]:
        """Reads up to `limit` names of organizations that follow `after`, by name.

        It reads those that somebody made, and those that clusters name.

        Args:
            after: The name after which to begin; empty: at the first.
            limit: Most names to read.
            patterns: Alternative patterns that a name has to fit, in which `*` is any run of
                characters; None: any name. A database may take small and capital letters for the
                same.
        """
        ...

    def organizations(
        self, names: Sequence[str]
    ) -> dict[str, OrganizationView | RowNotAuthenticError]:
        """Reads organizations as `organization` does, without uses; at most 1,000."""
        ...

    def held_elsewhere(
        self, organization: str | None, holders: Collection[Holder]
    ) -> frozenset[Holder]:
        """Returns those of some holders in which an organization may name no key (protocol C9).

        They are those that another one has, or in which regions of another one have keys under a
        principal without an external id, and that it does not have itself.

        Args:
            organization: The organization; None: it is for a cluster that belongs to none.
            holders: The holders.
        """
        ...

    def change_organization(self, change: OrganizationChange) -> OrganizationView:
        """Carries out a change of an organization in one transaction.

        The change gets the organization with the first names of its clusters and the first users
        of each link, and with those of the change's holders that another organization has.

        Returns:
            The organization after the change, with these names and users.

        Raises:
            RowNotAuthenticError: The organization's rows are not authentic.
            ConcurrentChangeError: Another change came first every time.
            RequestInProgressError: The request was carried out in the meantime.
            RequestIdReusedError: The request's id came before with another request.
            KeyfoldError: What the change itself raises.
        """
        ...
