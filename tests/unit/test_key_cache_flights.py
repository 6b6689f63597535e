"""Who may share a call for a data key, with clocks and news that the tests tell."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import keyfold
from key_caching import (
    BOUNDS,
    LIMITS,
    NO_CONTEXT,
    SECRET,
    Clocks,
    Waiter,
    answered,
    begin,
    fetch,
    nobody,
    region,
    served,
    state,
    watched,
)
from keyfold.caching.flights import Flight, Opening, Sealing
from keyfold.caching.holdings import Seat
from keyfold.caching.keys import HeldKey, SealingName
from keyfold.calls import watch as calls

UNAVAILABLE: Final = keyfold.UnavailableError("away")
REVOKED: Final = keyfold.RevokedError("no")


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Gives the clocks that the client sees."""
    made = Clocks()
    monkeypatch.setattr(calls, "clock", lambda: made.monotonic)
    monkeypatch.setattr(calls, "wall", lambda: made.wall)
    return made


def test_who_misses_the_same_key_waits_for_one_call(clocks: Clocks) -> None:
    """64 callers make one call, share its key, and the last one leaves it as memory has it."""
    holdings = watched()
    flight = begin(holdings)
    waiters = [Waiter(holdings, b"w") for _ in range(63)]
    assert not any(each.woken for each in waiters)
    held = answered(holdings, flight)
    assert held is not None
    assert all(each.woken for each in waiters)
    for each in waiters:
        assert holdings.alight(each.flight, each.request) is held
    assert (held.users, held.uses_left) == (64, LIMITS.max_uses - 64)
    holdings.tell(state(), calls.NEVER)
    for _ in range(64):
        assert bytes(held.secret) == SECRET
        holdings.give_back(held)
    assert bytes(held.secret) == bytes(32)


def test_an_error_is_shared_and_not_remembered(clocks: Clocks) -> None:
    """Who waits gets the same error as a value of its own; the next caller makes a call."""
    holdings = watched()
    flight = begin(holdings)
    waiter = Waiter(holdings, b"w")
    error = keyfold.RevokedError("no", metadata={"region": "eu"})
    holdings.failed(flight, error)
    with pytest.raises(keyfold.RevokedError) as raised:
        holdings.alight(waiter.flight, waiter.request)
    assert raised.value is not error
    assert (raised.value.message, raised.value.region) == ("no", "eu")
    begin(holdings)


@pytest.mark.parametrize(
    "error", [keyfold.DeadlineError("late"), keyfold.CancelledError("gone"), None]
)
def test_who_waits_makes_the_call_that_another_gave_up(
    clocks: Clocks, error: keyfold.KeyfoldError | None
) -> None:
    """W1: one caller's lack of time, or its death, is nobody else's error."""
    holdings = watched()
    flight = begin(holdings)
    first, second = Waiter(holdings, b"w"), Waiter(holdings, b"w")
    if error is not None:
        holdings.failed(flight, error)
    holdings.leave(flight)
    assert first.woken
    assert holdings.alight(first.flight, first.request) is None
    place = holdings.board(first.request, 10.0, nobody)
    assert isinstance(place, Seat)
    assert place.leads
    assert holdings.alight(second.flight, second.request) is None
    place = holdings.board(second.request, 10.0, nobody)
    assert isinstance(place, Seat)
    assert not place.leads


def test_nobody_waits_for_a_call_beyond_its_deadline(clocks: Clocks) -> None:
    """A caller that died where nothing could note it holds nobody for ever.

    If it comes to life again, its answer is not kept: it may be older than news of the cluster.
    """
    holdings = watched()
    flight = begin(holdings)
    assert 10.0 < flight.left < 15.0
    clocks.advance(15.0)
    assert flight.left == 0.0
    again = begin(holdings)
    assert again is not flight
    holdings.tell(state(), calls.NEVER)
    held = answered(holdings, flight)
    assert held is not None
    assert len(holdings) == 0
    assert answered(holdings, again) is not None


def test_a_call_that_was_overtaken_takes_nobody_on_board(clocks: Clocks) -> None:
    """R2: it answers nobody who waits for it, and who comes after the news begins another."""
    holdings = watched()
    flight = begin(holdings)
    before = Waiter(holdings, b"w")
    holdings.tell(state(), calls.NEVER)
    after = begin(holdings)
    assert after is not flight
    assert answered(holdings, flight) is not None
    assert before.woken
    assert holdings.alight(before.flight, before.request) is None
    assert not served(holdings)
    assert answered(holdings, after) is not None
    assert served(holdings)


def test_a_key_is_not_lent_if_news_of_it_comes_before_who_waits_has_looked(
    clocks: Clocks,
) -> None:
    """R2: between the landing and the look lies time, too."""
    holdings = watched()
    flight = begin(holdings)
    waiter = Waiter(holdings, b"w")
    assert answered(holdings, flight) is not None
    holdings.tell(state(region(state=keyfold.State.REVOKED)), calls.NEVER)
    assert holdings.alight(waiter.flight, waiter.request) is None


def test_a_refusal_overtakes_the_calls_that_are_under_way(clocks: Clocks) -> None:
    """R2: a server that is behind brings nothing into memory that another one has refused."""
    holdings = watched()
    behind, elsewhere = begin(holdings, b"behind"), begin(holdings, b"elsewhere")
    us = keyfold.RevokedError("no", metadata={"region": "us"})
    holdings.failed(begin(holdings, b"other"), us)
    assert answered(holdings, elsewhere) is not None
    assert served(holdings, b"elsewhere")
    holdings.failed(begin(holdings, b"other"), keyfold.RevokedError("no"))
    assert answered(holdings, behind) is not None
    assert not served(holdings, b"behind")


def test_where_each_use_asks_each_call_begins_after_the_use(clocks: Clocks) -> None:
    """R8: without good news nobody shares a call that began before; those who wait share one."""
    holdings = watched()
    clocks.advance(2_000.0)
    assert not holdings.serving
    flight = begin(holdings)
    clocks.advance(0.001)
    first, second = Waiter(holdings, b"w"), Waiter(holdings, b"w")
    assert answered(holdings, flight) is not None
    assert holdings.alight(first.flight, first.request) is None
    assert holdings.alight(second.flight, second.request) is None
    place = holdings.board(first.request, 10.0, nobody)
    assert isinstance(place, Seat)
    assert place.leads
    joined = holdings.board(second.request, 10.0, nobody)
    assert joined == Seat(place.flight, leads=False)
    held = answered(holdings, place.flight)
    assert held is not None
    assert holdings.alight(place.flight, second.request) is held
    for _ in range(2):
        assert bytes(held.secret) == SECRET
        holdings.give_back(held)
    assert bytes(held.secret) == bytes(32)


def test_at_ttl_0_nobody_shares(clocks: Clocks) -> None:
    """F1: each use reaches the customer's KMS, whether the news or only the answer says so."""
    holdings = watched()
    flight = begin(holdings)
    waiter = Waiter(holdings, b"w")
    assert answered(holdings, flight, age=0.0) is not None
    assert holdings.alight(waiter.flight, waiter.request) is None
    place = holdings.board(waiter.request, 10.0, nobody)
    assert isinstance(place, Seat)
    begin(holdings)  # It is not there to be shared.
    holdings.tell(state(region(cache_ttl=timedelta())), calls.NEVER)
    begin(holdings, b"other")
    begin(holdings, b"other")


def test_those_who_wait_count_against_the_bounds(clocks: Clocks) -> None:
    """A call takes no more callers than its key serves; the next one begins another."""
    holdings = watched(LIMITS._replace(max_uses=2))
    first = begin(holdings)
    Waiter(holdings, b"w")
    assert begin(holdings) is not first
    holdings = watched()
    sealing: SealingName = ("acme", "eu", NO_CONTEXT)

    def seal(size: int) -> bool:
        """Returns whether a caller who seals so many bytes makes a call."""
        request = Sealing(sealing, calls.moment(), size, BOUNDS)
        place = holdings.board(request, 10.0, nobody)
        assert isinstance(place, Seat)
        return place.leads

    assert [seal(60), seal(41), seal(59), seal(1)] == [True, True, False, True]
    assert [seal(1), seal(1), seal(1)] == [False, False, True]


def test_a_lagging_servers_answers_count_only_for_the_cluster_of_the_news(clocks: Clocks) -> None:
    """D5, R8: a later cluster of the name has other keys, and a shorter cache_ttl holds at once."""
    holdings = watched()
    other = b"\x01\x01" + b"3" * 16
    seat = holdings.board(Opening(("acme", other, NO_CONTEXT), calls.moment()), 10.0, nobody)
    assert isinstance(seat, Seat)
    assert answered(holdings, seat.flight) is not None  # As generation 2 of region eu.
    assert len(holdings) == 0
    holdings.tell(state(region(cache_ttl=timedelta(seconds=10))), calls.NEVER)
    fetch(holdings, age=300.0)
    clocks.advance(10.0)
    assert not served(holdings)


def test_keys_are_wiped_while_no_server_is_there(clocks: Clocks) -> None:
    """However long the stream stays away, no key is in memory beyond its time."""
    holdings = watched()
    held = fetch(holdings)
    holdings.away()
    clocks.advance(60.0)
    holdings.away()
    assert bytes(held.secret) == bytes(32)


class AnyOrder(RuleBasedStateMachine):
    """Callers, servers and news of one cluster, in any order.

    R2: who is lent a key that its own call did not bring has one from after the newest news. Nobody
    is lent zeros, or by its own call what was taken out of service since. Nobody waits for a call
    that has ended. Every key ends wiped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.holdings = watched(LIMITS._replace(max_keys=2))
        self.serial, self.enabled = 0, True
        self.began: dict[Flight, int] = {}
        self.brought: dict[HeldKey, int] = {}
        self.leading: list[Flight] = []
        self.waiting: list[Waiter] = []
        self.used: list[HeldKey] = []

    def lent(self, held: HeldKey) -> None:
        """A caller gets a key that another call brought."""
        assert self.brought[held] == self.serial
        assert self.enabled
        self.used.append(held)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def ask(self, key: bytes) -> None:
        waiter = Waiter(self.holdings, key)
        if isinstance(waiter.place, HeldKey):
            self.lent(waiter.place)
        elif waiter.place.leads:
            self.leading.append(waiter.place.flight)
            self.began[waiter.place.flight] = self.serial
        else:
            self.waiting.append(waiter)

    @precondition(lambda self: self.leading)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        flight = self.leading.pop(data.draw(st.integers(0, len(self.leading) - 1)))
        held = answered(self.holdings, flight)
        if held is None:
            assert self.began[flight] < self.serial
            assert not self.enabled
        else:
            self.used.append(held)
            self.brought[held] = self.began[flight]

    @precondition(lambda self: self.leading)
    @rule(data=st.data(), error=st.sampled_from([None, UNAVAILABLE, REVOKED]))
    def fail(self, data: st.DataObject, error: keyfold.KeyfoldError | None) -> None:
        flight = self.leading.pop(data.draw(st.integers(0, len(self.leading) - 1)))
        if error is not None:
            self.holdings.failed(flight, error)
        if error is REVOKED:
            self.serial += 1
            self.began[flight] += 1
        self.holdings.leave(flight)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), gives_up=st.booleans())
    def alight(self, data: st.DataObject, *, gives_up: bool) -> None:
        waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert waiter.woken == waiter.flight.landed
        if gives_up:
            self.holdings.give_up(waiter.flight)
            return
        try:
            held = self.holdings.alight(waiter.flight, waiter.request)
        except (keyfold.UnavailableError, keyfold.RevokedError):
            assert self.began[waiter.flight] == self.serial
        else:
            if held is not None:
                self.lent(held)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.holdings.give_back(self.used.pop(data.draw(st.integers(0, len(self.used) - 1))))

    @rule(enabled=st.booleans())
    def tell(self, *, enabled: bool) -> None:
        self.serial, self.enabled = self.serial + 1, enabled
        word = keyfold.State.ENABLED if enabled else keyfold.State.REVOKED
        self.holdings.tell(state(region(state=word)), calls.NEVER)

    @invariant()
    def nobody_has_zeros(self) -> None:
        assert all(bytes(each.secret) == SECRET for each in self.used)
        assert len(self.holdings) <= 2

    def teardown(self) -> None:
        for waiter in self.waiting:
            self.holdings.give_up(waiter.flight)
        for flight in self.leading:
            self.holdings.leave(flight)
        for held in self.used:
            self.holdings.give_back(held)
        self.holdings.close()
        assert not any(any(held.secret) for held in self.brought)
        assert not self.holdings._flights._open
        assert not self.holdings._flights._clusters


TestAnyOrder = AnyOrder.TestCase
