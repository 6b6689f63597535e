"""The items of operations: the regions in a scope, in the fixed order of their names.

What the operation's caller may not see is no item (protocol C7). A cluster that cannot be read, or
that the scope names and the caller cannot see, is an item without a region, so that it does not go
unsaid.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from keyfold_server.domain.cluster import Cluster, Region, no_cluster
from keyfold_server.domain.errors import KeyfoldError, Unusable
from keyfold_server.domain.key_usage import KeyQuery, UsePlace
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.operations import Place, Work
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.rights import Rights
from keyfold_server.service.storage import Storage

_PAGE: Final = 100
"""Most clusters that are read at once."""

_LAST: Final = "\x7f"
"""Follows every name of a region."""


@dataclass(frozen=True, slots=True)
class Item:
    """A region for an operation to work on.

    Attributes:
        place: Its place in the order of all items.
        organization: The cluster's organization, or None.
        region: The region as it was when it was found; None: the cluster could not be read.
        error: Why not, or None.
    """

    place: Place
    organization: str | None = None
    region: Region | None = None
    error: KeyfoldError | None = None

    @property
    def root(self) -> str:
        """The id of the root key that the region uses now; empty without a region."""
        return "" if self.region is None else self.region.newest.current.root_id


class _Found(NamedTuple):
    """A cluster by its name, or why it cannot be read; None: it does not exist."""

    name: str
    cluster: Cluster | Unusable | None


class Items:
    """Finds the items of operations."""

    def __init__(self, storage: Storage) -> None:
        """Takes the store."""
        self._storage = storage

    async def after(self, work: Work, rights: Rights, place: Place) -> AsyncGenerator[Item]:
        """Yields the items that follow a place, in their order.

        It holds one page of clusters at a time, however many there are.

        Args:
            work: The operation's work.
            rights: The rights of its caller now.
            place: The place of the last item before.
        """
        if not rights.coverage(work.organization):
            return
        async for page in self._pages(work, rights, place):
            for found in page:
                for item in _items_of(found, work, rights):
                    if item.place > place:
                        yield item

    async def _pages(
        self, work: Work, rights: Rights, place: Place
    ) -> AsyncIterator[Sequence[_Found]]:
        """Yields the clusters in a scope from that of a place on."""
        if work.clusters:
            names = [name for name in work.clusters if name >= place.cluster]
            for first in range(0, len(names), _PAGE):
                yield await self._named(names[first : first + _PAGE])
            return
        if place.cluster:
            # The pages begin after this cluster, and it may have further regions.
            yield await self._named([place.cluster])
        pages = self._filtered if work.principal is None else self._users
        async for page in pages(work, rights, place.cluster):
            yield page

    async def _filtered(
        self, work: Work, rights: Rights, after: str
    ) -> AsyncIterator[Sequence[_Found]]:
        """Yields pages of the clusters of an organization, or under a key."""
        which = ClusterFilter(
            organization=work.organization,
            key_uri=work.key_uri or None,
            covered=rights.coverage(work.organization),
        )
        while True:
            found = await self._storage.run(self._storage.store.clusters, which, after, _PAGE)
            yield [_Found(_name_of(each), each) for each in found]
            if len(found) < _PAGE:
                return
            after = _name_of(found[-1])

    async def _users(
        self, work: Work, rights: Rights, after: str
    ) -> AsyncIterator[Sequence[_Found]]:
        """Yields pages of the clusters that need a key as a principal."""
        query, covered = KeyQuery(principal=work.principal), rights.coverage(work.organization)
        place = UsePlace(after, _LAST, 0, 0) if after else None
        while True:
            uses = await self._storage.run(
                self._storage.store.key_usage, query, covered, place, _PAGE
            )
            names = dict.fromkeys(each.cluster for each in uses.entries if each.cluster)
            yield await self._named(list(names))
            if not uses.more or uses.last is None:
                return
            # The page after begins with another cluster, since this one was read as a whole.
            place = UsePlace(uses.last.cluster, _LAST, 0, 0)

    async def _named(self, names: Sequence[str]) -> list[_Found]:
        found = await self._storage.run(self._storage.store.named, names) if names else {}
        return [_Found(name, found.get(name)) for name in names]


def _name_of(found: Cluster | Unusable) -> str:
    return (found.cluster or "") if isinstance(found, Unusable) else found.name


def _items_of(found: _Found, work: Work, rights: Rights) -> Iterator[Item]:
    """Yields the items of a cluster, in the order of its regions."""
    name, cluster = found
    organization = cluster.organization if isinstance(cluster, Cluster) else None
    if cluster is None or not rights.sees(name, organization):
        if work.clusters:
            yield Item(Place(name, ""), error=no_cluster(name))
        return
    if isinstance(cluster, Unusable):
        yield Item(Place(name, ""), error=cluster)
        return
    if work.organization not in (None, organization):
        return
    for region in cluster.regions:
        if _is_in(region, work) and rights.sees(name, organization, region.name):
            yield Item(Place(name, region.name), organization, region)


def _is_in(region: Region, work: Work) -> bool:
    """Says whether a region is in a scope. A deleted one never is: nothing uses its key."""
    root = region.newest.current.root
    return (
        region.state is not State.DELETED
        and work.key_link in ("", region.link)
        and work.key_uri in ("", root.uri)
        and work.principal in (None, root.principal)
        and (
            not work.key_version
            or any(each.current.key_version == work.key_version for each in region.generations)
        )
    )
