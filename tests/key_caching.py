"""Holdings of a cache of data keys, with clocks and news that the tests tell."""

from __future__ import annotations

from datetime import timedelta

import keyfold
from keyfold.caching.flights import Flight, Opening
from keyfold.caching.holdings import Holdings, Seat
from keyfold.caching.keys import HeldKey, OpeningName, opened
from keyfold.caching.limits import Limits
from keyfold.calls import watch as calls
from keyfold.envelope.keys import Bounds

SECRET = bytes(range(32))
LIMITS = Limits(max_keys=3, max_age=300.0, max_uses=1_000, grace=10.0)
BOUNDS = Bounds(max_messages=3, max_bytes=100, max_age=60.0)
NO_CONTEXT: frozenset[tuple[str, str]] = frozenset()


class Clocks:
    """Both clocks of the client, which stand still."""

    def __init__(self) -> None:
        self.monotonic = 1_000.0
        self.wall = 1_800_000_000.0

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


def region(name: str = "eu", **changed: object) -> keyfold.RegionState:
    """Returns a region in service, with one retired generation."""
    fields: dict[str, object] = {
        "state": keyfold.State.ENABLED,
        "health": keyfold.Health.HEALTHY,
        "generations": (
            keyfold.GenerationState(1, b"1" * 16, retired=True),
            keyfold.GenerationState(2, b"2" * 16, retired=False),
        ),
        "cache_ttl": timedelta(seconds=60),
    }
    return keyfold.RegionState(name, **(fields | changed))  # type: ignore[arg-type]


def state(*regions: keyfold.RegionState, **changed: object) -> keyfold.ClusterState:
    """Returns the state of a cluster in service."""
    fields: dict[str, object] = {"uid": b"u", "exists": True, "regions": regions or (region(),)}
    return keyfold.ClusterState("acme", **(fields | changed))  # type: ignore[arg-type]


def beat(holdings: Holdings, seconds: float = 60.0) -> None:
    """Tells that the news may be relied on for a while."""
    sign = keyfold.Heartbeat(timedelta(), timedelta(seconds=120), 0)
    holdings.tell(sign, calls.moment().after(seconds))


def watched(limits: Limits = LIMITS) -> Holdings:
    """Returns holdings whose watch has told of cluster `acme`."""
    holdings = Holdings(limits)
    holdings.begin(watched=True)
    holdings.tell(state(), calls.NEVER)
    beat(holdings, 1_000.0)
    return holdings


def wrapped(key: bytes, generation: int = 2) -> bytes:
    """Returns a wrapped key of a generation of `acme`."""
    return b"\x01\x01" + bytes(str(generation), "ascii") * 16 + key


def name(key: bytes = b"w", generation: int = 2) -> OpeningName:
    """Returns what names a key."""
    return ("acme", wrapped(key, generation), NO_CONTEXT)


def nobody() -> None:
    """Wakes nobody."""


def begin(holdings: Holdings, key: bytes = b"w", *, alone: bool = False) -> Flight:
    """Begins the call for a key."""
    seat = holdings.board(Opening(name(key), calls.moment(), alone), 10.0, nobody)
    assert isinstance(seat, Seat)
    assert seat.leads
    return seat.flight


def answered(holdings: Holdings, flight: Flight, *, age: float = 60.0) -> HeldKey | None:
    """Takes the answer to the Unwrap that a flight is; None: its caller may not have it."""
    where = flight.name
    assert isinstance(where[1], bytes)
    answer = keyfold.Unwrapped(keyfold.Plaintext(SECRET), "eu", 2)
    held = opened((where[0], where[1], where[2]), answer)
    good = holdings.landed(flight, held, age)
    holdings.leave(flight)
    return held if good else None


def fetch(holdings: Holdings, key: bytes = b"w", *, age: float = 60.0) -> HeldKey:
    """Asks for a key, and ends its first use."""
    held = answered(holdings, begin(holdings, key), age=age)
    assert held is not None
    holdings.give_back(held)
    return held


def served(holdings: Holdings, key: bytes = b"w") -> bool:
    """Returns whether memory serves a key now."""
    held = holdings.to_open(name(key))
    if held is None:
        return False
    assert bytes(held.secret) == SECRET
    holdings.give_back(held)
    return True


class Waiter:
    """A caller who wants a key."""

    def __init__(self, holdings: Holdings, key: bytes) -> None:
        self.request = Opening(name(key), calls.moment())
        self.woken = False
        self.place = holdings.board(self.request, 10.0, self._wake)

    @property
    def flight(self) -> Flight:
        """The call that it waits for."""
        assert isinstance(self.place, Seat)
        assert not self.place.leads
        return self.place.flight

    def _wake(self) -> None:
        self.woken = True
