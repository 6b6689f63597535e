"""Reliance: what a change of a cluster takes from its organization, checked when it commits.

A region may take its key from a key link, and a new cluster counts against its organization's limit
and patterns. Keyfold reads all of that before it proves keys, which takes a while. So the store
checks it again under the organization's lock, where no other change can come between: a link that
was deleted meanwhile, or got another key, takes no new user.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.errors import (
    ClusterNameNotAllowedError,
    ConcurrentChangeError,
    TooManyClustersError,
)
from keyfold_server.domain.key_links import KeyLink, listed
from keyfold_server.domain.organizations import DefaultKey, Organization, OrganizationView


@dataclass(frozen=True, slots=True)
class Reliance:
    """What a change of a cluster takes from its organization.

    Attributes:
        organization: The organization's name.
        links: The links whose keys regions of the change take, as they were read.
        default_key: The rule from which a region of the change has its key, or None.
        makes: The name of the cluster that the change makes; empty: it makes none.
        counts: Whether the organization had a limit of clusters, so that the store has to count.
    """

    organization: str
    links: tuple[KeyLink, ...] = ()
    default_key: DefaultKey | None = None
    makes: str = ""
    counts: bool = False

    def check(self, view: OrganizationView) -> None:
        """Refuses a change whose organization no longer gives what the change takes.

        Args:
            view: The organization under its lock, with the number of its clusters if `counts`.

        Raises:
            ConcurrentChangeError: A link, the rule or the limit changed meanwhile.
            ClusterNameNotAllowedError: The organization's patterns do not allow the name.
            TooManyClustersError: It has as many clusters as it may.
        """
        now = view.organization
        known = {link.name: link for link in now.links}
        lost = [link.name for link in self.links if not _gives(known.get(link.name), link)]
        if lost:
            raise ConcurrentChangeError(
                f"key link {', '.join(lost)} of organization {now.name} was changed or deleted "
                "while its key was proven; nothing was stored: ask again",
                field="region_specs",
            )
        if self.default_key not in (None, now.settings.default_key):
            raise ConcurrentChangeError(
                f"organization {now.name} got another default_key while the keys were proven; "
                "nothing was stored: ask again",
                field="region_specs",
            )
        if self.makes:
            self._check_makes(view)

    def _check_makes(self, view: OrganizationView) -> None:
        now = view.organization
        check_name_allowed(now, self.makes)
        if now.settings.max_clusters and not self.counts:
            raise ConcurrentChangeError(
                f"organization {now.name} got a limit of clusters while the keys were proven; "
                "nothing was stored: ask again",
                field="organization",
            )
        _check_room(now, view.cluster_count)


def check_name_allowed(organization: Organization, cluster: str) -> None:
    """Refuses a name that an organization's patterns do not allow.

    Raises:
        ClusterNameNotAllowedError: They do not.
    """
    if not organization.settings.allows(cluster):
        patterns = organization.settings.cluster_patterns
        raise ClusterNameNotAllowedError(
            f"organization {organization.name} may have clusters named "
            f"{listed(patterns[:5], len(patterns))}, and not {cluster}; use such a name",
            cluster=cluster,
            field="cluster",
        )


def _check_room(organization: Organization, count: int) -> None:
    """Refuses a further cluster, if an organization has as many as it may.

    Raises:
        TooManyClustersError: It has.
    """
    most = organization.settings.max_clusters
    if most and count >= most:
        raise TooManyClustersError(
            f"organization {organization.name} may have {most:,} clusters, and has them; delete "
            "one, or have max_clusters raised",
            field="organization",
        )


def _gives(now: KeyLink | None, seen: KeyLink) -> bool:
    """Says whether a link still gives the key that it gave when it was read."""
    return now is not None and (now.created_at, now.key_spec, now.geo) == (
        seen.created_at,
        seen.key_spec,
        seen.geo,
    )
