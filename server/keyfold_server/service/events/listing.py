"""The pages of ListEvents, and which events a caller may see.

Invariant: what a caller may not see looks like what does not exist (protocol C7). An event about a
cluster is visible to who may read that cluster's events, one about a root key to who may read those
of a cluster that uses it now, and one about the whole store only under a grant that narrows
nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from keyfold_server.domain.errors import InvalidPageError
from keyfold_server.domain.events import Event, EventFilter, EventQuery, RootUse
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Coverage, Rights
from keyfold_server.service import tokens
from keyfold_server.service.storage import Storage

_RPC: Final = "ListEvents"

MAX_PAGE: Final = 1_000
"""Most events on one page."""

DEFAULT_PAGE: Final = 100
"""Events on a page if the request does not say how many."""

_READ: Final = 2_000
"""Entries after which a page ends, however few of them it shows."""

_AT_LEAST: Final = 200
"""Entries that are read at once at least."""

_PATTERNS: Final = 20
"""Most names of clusters or organizations in a caller's rights for which indexes are used."""

_TOKEN: Final = struct.Struct(">Q8s")
_PURPOSE: Final = "page of events"


@dataclass(frozen=True, slots=True)
class EventsPage:
    """One page of events.

    Attributes:
        events: The events, each as the caller may see it.
        next_token: The token of the next page; empty on the last one.
        tokens: The token of the page that begins after each event.
    """

    events: tuple[VisibleEvent, ...]
    next_token: str
    token_after: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class VisibleEvent:
    """An event as a caller may see it.

    Attributes:
        event: The event.
        regions: The regions of the event that the caller may see.
        whole: Whether nothing in the event can concern another region, so that the caller may see
            its details, its message and its root key, too.
    """

    event: Event
    regions: tuple[str, ...]
    whole: bool

    def shows_key(self, uri: str | None) -> bool:
        """Says whether what the caller may see names a root key, or no key is asked for.

        Otherwise a filter would tell which key a hidden region has (protocol C7).
        """
        return uri is None or self.whole or uri in self.event.uris_of(self.regions)


class Events:
    """Answers ListEvents."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins ListEvents to the store.

        Args:
            storage: The store.
            clock: Time.
            check_fresh: Raises if this replica is stale; see `Status`.
        """
        self._storage = storage
        self._clock = clock
        self._check_fresh = check_fresh

    async def page(
        self, rights: Rights, which: EventFilter, size: int, token: str, *, newest_first: bool
    ) -> EventsPage:
        """Returns a page of events.

        Raises:
            InvalidPageError: The size is out of bounds, or the token is not valid.
            RowNotAuthenticError: An entry of the log that was read is not the one that Keyfold
                wrote.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        self._check_fresh(self._clock.monotonic())
        asked = _digest(which, newest_first=newest_first)
        after = self._number_in(token, asked)

        def token_after(number: int) -> str:
            return self._token(number, asked)

        covered = rights.coverage(which.organization, _RPC)
        if not covered or not await self._may_exist(rights, which, covered):
            return EventsPage((), "", token_after)
        found: list[VisibleEvent] = []
        size, left = size or DEFAULT_PAGE, _READ
        query = _query(which, covered, after, newest_first=newest_first)
        while left > 0:
            # One more than the page needs, so that a full page knows whether it is the last.
            limit = min(left, max(size + 1 - len(found), _AT_LEAST if found or left < _READ else 1))
            page = await self._storage.run(self._storage.store.events, replace(query, limit=limit))
            shown = await self._shown(page.events, rights, which, covered)
            if len(found) + len(shown) > size:
                found += shown[: size - len(found)]
                return EventsPage(tuple(found), token_after(found[-1].event.number), token_after)
            found += shown
            if not page.more:
                return EventsPage(tuple(found), "", token_after)
            left -= len(page.events)
            query = replace(query, after=page.events[-1].number)
        assert query.after is not None  # noqa: S101  the loop has run
        return EventsPage(tuple(found), token_after(query.after), token_after)

    async def _may_exist(
        self, rights: Rights, which: EventFilter, covered: tuple[Coverage, ...]
    ) -> bool:
        """Says whether a caller may see the cluster of a filter; the rest each event shows.

        Otherwise the number of pages would tell how many events a hidden cluster has.
        """
        if which.cluster is None or any(each.is_whole for each in covered):
            return True
        organization = await self._storage.run(self._storage.store.organization_of, which.cluster)
        return rights.covers(_RPC, which.cluster, organization)

    async def _shown(
        self,
        events: list[Event],
        rights: Rights,
        which: EventFilter,
        covered: tuple[Coverage, ...],
    ) -> list[VisibleEvent]:
        """Returns those of some events that pass the filter, and that the caller may see."""
        whole = any(each.is_whole for each in covered)
        placed = which.cluster is not None or which.organization is not None
        used: frozenset[str] = frozenset()
        if placed or not whole:
            roots = {event.root for event in events if event.root is not None}
            if roots:
                use = RootUse(covered, which.cluster, which.organization)
                used = await self._storage.run(self._storage.store.roots_used, roots, use)
        found = (
            visible(event, rights, used, whole=whole)
            for event in events
            if which.selects(event, by_root=placed and event.root in used)
        )
        return [each for each in found if each is not None and each.shows_key(which.key_uri)]

    def _token(self, number: int, asked: bytes) -> str:
        """Returns the token of the page that begins after an entry."""
        data = _TOKEN.pack(number, asked)
        return tokens.sealed(self._storage.store.mac, _PURPOSE, data)

    def _number_in(self, token: str, asked: bytes) -> int | None:
        """Returns the number in a page token; None for the first page."""
        if not token:
            return None
        data = tokens.opened(self._storage.store.mac, _PURPOSE, token)
        if data is None:
            raise InvalidPageError(
                "page_token is not one that this server gave out; pass next_page_token back as it "
                "came",
                field="page_token",
            )
        number, asked_before = _TOKEN.unpack(data)
        if asked_before != asked:
            raise InvalidPageError(
                "page_token belongs to a request with another filter or order; ask for its next "
                "page with the same filter",
                field="page_token",
            )
        return int(number)


def visible(
    event: Event, rights: Rights, used: frozenset[str], *, whole: bool
) -> VisibleEvent | None:
    """Returns an event as a caller may see it, or None if it may not see it.

    Args:
        event: The event.
        rights: The caller's rights.
        used: The root keys that clusters use that the caller may see.
        whole: Whether the caller may see all that the store has.
    """
    regions = event.regions
    if whole:
        return VisibleEvent(event, regions, whole=True)
    if event.root is not None:
        return VisibleEvent(event, regions, whole=True) if event.root in used else None
    cluster, organization = event.cluster, event.organization
    if cluster is None or rights.covers_all_regions(_RPC, cluster, organization):
        seen = cluster is not None or rights.covers(_RPC, None, organization)
        return VisibleEvent(event, regions, whole=True) if seen else None
    if not rights.covers(_RPC, cluster, organization):
        return None

    def mine(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(r for r in names if rights.covers(_RPC, cluster, organization, r))

    seen_regions, named = mine(regions), event.named_regions | event.related_regions
    if regions and not seen_regions:
        return None
    # What a request for the whole cluster met may be told of any region: Restore's message names
    # the regions that stay revoked, which the decision does not have.
    whole = bool(named) and seen_regions == regions and len(mine(named)) == len(named)
    return VisibleEvent(event, seen_regions, whole=whole)


def _query(
    which: EventFilter, covered: tuple[Coverage, ...], after: int | None, *, newest_first: bool
) -> EventQuery:
    """Returns the query that reads the fewest entries and misses none that may be shown."""
    query = EventQuery(
        after,
        newest_first,
        0,
        start=which.start,
        end=which.end,
        first=which.first,
        last=which.last,
    )
    if which.cluster is not None:
        return replace(query, clusters=(which.cluster,))
    if which.organization is not None:
        return replace(query, organizations=(which.organization,))
    if any(each.is_whole for each in covered):
        return replace(query, caller=which.caller)
    clusters = _exact([each.clusters for each in covered])
    if clusters is not None:
        return replace(query, clusters=clusters)
    return replace(query, organizations=_exact([each.organizations for each in covered]))


def _exact(patterns: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Returns the names in some lists of patterns if they are few, and each is one whole name."""
    names: set[str] = set()
    for some in patterns:
        if some is None or any("*" in text for text in some):
            return None
        names.update(some)
    return tuple(sorted(names)) if len(names) <= _PATTERNS else None


def _digest(which: EventFilter, *, newest_first: bool) -> bytes:
    """Returns what tells one request from another, but for its page."""
    named = replace(which, kinds=frozenset())
    kinds = sorted(kind.value for kind in which.kinds)
    return sha256(repr((named, kinds, newest_first)).encode()).digest()[:8]
