"""Flights: the calls for keys that are under way. Callers who miss the same key share one.

Who misses a key first makes the call. The others wait until it lands, each within its own deadline.
If the first one gives up or dies, the others look again, and one of them makes the next call.

Invariants, which `holdings` keeps:

- What news of its cluster has overtaken takes nobody else on board, brings no key into memory, and
  answers nobody who waits (protocol R2).
- A caller shares a call that began before it came only where memory would serve it the same key.
  Where each use has to ask the server (protocol R8), it waits for a call that began later.
- At `max_cache_age` 0 nobody shares, so that each use reaches the customer's KMS (protocol F1).
- Those who wait share an error, and nobody remembers it. They do not share one for which a single
  caller's lack of time may be the cause (protocol W1).
- Nobody waits for a call beyond that call's own deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias

from keyfold.caching.keys import HeldKey, OpeningName, SealingName
from keyfold.calls.watch import Moment, moment
from keyfold.envelope.keys import Bounds
from keyfold.errors import CancelledError, DeadlineError, ForkedError, KeyfoldError

_LATE: Final = 1.0
"""Seconds after its deadline at which a call that has not landed counts as dead."""

_OF_ONE_CALLER: Final = (CancelledError, DeadlineError, ForkedError)
"""Errors that say nothing about anybody else's call."""


class Landing:
    """What a thread waits for."""

    def __init__(self) -> None:
        """Has not landed."""
        self._landed = threading.Event()

    def land(self) -> None:
        """Wakes who waits."""
        self._landed.set()

    def wait(self, seconds: float) -> None:
        """Returns once it has landed, or after some seconds."""
        self._landed.wait(seconds)


class AsyncLanding:
    """What a task waits for."""

    def __init__(self) -> None:
        """Has not landed."""
        self._landed = asyncio.Event()

    def land(self) -> None:
        """Wakes who waits."""
        self._landed.set()

    async def wait(self, seconds: float) -> None:
        """Returns once it has landed, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._landed.wait()


@dataclass(slots=True, eq=False)
class Opening:
    """A caller's wish for a key to open with, which is not in memory.

    Attributes:
        name: The key's name.
        came: When the caller came.
        alone: Whether the caller shares nobody's call.
    """

    name: OpeningName
    came: Moment
    alone: bool = False

    size: ClassVar[int] = 0

    def fits(self, flight: Flight, now: Moment) -> bool:  # noqa: ARG002  as the other's
        """Returns whether the key that a call brings may serve this caller, too."""
        return True


@dataclass(slots=True, eq=False)
class Sealing:
    """A caller's wish for a key to seal with, which is not in memory.

    Attributes:
        name: The key's name.
        came: When the caller came.
        size: Bytes of the message.
        bounds: How long one key may seal.
        alone: Whether the caller shares nobody's call.
    """

    name: SealingName
    came: Moment
    size: int
    bounds: Bounds
    alone: bool = False

    def fits(self, flight: Flight, now: Moment) -> bool:
        """Returns whether the key that a call brings may serve this caller, too."""
        return self.bounds.allow(flight.seats, flight.bytes + self.size, flight.began, now)


Request: TypeAlias = Opening | Sealing


@dataclass(slots=True, eq=False)
class Flight:
    """A call that is under way. The lock of its `Holdings` guards it.

    Attributes:
        name: The name of the key that it will bring.
        region: The region that wraps the key; None: nobody knows yet.
        began: When it began.
        ends: When it counts as dead.
        seats: The callers who share it, the one who makes it included.
        bytes: To seal, the bytes of their messages.
        waiting: How many of them have not looked yet how it ended.
        wake: What wakes them.
        overtaken: Whether what was known when it began does not count any more.
        told: Whether news of the cluster came since it began.
        landed: Whether it has ended.
        shared: Whether those who wait may have what it brought, once it has landed.
        held: What it brought.
        error: How it failed.
    """

    name: OpeningName | SealingName
    region: str | None
    began: Moment
    ends: Moment
    seats: int = 1
    bytes: int = 0
    waiting: int = 0
    wake: list[Callable[[], None]] = field(default_factory=list)
    overtaken: bool = False
    told: bool = False
    landed: bool = False
    shared: bool = False
    held: HeldKey | None = None
    error: KeyfoldError | None = None

    @classmethod
    def of(cls, request: Request, region: str | None, seconds: float, began: Moment) -> Flight:
        """Returns the flight of a call that may take so many seconds."""
        ends = began.after(seconds + _LATE)
        return cls(request.name, region, began, ends, bytes=request.size)

    @property
    def left(self) -> float:
        """Seconds until it counts as dead."""
        return max(0.0, self.ends.monotonic - moment().monotonic)

    def takes(self, request: Request, most: int, now: Moment) -> bool:
        """Returns whether one more caller may wait for it.

        Args:
            request: What the caller wants.
            most: Most uses of a key.
            now: This moment.
        """
        full = self.seats >= most or not request.fits(self, now)
        return not full and not self.overtaken and now.before(self.ends)

    def join(self, request: Request, wake: Callable[[], None]) -> None:
        """Takes one more caller on board."""
        self.seats += 1
        self.bytes += request.size
        self.waiting += 1
        self.wake.append(wake)

    def fail(self, error: KeyfoldError) -> None:
        """Notes how it failed, if that concerns those who wait."""
        if not isinstance(error, _OF_ONE_CALLER):
            self.error = error


class Flights:
    """The flights of one cache. The lock of its `Holdings` guards them."""

    def __init__(self) -> None:
        """Has none."""
        self._open: dict[OpeningName | SealingName, Flight] = {}
        self._clusters: dict[str, set[Flight]] = {}

    def of(self, name: OpeningName | SealingName) -> Flight | None:
        """Returns the flight that will bring a key, and that others may share."""
        return self._open.get(name)

    def add(self, flight: Flight, *, alone: bool) -> None:
        """Adds one that begins, in the place of another that takes nobody on board any more."""
        self._clusters.setdefault(flight.name[0], set()).add(flight)
        if not alone:
            before = self._open.get(flight.name)
            self._open[flight.name] = flight
            if before is not None and not flight.began.before(before.ends):
                # Its caller died where nothing could note that, or is only late: then it must
                # bring nothing into memory, since from here on it hears no news.
                before.overtaken = True
                self._forget(before)

    def land(self, flight: Flight) -> None:
        """Notes that one has ended, however, and wakes who waits for it."""
        flight.landed = True
        if self._open.get(flight.name) is flight:
            del self._open[flight.name]
        if not flight.waiting:
            self._forget(flight)
        for wake in flight.wake:
            wake()

    def left(self, flight: Flight) -> None:
        """Notes that one who waited does so no more."""
        flight.waiting -= 1
        if flight.landed and not flight.waiting:
            self._forget(flight)

    def overtake(
        self, cluster: str, region: str | None = None, *, told: bool, but: Flight | None = None
    ) -> None:
        """Notes that what was known of a cluster, or of a region of it, does not count any more.

        Args:
            cluster: The cluster.
            region: The region; None: all of them.
            told: Whether the watch has told so.
            but: The flight that has found out.
        """
        for flight in self._clusters.get(cluster, ()):
            if flight is not but and (region is None or flight.region in (None, region)):
                flight.overtaken = True
                flight.told |= told

    def overtake_all(self) -> None:
        """Notes that nothing of what was known counts any more."""
        for flights in self._clusters.values():
            for flight in flights:
                flight.overtaken = True

    def _forget(self, flight: Flight) -> None:
        flights = self._clusters.get(flight.name[0], set())
        flights.discard(flight)
        if not flights:
            self._clusters.pop(flight.name[0], None)
