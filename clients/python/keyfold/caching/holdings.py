"""What a cache holds, and when a key may be used. Nothing here makes a call or waits.

Invariants:

- A key serves from memory only while the watch is good (protocol R8), and only if no message about
  its cluster has come since before the call began that brought it (protocol R2). So each message
  about a cluster drops all keys of it, and a call that was under way then brings no key.
- Time counts by the clock that shows more (protocol S3), from when that call began.
- The last one who uses a key that was dropped leaves it wiped.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Final, NamedTuple
from weakref import WeakSet

from keyfold.arguments import wrong_value
from keyfold.caching.keys import HeldKey, OpeningName, SealingName
from keyfold.caching.news import News, Standing
from keyfold.caching.shelf import Shelf
from keyfold.calls.watch import Moment, moment
from keyfold.envelope.keys import Bounds
from keyfold.errors import (
    ClosedError,
    ClusterBannedError,
    ClusterRevokedError,
    ForkedError,
    KeyDeletedError,
    KeyfoldError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    RevokedError,
    RowNotAuthenticError,
)
from keyfold.models.watch import ClusterState, Heartbeat, WatchMessage

UNWATCHED_AGE: Final = 5.0
"""Most seconds for which a key is kept without a watch."""

_TWO_BEATS: Final = 10.0
"""Seconds of silence after which a stream counts as away: servers send a heartbeat every 5."""

_TAKEN_AWAY: Final = (
    ClusterBannedError,
    ClusterRevokedError,
    KeyDeletedError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    RevokedError,
    RowNotAuthenticError,
)
"""What a server answers where nothing of the region may be used any more."""


class Limits(NamedTuple):
    """The bounds of a cache.

    Attributes:
        max_keys: Most keys.
        max_age: Most seconds for which a key is kept.
        max_uses: Most uses of a key.
        grace: Seconds for which keys are used while the stream is away.
    """

    max_keys: int
    max_age: float
    max_uses: int
    grace: float

    def checked(self) -> Limits:
        """Returns the same bounds.

        Raises:
            ArgumentValueError: A bound is too small.
        """
        if self.max_keys < 1 or self.max_uses < 1 or not self.max_age > 0 or not self.grace >= 0:
            raise wrong_value(
                "max_keys and max_uses must be at least 1, max_age more than 0, and grace not "
                "negative"
            )
        return self


class Ticket(NamedTuple):
    """What was known when a call began.

    Attributes:
        began: When it began.
        begun: How many times the cache had called `News.begin`.
        standing: What the watch had told of the cluster; None: nothing.
    """

    began: Moment
    begun: int
    standing: Standing | None


class Holdings:
    """The keys of one cache. Any number of threads may share it."""

    def __init__(self, limits: Limits) -> None:
        """Holds nothing."""
        self._limits = limits
        self._lock = Lock()
        self._news = News()
        self._shelf = Shelf(limits.max_keys)
        self._closed = self._in_use = self._forked = False
        _ALL.add(self)

    def __len__(self) -> int:
        return len(self._shelf)

    @property
    def serving(self) -> bool:
        """Whether keys are served from memory now."""
        with self._lock:
            return self._serves(moment())

    @property
    def watched(self) -> bool | None:
        """Whether there is a watch; None: it has not begun."""
        return self._news.watched

    # Keys

    def to_open(self, name: OpeningName) -> HeldKey | None:
        """Borrows a key to open with; None: the server has to be asked."""
        with self._lock:
            held = self._shelf.to_open(name)
            if held is None or not self._usable(held, moment()):
                return None
            return _borrowed(held)

    def to_seal(self, name: SealingName, size: int, bounds: Bounds) -> HeldKey | None:
        """Borrows a key to seal a message of so many bytes; None: the server has to make one."""
        with self._lock:
            held = self._shelf.to_seal(name)
            if held is None:
                return None
            now = moment()
            fits = bounds.allow(held.messages, held.bytes + size, held.began, now)
            if not fits or not self._usable(held, now):
                return None
            held.messages += 1
            held.bytes += size
            return _borrowed(held)

    def ticket(self, cluster: str) -> Ticket:
        """Notes that a call begins.

        Raises:
            ForkedError: The cache was in use before this process was forked.
            ClosedError: The cache is closed.
        """
        if self._forked:
            raise ForkedError(
                "this cache was in use before the process was forked, and its watch stayed in the "
                "parent; make the client and the cache after the fork",
                code="FAILED_PRECONDITION",
            )
        with self._lock:
            if self._closed:
                raise ClosedError(
                    "the cache is closed; borrow keys before, or make a new cache",
                    code="FAILED_PRECONDITION",
                )
            self._in_use = True
            return Ticket(moment(), self._news.begun, self._news.of(cluster))

    def keep(self, held: HeldKey, ticket: Ticket, max_cache_age: float) -> HeldKey:
        """Keeps a key that a call brought, if it may be kept; its caller may use it in any case."""
        with self._lock:
            age = min(max_cache_age, self._limits.max_age)
            if self._news.watched is False:
                age = min(age, UNWATCHED_AGE)
            held.began, held.until = ticket.began, ticket.began.after(age)
            held.uses_left = self._limits.max_uses - 1
            now = moment()
            if (
                not self._closed
                and ticket.begun == self._news.begun
                and self._serves(now)
                and now.before(held.until)
                and (self._news.watched is False or self._allowed(held, ticket.standing))
            ):
                self._shelf.put(held)
            return held

    def give_back(self, held: HeldKey) -> None:
        """Ends a use."""
        with self._lock:
            held.users -= 1
            if held.dropped and not held.users:
                held.wipe()

    def failed(self, cluster: str, error: KeyfoldError) -> None:
        """Hears what a server answered to a call about a cluster, ahead of the watch."""
        if isinstance(error, _TAKEN_AWAY):
            with self._lock:
                self._shelf.drop_cluster(cluster, error.region or None)

    def _usable(self, held: HeldKey, now: Moment) -> bool:
        if not now.before(held.until) or held.uses_left <= 0:
            self._shelf.drop(held)
            return False
        return self._serves(now)

    def _serves(self, now: Moment) -> bool:
        return self._news.watched is False or self._news.good(now)

    def _allowed(self, held: HeldKey, before: Standing | None) -> bool:
        """Returns whether nothing was told of the cluster meanwhile, and it is in service."""
        standing = self._news.of(held.name[0])
        return (
            standing is not None
            and standing is before
            and (held.region, held.generation) in standing.usable
        )

    # News

    def begin(self, *, watched: bool | None) -> None:
        """Forgets what the watch told and drops every key, because a watch has begun or ended.

        Args:
            watched: See `News`.
        """
        with self._lock:
            self._news.begin(watched=watched)
            self._shelf.clear()

    def tell(self, message: WatchMessage, good_until: Moment) -> None:
        """Hears a message of the watch, and until when what it told may be relied on."""
        with self._lock:
            if isinstance(message, ClusterState):
                self._news.tell(message)
                self._shelf.drop_cluster(message.cluster)
            elif isinstance(message, Heartbeat) and message.store_age is not None:
                self._news.good_until = good_until
                self._shelf.drop_old(moment())

    def away(self) -> None:
        """Hears that the stream has ended. It may begin again within the grace."""
        with self._lock:
            end = moment().after(self._limits.grace)
            self._news.good_until = Moment(*map(min, self._news.good_until, end))

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which the stream is away for longer than the grace."""
        return self._limits.grace + _TWO_BEATS

    def tidy(self) -> None:
        """Wipes the keys whose time is over."""
        with self._lock:
            self._shelf.drop_old(moment())

    # Ends

    def close(self) -> None:
        """Wipes every key, and keeps none any more."""
        with self._lock:
            self._closed = True
            self._shelf.clear()

    def in_child(self) -> None:
        """Wipes every key of a process that was just forked, where nothing tells of clusters."""
        # Another thread of the parent may have held the lock.
        self._lock = Lock()
        self._forked = self._in_use
        self._shelf.wipe_unused()
        self._shelf, self._news = Shelf(self._limits.max_keys), News()


def _borrowed(held: HeldKey) -> HeldKey:
    held.uses_left -= 1
    held.users += 1
    return held


_ALL: Final[WeakSet[Holdings]] = WeakSet()


def _in_child() -> None:
    for holdings in _ALL:
        holdings.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
