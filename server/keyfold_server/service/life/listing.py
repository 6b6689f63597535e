"""Listing: the pages of ListClusters and their tokens.

Invariant: a page does not tell of a cluster that the caller may not see, neither by an entry nor
by where the page ends, nor by the time that it takes. ListClusters calls no KMS.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import InvalidPageError, KeyfoldError, Unusable
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.ports import Clock, ClusterFilter
from keyfold_server.domain.rights import Rights
from keyfold_server.service.life.reports import ClusterReport, Reports, may_read
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage

MAX_PAGE: Final = 1_000
"""Most clusters on one page."""

DEFAULT_PAGE: Final = 100
"""Clusters on a page if the request does not say how many."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of clusters.

    Attributes:
        entries: Sorted by name: a cluster's report, or the error of a cluster whose rows serve
            nobody.
        more: Whether further pages follow.
    """

    entries: tuple[ClusterReport | Unusable, ...]
    more: bool


class Listing:
    """Answers ListClusters."""

    def __init__(
        self,
        storage: Storage,
        reports: Reports,
        health: HealthRecorder,
        clock: Clock,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins ListClusters to the store.

        Args:
            storage: The store.
            reports: Makes the entries.
            health: Knows since when what a region's own replicas saw decides.
            clock: Time.
            check_fresh: Raises if this replica is stale; see `Status`.
        """
        self._storage = storage
        self._reports = reports
        self._health = health
        self._clock = clock
        self._check_fresh = check_fresh

    async def page(self, rights: Rights, which: ClusterFilter, size: int, token: str) -> Page:
        """Returns a page of reports.

        It reads on until the page is full of clusters that the caller may see. A page that ended
        earlier would need a token with a name that the caller may not know.

        Raises:
            InvalidPageError: The size is out of bounds, or the token is not valid.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        self._check_fresh(self._clock.monotonic())
        size = size or DEFAULT_PAGE
        after = name_in(token)
        # Not a row of a hidden cluster is read, because the time would tell of it (C8).
        covered = rights.coverage(which.organization)
        if not covered:
            return Page((), more=False)
        which = replace(which, covered=covered)
        if which.health is not None or which.can_wrap is not None:
            which = replace(which, own_since=self._health.own_since)
        seen: list[Cluster | Unusable] = []
        while len(seen) <= size:
            found = await self._storage.run(self._storage.store.clusters, which, after, size + 1)
            seen += [e async for e in one_by_one(found) if _is_listed(e, which, rights)]
            if len(found) <= size:
                break
            after = _name_of(found[-1])
        listed = [entry for entry in seen[:size] if not isinstance(entry, Unusable)]
        reports = iter(await self._reports.reports(listed, rights))
        entries = (entry if isinstance(entry, Unusable) else next(reports) for entry in seen[:size])
        return Page(tuple(entries), more=len(seen) > size)


def _is_listed(entry: Cluster | Unusable, which: ClusterFilter, rights: Rights) -> bool:
    """Says whether a cluster that the store found belongs on a caller's page.

    Where some regions are hidden from the caller, the filter may have found one of those, and an
    entry would give it away. So the filter is applied again to the regions that the caller may
    read. Observations are not at hand here: a caller whose grants are narrowed to regions can
    filter by state and key, but not by health or by whether a key wraps.
    """
    if isinstance(entry, Unusable):
        return rights.sees(entry.cluster or "", None)
    readable = [region for region in entry.regions if may_read(rights, entry, region.name)]
    if len(readable) == len(entry.regions):
        return True
    return (
        bool(readable)
        and which.health is None
        and which.can_wrap is None
        and (which.state is None or any(r.state is which.state for r in readable))
        and (
            which.key_uri is None
            or any(r.newest.current.root.uri == which.key_uri for r in readable)
        )
    )


def _name_of(entry: Cluster | Unusable) -> str:
    return (entry.cluster or "") if isinstance(entry, Unusable) else entry.name


def page_token(name: str) -> str:
    """Returns the token of the page that begins after a name."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def name_in(token: str) -> str:
    """Returns the name in a page token; empty for the first page."""
    if not token:
        return ""
    try:
        name = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode()
        return check_name(name, "page_token")
    except (KeyfoldError, ValueError, binascii.Error):
        raise InvalidPageError(
            "page_token is not one that this server gave out; pass next_page_token back as it came",
            field="page_token",
        ) from None
