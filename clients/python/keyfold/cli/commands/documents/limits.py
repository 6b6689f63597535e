"""The limits of organizations as a plan leaves them.

The server holds each call to the limits of its moment. What a document asks for as a whole, and
what rests on limits that the same document changes, it cannot foretell; so that is checked here,
before anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from keyfold.cli.commands.documents.actual import Actual
from keyfold.cli.input.documents import Document
from keyfold.errors import ClusterNameNotAllowedError, TooManyClustersError, TooManyKeyLinksError
from keyfold.models.organizations import Organization

_MOST_LINKS: Final = 1_000
"""The most key links of any organization."""


def check_limits(document: Document, exists: Actual, new: Iterable[str]) -> None:
    """Refuses new clusters and links that their organization will not allow.

    Args:
        document: The document.
        exists: What exists.
        new: The names of the clusters that the document makes.

    Raises:
        TooManyClustersError: There would be more clusters than the organization may have.
        TooManyKeyLinksError: There would be more key links.
        ClusterNameNotAllowedError: The organization's patterns do not allow the name of one.
    """
    clusters: dict[str, list[str]] = {}
    for name in new:
        if owner := document.clusters[name].value.organization:
            clusters.setdefault(owner, []).append(name)
    for owner, names in clusters.items():
        found = exists.organization(owner)
        most = _planned(document, owner, found, "max_clusters") or 0
        count = len(names) + (found.cluster_count if found else 0)
        if most and count > most:
            raise TooManyClustersError(
                f"organization {owner} would have {count:,} clusters and may have {most:,}; "
                "nothing was changed"
            )
        patterns = _planned(document, owner, found, "cluster_patterns") or ()
        for name in names if patterns else ():
            if not any(_matches(pattern, name) for pattern in patterns):
                raise ClusterNameNotAllowedError(
                    f"cluster/{name}: organization {owner} may have clusters named "
                    f"{', '.join(patterns[:5])}; nothing was changed"
                )
    for owner in {owner for owner, _ in document.key_links}:
        links = exists.key_links(owner)
        count = len(links.keys() | {name for of, name in document.key_links if of == owner})
        found = exists.organization(owner)
        most = _planned(document, owner, found, "max_key_links") or _MOST_LINKS
        if len(links) < count > most:
            raise TooManyKeyLinksError(
                f"organization {owner} would have {count:,} key links and may have {most:,}; "
                "nothing was changed"
            )


def _planned(document: Document, owner: str, found: Organization | None, field: str) -> Any:
    """Returns the value that a field of an organization has once the plan is carried out."""
    entry = document.organizations.get(owner)
    if entry is not None and (found is None or field in entry.given):
        return getattr(entry.value, field)
    return None if found is None else getattr(found, field)


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
