"""What all watches of a replica share: the sequences that they read, and their few own reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from keyfold_server.domain.errors import KeyfoldError, Unusable
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.log import Position
from keyfold_server.domain.ports import ClusterFilter, KeyUser
from keyfold_server.domain.resuming import expired_token, invalid_token
from keyfold_server.service.fleet.staleness import Moment
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.watch.feed import Feed, Item
from keyfold_server.service.watch.looks import Look, Looks
from keyfold_server.service.watch.tokens import ResumeTokens

_READS: Final = 4
"""Reads of the store that all readers together have under way for themselves alone: snapshots, and
entries that the feed no longer has. Calls need the other threads of the storage."""

_AGAIN: Final = 0.5
"""Seconds after which a shared read that failed is tried again."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pulse:
    """How fresh this replica is.

    Attributes:
        check: Raises if this replica must not serve (protocol S3).
        since: Returns the seconds since a moment, by the clock that shows more.
        most: Seconds of age at which this replica stops serving.
        every: Seconds between two heartbeats.
    """

    check: Callable[[], None]
    since: Callable[[Moment], float]
    most: float
    every: float


class Sources:
    """The sources of all watches; belongs to one event loop.

    Attributes:
        feed: The newest entries of the log.
        looks: The clusters that changed.
        tokens: Seals and opens the places of readers.
        pulse: How fresh this replica is.
        now: Returns monotonic seconds.
    """

    def __init__(
        self,
        feed: Feed,
        looks: Looks,
        tokens: ResumeTokens,
        storage: Storage,
        tasks: Tasks,
        pulse: Pulse,
        now: Callable[[], float],
    ) -> None:
        """Joins the sequences to the store."""
        self.feed = feed
        self.looks = looks
        self.tokens = tokens
        self.pulse = pulse
        self.now = now
        self._storage = storage
        self._tasks = tasks
        self._reads = asyncio.Semaphore(_READS)

    async def _read(self, reading: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with self._reads:
                return await reading
        finally:
            reading.close()

    async def look_at(self, names: Sequence[str], *, changed: bool = False) -> list[Look]:
        """Looks at clusters by their names, existing or not.

        Args:
            names: Their names.
            changed: Whether to look up the organization of a cluster that is gone.
        """
        looks = self.looks
        return await self._read(looks.of_changed(names) if changed else looks.of(names))

    async def page(self, which: ClusterFilter, after: str, limit: int) -> list[Look]:
        """Looks at the clusters of a page, which is read as the store reads lists."""
        return await self._read(self._page(which, after, limit))

    async def _page(self, which: ClusterFilter, after: str, limit: int) -> list[Look]:
        store = self._storage.store
        found = {
            (each.cluster or "") if isinstance(each, Unusable) else each.name: each
            for each in await self._storage.run(store.clusters, which, after, limit)
        }
        return await self.looks.at(list(found), found)

    async def after(self, place: Position, limit: int) -> tuple[list[Item], bool]:
        """Returns the next entries after one, and whether they came from the feed.

        Raises:
            ResumeTokenExpiredError: Pruning has removed the entry after that one.
            RowNotAuthenticError: An entry was changed, removed or added.
        """
        items = self.feed.after(place.number, limit)
        if items is not None:
            return items, True
        query = EventQuery(place.number, newest_first=False, limit=limit)
        page = await self._read(self._storage.run(self._storage.store.events, query))
        if page.events and page.events[0].number != place.number + 1:
            raise expired_token()
        return [Item(event) for event in page.events], False

    async def users(self, roots: Sequence[str]) -> Sequence[KeyUser]:
        """Reads which regions use some root keys now."""
        return await self._read(self._storage.run(self._storage.store.users_of_roots, roots))

    async def users_of(self, item: Item) -> Sequence[KeyUser]:
        """Returns which regions use the root key of an entry, which is read once for all readers.

        Raises:
            KeyfoldError: This replica must not serve any more.
        """
        root = item.root
        assert root is not None  # noqa: S101  the caller asks about an entry with a root key
        while True:
            if item.users is None:
                reading = self._storage.run(self._storage.store.users_of_roots, [root])
                item.users = self._tasks.start(reading)
            try:
                return await asyncio.shield(item.users)
            except KeyfoldError:
                # No entry may be left out, and none may overtake another: ask again.
                item.users = None
                self.pulse.check()
                await asyncio.sleep(_AGAIN)

    async def check(self, position: Position) -> None:
        """Refuses a position that the log does not have.

        Raises:
            ResumeTokenExpiredError: The store has pruned the entry after it.
            ResumeTokenInvalidError: The log has another entry there, or ends before.
        """
        known = self.feed.has(position)
        if known is None:
            await self._read(self._storage.run(self._storage.store.check_position, position))
        elif not known:
            raise invalid_token("the log has another entry there")
