"""The keys in memory, and when one may be used.

Invariants:

- A key serves only while the watch is good (protocol R8), and only if no message about its cluster
  has come since before the call began that brought it (protocol R2): each message about a cluster
  drops all keys of it.
- Time counts by the clock that shows more (protocol S3), from when that call began.
"""

from __future__ import annotations

from typing import Final

from keyfold.caching.keys import HeldKey, OpeningName, SealingName
from keyfold.caching.limits import UNWATCHED_AGE, Limits
from keyfold.caching.news import News, Place
from keyfold.caching.shelf import Shelf
from keyfold.calls.watch import Moment, moment
from keyfold.envelope.keys import Bounds
from keyfold.models.watch import ClusterState, Heartbeat, WatchMessage

_TWO_BEATS: Final = 10.0
"""Seconds of silence after which a stream counts as away: servers send a heartbeat every 5."""


class Memory:
    """The keys of one cache, and what it was told. Its owner's lock guards it.

    Attributes:
        shelf: The keys.
    """

    def __init__(self, limits: Limits) -> None:
        """Holds nothing, and knows nothing."""
        self.shelf = Shelf(limits.max_keys)
        self._limits = limits
        self._news = News()

    # Keys

    def to_open(self, name: OpeningName) -> HeldKey | None:
        """Borrows a key to open with."""
        held = self.shelf.to_open(name)
        if held is None or not self._usable(held, moment()):
            return None
        return _borrowed(held)

    def to_seal(self, name: SealingName, size: int, bounds: Bounds) -> HeldKey | None:
        """Borrows a key to seal a message of so many bytes."""
        held = self.shelf.to_seal(name)
        if held is None:
            return None
        now = moment()
        fits = bounds.allow(held.messages, held.bytes + size, held.began, now)
        if not fits or not self._usable(held, now):
            return None
        held.messages += 1
        held.bytes += size
        return _borrowed(held)

    def keep(self, held: HeldKey, max_cache_age: float) -> None:
        """Keeps a key that a call brought, if it may be kept."""
        place, watched = self.place(held.name), self._news.watched is not False
        ages = [max_cache_age, self._limits.max_age]
        if not watched:
            ages.append(UNWATCHED_AGE)
        elif place is not None:
            # A server that is behind may have another one.
            ages.append(place.cache_ttl)
        held.until = held.began.after(min(ages))
        if (place is not None or not watched) and self.serves(held, moment()):
            self.shelf.put(held)

    def serves(self, held: HeldKey, now: Moment) -> bool:
        """Returns whether a key is in time, and anything is served from memory now."""
        return now.before(held.until) and self.good(now)

    def good(self, now: Moment) -> bool:
        """Returns whether keys are served from memory now."""
        return self._news.watched is False or self._news.good(now)

    def _usable(self, held: HeldKey, now: Moment) -> bool:
        if not now.before(held.until) or held.uses_left <= 0:
            self.shelf.drop(held)
            return False
        news = self._news  # As `good`, which would be another call of each use.
        return now.before(news.good_until) or news.watched is False

    # News

    @property
    def watched(self) -> bool | None:
        """Whether there is a watch; None: it has not begun."""
        return self._news.watched

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which the stream is away for longer than the grace."""
        return self._limits.grace + _TWO_BEATS

    def place(self, name: OpeningName) -> Place | None:
        """Returns the generation that wrapped a key, if it was told to be in service."""
        standing = self._news.of(name[0])
        return None if standing is None else standing.place(name[1])

    def strict(self, cluster: str, region: str) -> bool:
        """Returns whether the region was told to have a `cache_ttl` of 0."""
        standing = self._news.of(cluster)
        places = () if standing is None else standing.places
        return any(each.region == region and not each.cache_ttl for each in places)

    def begin(self, *, watched: bool | None) -> None:
        """Forgets what the watch told, and drops every key."""
        self._news.begin(watched=watched)
        self.shelf.clear()

    def tell(self, message: WatchMessage, good_until: Moment) -> None:
        """Hears a message of the watch, and until when what it told may be relied on."""
        if isinstance(message, ClusterState):
            self._news.tell(message)
            self.shelf.drop_cluster(message.cluster)
        elif isinstance(message, Heartbeat) and message.store_age is not None:
            self._news.good_until = good_until
            self.shelf.drop_old(moment())

    def away(self) -> None:
        """Hears that the stream has ended."""
        now = moment()
        end = now.after(self._limits.grace)
        self._news.good_until = Moment(*map(min, self._news.good_until, end))
        # No heartbeat does it meanwhile.
        self.shelf.drop_old(now)


def _borrowed(held: HeldKey) -> HeldKey:
    held.uses_left -= 1
    held.users += 1
    return held
