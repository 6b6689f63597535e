"""The feed: the newest entries of the log, which this replica has applied, for all its readers.

The poll reads each entry once and hands it over here. A reader only remembers the number up to
which it has read. The feed keeps a bounded number of entries, so a reader that falls behind further
than that has to go on in the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from keyfold_server.domain.events import Event
from keyfold_server.domain.log import START, Entry, Position
from keyfold_server.domain.ports import KeyUser
from keyfold_server.service.fleet.staleness import NEVER

_MOST: Final = 10_000
"""Most entries that the feed keeps."""

_MOST_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of these entries as the store has them."""

_AT_ONCE: Final = 50
"""Readers that are woken in one turn of the event loop."""

_AT_LEAST: Final = 1_000
"""Bytes as which an entry counts at least: that of its names and numbers."""


class Item:
    """An entry of the log, as readers go through it.

    Attributes:
        kind: Its kind.
        cluster: The cluster's name, or None.
        root: The root key id, or None.
        position: Its place in the log.
        users: The regions that use its root key, once somebody has asked.
    """

    __slots__ = ("_event", "_tell", "cluster", "kind", "position", "root", "users")

    def __init__(self, entry: Entry | Event) -> None:
        """Takes an entry as a poll reported it, or as it was read for people."""
        self.kind = entry.kind
        self.cluster = entry.cluster
        self.root = entry.root
        self.position = Position(entry.number, entry.entry_id)
        self.users: asyncio.Task[Sequence[KeyUser]] | None = None
        # What a poll reported is read as an event only for a reader of events, and only once.
        self._event = entry if isinstance(entry, Event) else None
        self._tell = None if isinstance(entry, Event) else entry.told

    @property
    def event(self) -> Event:
        """The entry as people read it."""
        if self._event is None:
            assert self._tell is not None  # noqa: S101  an entry can be told
            self._event = self._tell()
            self._tell = None
        return self._event


class Feed:
    """The newest entries of the log; belongs to one event loop.

    Attributes:
        newest: The place of the newest entry that this replica has applied.
        wakes: Number of times that the readers were woken.
        fresh: The moment up to which these are all entries that the store had.
    """

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        """Makes a feed that is empty until `begin`."""
        self.newest = START
        self.wakes = 0
        self.fresh = NEVER
        self._most = most
        self._most_bytes = most_bytes
        self._base = START
        self._items: dict[int, tuple[Item, int]] = {}
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._woken: deque[asyncio.Future[None]] = deque()

    def begin(self, newest: Position) -> None:
        """Begins anew after an entry, such as the newest one when this replica registered."""
        self.newest = self._base = newest
        self._items.clear()
        self._bytes = 0
        self.wake()

    def append(self, noted: Sequence[Entry]) -> None:
        """Adds the entries that follow the newest one."""
        for entry in noted:
            item = Item(entry)
            self._items[entry.number] = item, _AT_LEAST + entry.size
            self._bytes += _AT_LEAST + entry.size
            self.newest = item.position
        while len(self._items) > self._most or self._bytes > self._most_bytes:
            oldest, size = self._items.pop(next(iter(self._items)))
            self._bytes -= size
            self._base = oldest.position

    def after(self, number: int, limit: int) -> list[Item] | None:
        """Returns the next entries after one; None: the feed no longer has all of them."""
        if number < self._base.number:
            return None
        last = min(self.newest.number, number + limit)
        return [self._items[n][0] for n in range(number + 1, last + 1)]

    def has(self, place: Position) -> bool | None:
        """Says whether an entry is the one at its number; None: the feed cannot tell."""
        if place.number == self._base.number:
            return place == self._base
        found = self._items.get(place.number)
        return None if found is None else found[0].position == place

    async def news(self, seen: int) -> None:
        """Waits until the readers are woken.

        Args:
            seen: What `wakes` was before the reader looked for what there is to read. If they have
                been woken since, it returns at once.
        """
        if seen == self.wakes:
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken

    def wake(self) -> None:
        """Wakes every reader that waits, a few at a time, so that other work has its turn (W5)."""
        self.wakes += 1
        idle = not self._woken
        self._woken += self._waiting
        self._waiting.clear()
        if idle and self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._woken))):
            woken = self._woken.popleft()
            if not woken.done():
                woken.set_result(None)
        if self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)
