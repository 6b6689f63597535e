"""What a cache of data keys may use from memory, with clocks and news that the tests tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import pytest

import keyfold
from key_caching import (
    BOUNDS,
    LIMITS,
    NO_CONTEXT,
    SECRET,
    Clocks,
    answered,
    beat,
    begin,
    fetch,
    name,
    nobody,
    region,
    served,
    state,
    watched,
    wrapped,
)
from keyfold.caching.flights import Sealing
from keyfold.caching.holdings import Holdings, Seat
from keyfold.caching.keys import SealingName, made
from keyfold.caching.limits import UNWATCHED_AGE
from keyfold.caching.reader import Endings
from keyfold.calls import watch as calls


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Gives the clocks that the client sees."""
    made = Clocks()
    monkeypatch.setattr(calls, "clock", lambda: made.monotonic)
    monkeypatch.setattr(calls, "wall", lambda: made.wall)
    return made


def test_a_key_is_served_until_something_is_told_of_its_cluster(clocks: Clocks) -> None:
    """R2: whatever the message says, the key is wiped; another cluster's message means nothing."""
    holdings = watched()
    held = fetch(holdings)
    assert served(holdings)
    holdings.tell(keyfold.ClusterState("other", exists=False), calls.NEVER)
    assert served(holdings)
    holdings.tell(state(), calls.NEVER)
    assert not served(holdings)
    assert bytes(held.secret) == bytes(32)
    assert len(holdings) == 0


@pytest.mark.parametrize(
    "news",
    [state(epoch=1), state(exists=False), state(region(state=keyfold.State.REVOKED))],
    ids=["enabled again", "gone", "revoked"],
)
def test_an_answer_after_the_news_is_not_kept(clocks: Clocks, news: keyfold.ClusterState) -> None:
    """R2: a call that began before the news brings no key into the cache.

    Nobody gets the key if the news took it out of service; else its own caller's use ends well.
    """
    holdings = watched()
    flight = begin(holdings)
    holdings.tell(news, calls.NEVER)
    held = answered(holdings, flight)
    assert not served(holdings)
    if news.exists and news.regions[0].state is keyfold.State.ENABLED:
        assert held is not None
        assert bytes(held.secret) == SECRET
        holdings.give_back(held)
        assert bytes(held.secret) == bytes(32)
    else:
        assert held is None


@pytest.mark.parametrize(
    "news",
    [
        state(exists=False),
        state(banned=True),
        state(not_authentic=True),
        state(region(state=keyfold.State.REVOKED)),
        state(region(state=keyfold.State.DELETED)),
        state(region(state=keyfold.State.UNSPECIFIED)),
        state(region(health=keyfold.Health.KEY_DISABLED)),
        state(region(health=keyfold.Health.ACCESS_DENIED)),
        state(region(health=keyfold.Health.UNSPECIFIED)),
        state(region(cache_ttl=timedelta())),
        state(region("us", generations=(keyfold.GenerationState(2, b"4" * 16, retired=False),))),
        state(region(generations=(keyfold.GenerationState(2, b"2" * 16, retired=True),))),
        state(region(generations=(keyfold.GenerationState(1, b"1" * 16, retired=False),))),
    ],
)
def test_no_key_is_kept_of_what_is_out_of_service(
    clocks: Clocks, news: keyfold.ClusterState
) -> None:
    """A server that is behind may still answer; its answer is used once, and not kept."""
    holdings = watched()
    holdings.tell(news, calls.NEVER)
    fetch(holdings)
    assert not served(holdings)


@pytest.mark.parametrize("health", ["UNKNOWN", "UNREACHABLE", "THROTTLED", "CREDENTIALS_FAILED"])
def test_could_not_tell_is_no_refusal(clocks: Clocks, health: str) -> None:
    """An outage of the customer's KMS takes no key away before its time."""
    holdings = watched()
    holdings.tell(state(region(health=keyfold.Health(health))), calls.NEVER)
    fetch(holdings)
    assert served(holdings)


def test_nothing_is_kept_of_a_cluster_that_was_not_told_of(clocks: Clocks) -> None:
    """Where no news would come, no key stays."""
    holdings = Holdings(LIMITS)
    holdings.begin(watched=True)
    beat(holdings)
    fetch(holdings)
    assert not served(holdings)


def test_time_counts_by_the_clock_that_shows_more(clocks: Clocks) -> None:
    """S3: neither a paused machine nor a clock that is set back makes a key live longer."""
    holdings = watched()
    fetch(holdings)
    clocks.wall -= 3_600.0
    assert served(holdings)
    clocks.monotonic += 59.0
    assert served(holdings)
    clocks.monotonic += 1.0
    assert not served(holdings)
    fetch(holdings)
    clocks.wall += 60.0  # The monotonic clock stood still: the machine was paused.
    assert not served(holdings)


def test_the_news_ages_by_the_clock_that_shows_more(clocks: Clocks) -> None:
    """R8, S3: a machine that was paused asks the server until news has come."""
    holdings = watched()
    beat(holdings, 20.0)
    held = fetch(holdings)
    clocks.wall += 20.0
    assert not served(holdings)
    assert not holdings.serving
    beat(holdings, 20.0)
    assert served(holdings)
    clocks.monotonic += 20.0
    assert not served(holdings)
    assert bytes(held.secret) == SECRET  # It is there yet: nothing was told of its cluster.


def test_age_counts_from_the_beginning_of_the_call(clocks: Clocks) -> None:
    """A call that takes long uses up the time of its key."""
    holdings = watched()
    flight = begin(holdings)
    clocks.advance(59.0)
    held = answered(holdings, flight)
    assert held is not None
    holdings.give_back(held)
    assert served(holdings)
    clocks.advance(1.0)
    assert not served(holdings)


@pytest.mark.parametrize(("age", "kept"), [(0.0, 0.0), (60.0, 60.0), (1e9, 300.0)])
def test_the_shorter_age_holds(clocks: Clocks, age: float, kept: float) -> None:
    """The server's max_cache_age and the cache's own bound it; at 0 nothing is kept."""
    holdings = watched()
    fetch(holdings, age=age)
    assert served(holdings) == (kept > 0)
    clocks.advance(kept)
    assert not served(holdings)


def test_the_key_used_least_recently_makes_room(clocks: Clocks) -> None:
    """The number of keys is bounded, and one that has to go is wiped."""
    holdings = watched()
    held = {key: fetch(holdings, key) for key in (b"a", b"b", b"c")}
    assert served(holdings, b"a")
    fetch(holdings, b"d")
    assert len(holdings) == 3
    assert not served(holdings, b"b")
    assert bytes(held[b"b"].secret) == bytes(32)
    assert all(served(holdings, key) for key in (b"a", b"c", b"d"))


def test_uses_are_bounded(clocks: Clocks) -> None:
    """After so many uses the server is asked again, and so knows of the key's use."""
    holdings = watched(LIMITS._replace(max_uses=3))
    fetch(holdings)
    assert [served(holdings) for _ in range(3)] == [True, True, False]


def test_a_key_in_use_is_wiped_by_its_last_user(clocks: Clocks) -> None:
    """Nobody encrypts with zeros: what has begun ends with the key."""
    holdings = watched()
    fetch(holdings)
    first, second = holdings.to_open(name()), holdings.to_open(name())
    assert first is not None
    assert first is second
    holdings.tell(state(region(state=keyfold.State.REVOKED)), calls.NEVER)
    assert not served(holdings)
    holdings.give_back(first)
    assert bytes(first.secret) == SECRET
    holdings.give_back(first)
    assert bytes(first.secret) == bytes(32)


def test_keys_whose_time_is_over_are_wiped_without_a_use(clocks: Clocks) -> None:
    """Each heartbeat wipes what is too old, and so does the time without a watch."""
    holdings = watched()
    held = fetch(holdings)
    clocks.advance(60.0)
    beat(holdings)
    assert bytes(held.secret) == bytes(32)
    held = fetch(holdings)
    clocks.advance(60.0)
    holdings.tidy()
    assert bytes(held.secret) == bytes(32)
    beat(holdings, 1_000.0)
    held = fetch(holdings)
    clocks.wall += 60.0  # As while a machine is paused.
    holdings.tidy()
    assert bytes(held.secret) == bytes(32)


def test_a_stream_that_is_away_has_a_grace(clocks: Clocks) -> None:
    """Keys serve for the grace and no longer, until a stream that has caught up is there."""
    holdings = watched()
    fetch(holdings)
    holdings.away()
    clocks.advance(9.9)
    assert served(holdings)
    clocks.advance(0.1)
    assert not served(holdings)
    behind = keyfold.Heartbeat(None, timedelta(seconds=120), 0)
    holdings.tell(behind, calls.moment().after(60.0))
    assert not served(holdings)
    beat(holdings)
    assert served(holdings)


def test_a_watch_that_begins_anew_counts_nothing_from_before(clocks: Clocks) -> None:
    """What was told before, and what a call asked before, is gone with the old watch."""
    holdings = watched()
    held = fetch(holdings)
    flight = begin(holdings, b"x")
    holdings.begin(watched=True)
    holdings.tell(state(), calls.NEVER)
    beat(holdings)
    assert bytes(held.secret) == bytes(32)
    assert answered(holdings, flight) is not None
    assert len(holdings) == 0
    flight = begin(holdings, b"x")
    holdings.begin(watched=False)
    assert answered(holdings, flight) is not None
    assert len(holdings) == 0


def test_without_a_watch_ages_are_short(clocks: Clocks) -> None:
    """A key lives for 5 s, and not at all where the server says 0."""
    holdings = Holdings(LIMITS)
    fetch(holdings)
    assert not served(holdings)  # Nobody knows yet whether there is a watch.
    holdings.begin(watched=False)
    fetch(holdings, age=0.0)
    assert not served(holdings)
    fetch(holdings)
    clocks.advance(UNWATCHED_AGE - 0.1)
    assert served(holdings)
    clocks.advance(0.1)
    assert not served(holdings)


@pytest.mark.parametrize(
    ("make", "dropped"),
    [
        (keyfold.RevokedError, True),
        (keyfold.KeyDisabledError, True),
        (keyfold.ClusterNotFoundError, True),
        (keyfold.ContextMismatchError, False),
        (keyfold.UnavailableError, False),
        (keyfold.UnreachableError, False),
    ],
)
def test_a_refusal_counts_ahead_of_the_watch(
    clocks: Clocks, make: Callable[..., keyfold.KeyfoldError], *, dropped: bool
) -> None:
    """A server that answers "revoked" empties the region at once; an outage empties nothing."""
    holdings = watched()
    fetch(holdings)
    holdings.failed(begin(holdings, b"x"), make("no", metadata={"region": "us"}))
    assert served(holdings)
    holdings.failed(begin(holdings, b"x"), make("no", metadata={"region": "eu"}))
    assert served(holdings) != dropped


def test_a_key_that_seals_is_bounded(clocks: Clocks) -> None:
    """Messages, bytes and age end its sealing, whichever comes first; it opens all the same."""
    holdings = watched()
    sealing: SealingName = ("acme", "eu", NO_CONTEXT)
    # The region's cache_ttl bounds it, too.
    holdings.tell(state(region(cache_ttl=timedelta(seconds=600))), calls.NEVER)

    def make(size: int = 1) -> None:
        answer = keyfold.DataKey(keyfold.Plaintext(SECRET), wrapped(b"w"), 2)
        request = Sealing(sealing, calls.moment(), size, BOUNDS, alone=True)
        seat = holdings.board(request, 10.0, nobody)
        assert isinstance(seat, Seat)
        held = made(sealing, answer)
        assert holdings.landed(seat.flight, held, 600.0)
        holdings.give_back(held)

    def seals(size: int = 1) -> bool:
        held = holdings.to_seal(sealing, size, BOUNDS)
        if held is not None:
            holdings.give_back(held)
        return held is not None

    make()
    assert [seals() for _ in range(3)] == [True, True, False]
    make(60)
    assert [seals(41), seals(40), seals(1)] == [False, True, False]
    make()
    clocks.advance(60.0)
    assert not seals()
    assert served(holdings)
    make()
    holdings.tell(state(), calls.NEVER)
    assert not seals()


def test_a_closed_cache_keeps_nothing(clocks: Clocks) -> None:
    """Closing wipes every key, and a call that is under way brings none."""
    holdings = watched()
    held = fetch(holdings)
    flight = begin(holdings, b"late")
    holdings.close()
    assert bytes(held.secret) == bytes(32)
    late = answered(holdings, flight)
    assert late is not None
    assert len(holdings) == 0
    holdings.give_back(late)
    assert bytes(late.secret) == bytes(32)
    with pytest.raises(keyfold.ClosedError, match=r"^cluster acme: the cache is closed"):
        begin(holdings)
    with pytest.raises(keyfold.ClosedError, match=r"^cluster acme: "):
        holdings.depart([name()], 10.0)


def test_bounds_are_checked() -> None:
    """A bound that would keep nothing at all is a mistake."""
    for wrong in ({"max_keys": 0}, {"max_age": 0.0}, {"max_uses": 0}, {"grace": -1.0}):
        with pytest.raises(ValueError, match="max_keys"):
            LIMITS._replace(**wrong).checked()


def test_a_forked_child_has_no_key() -> None:
    """What another thread held at the fork does not hang the child, which gets a clear error."""
    holdings = watched()
    held = fetch(holdings)
    reading, writing = os.pipe()
    holdings._lock.acquire()  # As a thread that does not exist in the child.
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"" if holdings.to_open(name()) is None else b"a key, ")
            os.write(writing, b"" if bytes(held.secret) == bytes(32) else b"a secret, ")
            begin(holdings)
        except keyfold.ForkedError as error:
            told = "after the fork" in str(error) and error.cluster == name()[0]
            os.write(writing, b"forked" if told else b"")
        finally:
            os._exit(0)
    holdings._lock.release()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"forked"
    os.waitpid(child, 0)
    assert served(holdings)


@pytest.mark.parametrize(
    ("error", "watched"),
    [
        (keyfold.WatchTooSlowError("slow"), None),
        (keyfold.UnavailableError("away"), None),
        (keyfold.UnauthenticatedError("expired"), None),
        (keyfold.ForbiddenError("no"), False),
        (keyfold.UnimplementedError("old"), False),
    ],
)
def test_what_ends_a_watch(error: keyfold.KeyfoldError, *, watched: bool | None) -> None:
    """A cache goes without a watch only if there can be none, not if one was cut off."""
    holdings = Holdings(LIMITS)
    Endings(holdings).ended(error)
    assert holdings.watched is watched
