"""What the callers of one cache share: the keys in memory, and the calls for keys.

Nothing here makes a call or waits. `memory` says when a key may be used, and `flights` who may
share a call. This module keeps the two together under one lock, with these invariants:

- News of a cluster drops its keys and overtakes the calls that were under way. So does a refusal,
  ahead of the news (protocol R2).
- A key that the watch has told to be out of service since its call began is lent to nobody.
- The last one who uses a key that was dropped leaves it wiped.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Final, NamedTuple
from weakref import WeakSet

from keyfold.caching.flights import Flight, Flights, Opening, Request
from keyfold.caching.keys import HeldKey, OpeningName, SealingName
from keyfold.caching.limits import Limits
from keyfold.caching.memory import Memory
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
from keyfold.models.watch import ClusterState, WatchMessage

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


class Seat(NamedTuple):
    """A caller's place in a call.

    Attributes:
        flight: The call.
        leads: Whether the caller makes the call; if not, it waits for the call.
    """

    flight: Flight
    leads: bool


class Holdings:
    """The keys of one cache. Any number of threads may share it."""

    def __init__(self, limits: Limits) -> None:
        """Holds nothing."""
        self._limits = limits
        self._lock = Lock()
        self._memory = Memory(limits)
        self._flights = Flights()
        self._closed = self._in_use = self._forked = False
        _ALL.add(self)

    def __len__(self) -> int:
        return len(self._memory.shelf)

    @property
    def serving(self) -> bool:
        """Whether keys are served from memory now."""
        with self._lock:
            return not self._closed and self._memory.good(moment())

    @property
    def watched(self) -> bool | None:
        """Whether there is a watch; None: it has not begun."""
        return self._memory.watched

    # Keys

    def to_open(self, name: OpeningName) -> HeldKey | None:
        """Borrows a key to open with; None: the server has to be asked."""
        with self._lock:
            return self._memory.to_open(name)

    def to_seal(self, name: SealingName, size: int, bounds: Bounds) -> HeldKey | None:
        """Borrows a key to seal a message of so many bytes; None: the server has to make one."""
        with self._lock:
            return self._memory.to_seal(name, size, bounds)

    def give_back(self, held: HeldKey) -> None:
        """Ends a use."""
        with self._lock:
            _give_back(held)

    # Calls

    def board(self, request: Request, seconds: float, wake: Callable[[], None]) -> HeldKey | Seat:
        """Looks again for a key that was not in memory; else joins or begins the call for it.

        Who makes a call ends it with `landed` or `failed`, and in any case with `leave`. Who waits
        for one ends that with `alight` or `give_up`.

        Args:
            request: What the caller wants.
            seconds: Most seconds that its own call may take.
            wake: Called when the call that it waits for has ended.

        Returns:
            The key, with one more user; or the caller's place in a call.

        Raises:
            ForkedError: The cache was in use before this process was forked.
            ClosedError: The cache is closed.
        """
        with self._using(request.name[0]):
            return self._find(request) or self._seat(request, seconds, wake)

    def depart(self, names: Sequence[OpeningName], seconds: float) -> list[Flight]:
        """Begins a call for several keys, which nobody else shares. Each key ends as in `board`."""
        with self._using(names[0][0] if names else None):
            now = moment()
            flights = []
            for name in names:
                request = Opening(name, now)
                flight = Flight.of(request, self._known(request)[0], seconds, now)
                self._flights.add(flight, alone=True)
                flights.append(flight)
            return flights

    @contextmanager
    def _using(self, cluster: str | None) -> Iterator[None]:
        """Surrounds the beginning of a call for keys of a cluster, which errors name."""
        about = {} if cluster is None else {"cluster": cluster}
        if self._forked:
            raise ForkedError(
                "this cache was in use before the process was forked, and its watch stayed in the "
                "parent; make the client and the cache after the fork",
                code="FAILED_PRECONDITION",
                metadata=about,
            )
        with self._lock:
            if self._closed:
                raise ClosedError(
                    "the cache is closed; borrow keys before, or make a new cache",
                    code="FAILED_PRECONDITION",
                    metadata=about,
                )
            self._in_use = True
            yield

    def _find(self, request: Request) -> HeldKey | None:
        if isinstance(request, Opening):
            return self._memory.to_open(request.name)
        return self._memory.to_seal(request.name, request.size, request.bounds)

    def _seat(self, request: Request, seconds: float, wake: Callable[[], None]) -> Seat:
        now = moment()
        region, strict = self._known(request)
        alone = strict or request.alone
        flight = None if alone else self._flights.of(request.name)
        if flight is not None and flight.takes(request, self._limits.max_uses, now):
            flight.join(request, wake)
            return Seat(flight, leads=False)
        flight = Flight.of(request, region, seconds, now)
        self._flights.add(flight, alone=alone)
        return Seat(flight, leads=True)

    def _known(self, request: Request) -> tuple[str | None, bool]:
        """Returns a key's region, as far as it is known, and whether its `cache_ttl` is 0."""
        if isinstance(request, Opening):
            place = self._memory.place(request.name)
            return (None, False) if place is None else (place.region, not place.cache_ttl)
        cluster, region, _ = request.name
        return region, self._memory.strict(cluster, region)

    def landed(self, flight: Flight, held: HeldKey, max_cache_age: float) -> bool:
        """Takes the key that a call brought, keeps it if it may be kept, and wakes who waits.

        Returns:
            Whether the one who made the call may use it. If not, the watch has told meanwhile that
            the key is out of service, and the server has to be asked again.
        """
        with self._lock:
            if flight.told and self._memory.watched and self._memory.place(held.name) is None:
                held.wipe()
                self._flights.land(flight)
                return False
            held.began, held.users = flight.began, 1 + flight.waiting
            held.uses_left = self._limits.max_uses - flight.seats
            if held.seals is not None:
                held.messages, held.bytes = flight.seats, flight.bytes
            flight.held, flight.shared = held, max_cache_age > 0
            if not self._closed and not flight.overtaken:
                self._memory.keep(held, max_cache_age)
            self._flights.land(flight)
            return True

    def failed(self, flight: Flight, error: KeyfoldError) -> None:
        """Hears what a server answered to a call, ahead of the watch, and wakes who waits."""
        with self._lock:
            if isinstance(error, _TAKEN_AWAY):
                cluster, region = flight.name[0], error.region or None
                self._memory.shelf.drop_cluster(cluster, region)
                self._flights.overtake(cluster, region, told=False, but=flight)
            flight.fail(error)
            self._flights.land(flight)

    def leave(self, flight: Flight) -> None:
        """Hears that whoever made a call is done with it, and wakes who waits if it never ended."""
        with self._lock:
            if not flight.landed:
                self._flights.land(flight)

    def alight(self, flight: Flight, request: Request) -> HeldKey | None:
        """Ends the wait for a call.

        Returns:
            The key that it brought; None: the caller has to look again.

        Raises:
            KeyfoldError: The call's error.
        """
        with self._lock:
            self._flights.left(flight)
            if flight.error is not None and not flight.overtaken:
                # A copy, because an error that is raised gets the frames of whoever raises it.
                raise copy.copy(flight.error)
            held = flight.held
            if held is None:
                return None
            if self._shares(flight, held, request):
                return held
            # At a max_cache_age of 0 another one would be of no more use.
            request.alone = not flight.shared
            _give_back(held)
            return None

    def _shares(self, flight: Flight, held: HeldKey, request: Request) -> bool:
        if not flight.shared or flight.overtaken:
            return False
        if flight.began.monotonic >= request.came.monotonic:
            return True
        return not held.dropped and self._memory.serves(held, moment())

    def give_up(self, flight: Flight) -> None:
        """Ends the wait for a call by somebody who wants nothing any more."""
        with self._lock:
            self._flights.left(flight)
            if flight.held is not None:
                _give_back(flight.held)

    # News

    def begin(self, *, watched: bool | None) -> None:
        """Forgets what the watch told and drops every key, because a watch has begun or ended.

        Args:
            watched: See `News`.
        """
        with self._lock:
            self._flights.overtake_all()
            self._memory.begin(watched=watched)

    def tell(self, message: WatchMessage, good_until: Moment) -> None:
        """Hears a message of the watch, and until when what it told may be relied on."""
        with self._lock:
            if isinstance(message, ClusterState):
                self._flights.overtake(message.cluster, told=True)
            self._memory.tell(message, good_until)

    def away(self) -> None:
        """Hears that the stream has ended. It may begin again within the grace."""
        with self._lock:
            self._memory.away()

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which the stream is away for longer than the grace."""
        return self._memory.silence

    def tidy(self) -> None:
        """Wipes the keys whose time is over."""
        with self._lock:
            self._memory.shelf.drop_old(moment())

    # Ends

    def close(self) -> None:
        """Wipes every key, and keeps none any more."""
        with self._lock:
            self._closed = True
            self._memory.shelf.clear()

    def in_child(self) -> None:
        """Wipes every key of a process that was just forked, where nothing tells of clusters."""
        # Another thread of the parent may have held the lock.
        self._lock = Lock()
        self._forked = self._in_use
        self._memory.shelf.wipe_unused()
        self._memory, self._flights = Memory(self._limits), Flights()


def _give_back(held: HeldKey) -> None:
    held.users -= 1
    if held.dropped and not held.users:
        held.wipe()


_ALL: Final[WeakSet[Holdings]] = WeakSet()


def _in_child() -> None:
    for holdings in _ALL:
        holdings.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
