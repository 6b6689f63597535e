"""When a session is renewed, who renews it, and what it means when that fails.

The rules are those of `Lease`; that every provider keeps them, `contract/test_lease.py` shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest

from fakes import FakeClock
from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.shared.deadlines import current, within
from keyfold_server.providers.shared.lease import AHEAD, CLOCK_MARGIN, LONGEST, PAUSE, Lease
from keyfold_server.providers.shared.logins import Granted, RejectedError, WithdrawnError

_HOUR: Final = 3_600.0
_DUE: Final = LONGEST - 60.0
"""Seconds after which a session is due for renewal, and still good."""

_CALLERS: Final = 16
_DENIED: Final = AccessDeniedError("the customer withdrew")
_DOUBT: Final = CredentialsFailedError("perhaps it is us")
_REJECTED: Final = RejectedError(CredentialsFailedError("rejected"))


@dataclass
class Site:
    """A provider that gives numbered sessions, or fails as a test demands.

    Attributes:
        lasts: Seconds that a session lasts, as the provider says.
        fails: The error that the next logins raise, or None.
        good: Whether Keyfold's own side is good.
        held: The event that a login waits for, or None.
        logins: The number of logins so far.
        rejected: The rejected session that each login got, or None.
        remaining: The seconds that each login's call had left.
        entered: The event that each login sets.
    """

    lasts: float = _HOUR
    fails: Exception | None = None
    good: bool = True
    held: threading.Event | None = None
    logins: int = 0
    rejected: list[str | None] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    clock: FakeClock = field(default_factory=FakeClock)

    def login(self, rejected: str | None) -> Granted[str]:
        self.logins += 1
        number = self.logins
        self.rejected.append(rejected)
        self.remaining.append(current().ends - time.monotonic())
        self.entered.set()
        if self.held is not None:
            self.held.wait(10.0)
        if self.fails is not None:
            raise self.fails
        return Granted(f"session-{number}", self.lasts)

    def lease(self, clock: Callable[[], float] | None = None) -> Lease[str]:
        return Lease(
            self.login,
            clock=clock or self.clock.monotonic,
            name="t/c",
            kind="principal",
            shown_good=lambda _: self.good,
        )


@pytest.fixture
def site() -> Site:
    """A provider."""
    return Site()


@pytest.fixture(autouse=True)
def _call() -> Iterator[None]:
    """Makes each test a call of its own."""
    with within(10.0):
        yield


# How long a session is used.


@pytest.mark.parametrize("lasts", [_HOUR, 24 * _HOUR, 15 * 60.0, 120.0, 30.0])
def test_a_session_is_renewed_ahead_of_its_end(site: Site, lasts: float) -> None:
    """Renewal comes within ten minutes, well before the end, after half of the time (F2a)."""
    site.lasts = lasts
    most = min(lasts, LONGEST)
    for _ in range(20):
        lease, before = site.lease(), site.logins
        session = lease.fresh()
        site.clock.advance(most * 0.5)
        assert lease.fresh() == session
        site.clock.advance(most * 0.3)
        assert lease.fresh() != session
        assert site.logins == before + 2


def test_sessions_that_began_together_are_not_renewed_together(site: Site) -> None:
    """The time of a renewal differs at random, by up to an eighth."""
    leases = [site.lease() for _ in range(50)]
    for each in leases:
        each.fresh()
    before = site.logins
    site.clock.advance(AHEAD * 0.94)
    for each in leases:
        each.fresh()
    assert 0 < site.logins - before < len(leases)


@pytest.mark.parametrize(
    ("lasts", "most"),
    [(_HOUR, LONGEST), (LONGEST, LONGEST - CLOCK_MARGIN), (120.0, 100.0), (30.0, 25.0)],
)
def test_a_session_is_not_used_beyond_its_end(site: Site, lasts: float, most: float) -> None:
    """A session serves ten minutes at most, and ends a little before the provider's end (F2a)."""
    site.lasts = lasts
    lease = site.lease()
    session = lease.fresh()
    site.fails = UnreachableError("down")
    site.clock.advance(most - 1.0)
    assert lease.fresh() == session
    site.clock.advance(1.0)
    with pytest.raises(UnreachableError):
        lease.fresh()
    site.fails = None
    assert lease.fresh() != session


@pytest.mark.parametrize("lasts", [0.0, -_HOUR])
def test_a_session_that_is_over_already_serves_its_own_call(site: Site, lasts: float) -> None:
    """Where the provider's clock and ours disagree, each call logs in, and none fails for it."""
    site.lasts = lasts
    lease = site.lease()
    assert [lease.fresh() for _ in range(3)] == ["session-1", "session-2", "session-3"]


def test_an_identity_that_no_customer_can_withdraw_may_serve_longer(site: Site) -> None:
    """The identity's session is renewed as often, and serves to its end while renewals fail."""
    lease = Lease(site.login, clock=site.clock.monotonic, longest=float("inf"))
    lease.fresh()
    site.fails = UnreachableError("down")
    site.clock.advance(LONGEST)
    assert lease.fresh() == "session-1"
    assert site.logins == 2
    site.clock.advance(_HOUR - CLOCK_MARGIN - LONGEST)
    with pytest.raises(UnreachableError):
        lease.fresh()


# When renewing ahead fails.


@pytest.mark.parametrize(
    "error", [UnreachableError("down"), ThrottledError("slow"), CredentialsFailedError("ours")]
)
def test_a_renewal_that_could_not_tell_fails_no_call(site: Site, error: KmsError) -> None:
    """The session serves on, and nobody tries again before the pause is over."""
    lease = site.lease()
    lease.fresh()
    site.fails = error
    site.clock.advance(_DUE)
    for _ in range(5):
        assert lease.fresh() == "session-1"
    assert site.logins == 2
    site.clock.advance(PAUSE)
    lease.fresh()
    assert site.logins == 3


def test_a_renewal_ahead_takes_half_of_the_call_at_most(site: Site) -> None:
    """A login that hangs or drips leaves the call time for the session that there is (C4)."""
    lease = site.lease()
    lease.fresh()
    site.clock.advance(_DUE)
    with within(4.0):
        lease.fresh()
        assert current().remaining() > 3.0
    assert 1.0 < site.remaining[1] <= 2.0


def test_a_call_without_time_uses_the_session_that_there_is(site: Site) -> None:
    """A call without time for a renewal ahead goes on with its session, without an error."""
    lease = site.lease()
    lease.fresh()
    site.fails = UnreachableError("no time")
    site.clock.advance(_DUE)
    with within(0.0):
        assert lease.fresh() == "session-1"


def test_a_withdrawal_counts_though_the_session_is_good(site: Site) -> None:
    """A refusal at a renewal ahead counts at once, and ends the session (F2a)."""
    lease = site.lease()
    lease.fresh()
    site.fails = WithdrawnError(_DENIED, _DOUBT)
    site.clock.advance(_DUE)
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            lease.fresh()
    assert lease.session is None
    assert lease.accepted_at is None
    # An outage does not bring the session back.
    site.fails = UnreachableError("down")
    with pytest.raises(UnreachableError):
        lease.fresh()


def test_a_withdrawal_is_no_refusal_while_our_own_side_is_in_doubt(site: Site) -> None:
    """A withdrawal is then CREDENTIALS_FAILED, and a session that is good serves on (F2a)."""
    site.fails, site.good = WithdrawnError(_DENIED, _DOUBT), False
    lease = site.lease()
    with pytest.raises(CredentialsFailedError):
        lease.fresh()
    site.fails = None
    lease.fresh()
    site.fails = WithdrawnError(_DENIED, _DOUBT)
    site.clock.advance(_DUE)
    assert lease.fresh() == "session-2"


# One at a time.


class _Queue:
    """A lease's lock, which tells who has come to it."""

    def __init__(self, lease: Lease[str]) -> None:
        self._lock = lease._lock
        self._came = threading.Semaphore(0)
        lease._lock = self  # type: ignore[assignment]

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002
        self._came.release()
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def await_comers(self, count: int) -> None:
        """Returns once so many have come since the last time."""
        for _ in range(count):
            assert self._came.acquire(timeout=10.0)


def _while_one_logs_in(site: Site, lease: Lease[str]) -> list[Future[str]]:
    """Lets many callers come while one caller's login is under way; returns how they ended."""
    queue = _Queue(lease)
    site.entered.clear()
    site.held = threading.Event()
    with ThreadPoolExecutor(1 + _CALLERS) as pool:
        pool.submit(_within, 30.0, lease.fresh)
        assert site.entered.wait(10.0)
        callers = [pool.submit(_within, 30.0, lease.fresh) for _ in range(_CALLERS)]
        queue.await_comers(1 + _CALLERS)
        site.held.set()
        return callers


@pytest.mark.parametrize("passed", [0.0, LONGEST])
def test_callers_who_come_together_log_in_once(site: Site, passed: float) -> None:
    """If no session may be used, one caller logs in for all."""
    lease = site.lease()
    if passed:
        lease.fresh()
        site.clock.advance(passed)
    before = site.logins
    assert len({each.result() for each in _while_one_logs_in(site, lease)}) == 1
    assert site.logins == before + 1


def test_callers_share_a_session_that_is_over_already(site: Site) -> None:
    """Such a session serves all who came before its login began: they do not log in one by one."""
    site.lasts = 0.0
    assert {each.result() for each in _while_one_logs_in(site, site.lease())} == {"session-2"}


def test_callers_whose_session_was_rejected_log_in_once(site: Site) -> None:
    """Whoever has waited for the lock looks again whether another session is there."""
    lease = site.lease()
    used = lease.fresh()
    together = threading.Barrier(_CALLERS)

    def renew() -> str:
        together.wait(10.0)
        return lease.renew(used)

    with ThreadPoolExecutor(_CALLERS) as pool:
        ended = [pool.submit(_within, 30.0, renew) for _ in range(_CALLERS)]
    assert {each.result() for each in ended} == {"session-2"}


def test_a_failed_login_is_shared_by_those_who_waited(site: Site) -> None:
    """Callers who waited get the same error, and do not ask the provider one by one."""
    site.fails = UnreachableError("down")
    ended = _while_one_logs_in(site, site.lease())
    assert {type(each.exception()) for each in ended} == {UnreachableError}
    # The login that was under way when they came, and one that began since.
    assert site.logins == 2


def test_a_failure_for_want_of_time_is_shared_with_nobody(site: Site) -> None:
    """One caller with little time does not make the others fail (W1)."""
    hurried, others = threading.Event(), threading.Event()

    def login(rejected: str | None) -> Granted[str]:
        if hurried.is_set():
            return site.login(rejected)
        hurried.set()
        assert others.wait(10.0)
        # The time is up during the login, as the watchdog finds it.
        current().cut()
        raise UnreachableError("no time")

    lease = Lease(login, clock=site.clock.monotonic)
    queue = _Queue(lease)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_within, 30.0, lease.fresh)
        assert hurried.wait(10.0)
        other = pool.submit(_within, 30.0, lease.fresh)
        queue.await_comers(2)
        others.set()
        assert isinstance(first.exception(10.0), UnreachableError)
        assert other.result(10.0) == "session-1"
    hurried.clear()
    with pytest.raises(UnreachableError, match="no time"), within(30.0):
        lease.prove()
    assert lease._failure is None


@dataclass
class Late:
    """A thread that has seen the old session, and goes on when the test lets it."""

    site: Site
    saw: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    thread: int | None = None

    def clock(self) -> float:
        """Holds the thread up after it has read the lease's session."""
        if threading.get_ident() == self.thread:
            self.thread = None
            self.saw.set()
            self.go.wait(10.0)
        return self.site.clock.monotonic()

    def fresh(self, lease: Lease[str]) -> str:
        self.thread = threading.get_ident()
        return lease.fresh()


def test_whoever_gets_the_lock_looks_again(site: Site) -> None:
    """A slow thread that saw the old session does not renew the new one once more."""
    late = Late(site)
    lease = site.lease(late.clock)
    lease.fresh()
    site.clock.advance(_DUE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_within, 10.0, lambda: late.fresh(lease))
        assert late.saw.wait(10.0)
        assert lease.fresh() == "session-2"
        late.go.set()
        assert waiting.result(10.0) == "session-2"
    assert site.logins == 2


def test_whoever_comes_late_does_not_bring_a_refused_session_back(site: Site) -> None:
    """Once another thread was refused, the session that a slow thread saw is not used (F2a)."""
    late = Late(site)
    lease = site.lease(late.clock)
    lease.fresh()
    site.clock.advance(_DUE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_within, 10.0, lambda: late.fresh(lease))
        assert late.saw.wait(10.0)
        site.fails = WithdrawnError(_DENIED, _DOUBT)
        with pytest.raises(AccessDeniedError):
            lease.fresh()
        site.fails = UnreachableError("down")
        late.go.set()
        with pytest.raises(UnreachableError):
            waiting.result(10.0)


def test_one_renews_ahead_while_the_others_go_on(site: Site) -> None:
    """Nobody waits for a renewal while the session is good."""
    lease = site.lease()
    lease.fresh()
    site.clock.advance(_DUE)
    site.entered.clear()
    site.held = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(_within, 10.0, lease.fresh)
        assert site.entered.wait(10.0)
        assert lease.fresh() == "session-1"
        site.held.set()
        assert renewing.result(10.0) == "session-2"


def test_waiting_for_anothers_login_ends_with_the_call(site: Site) -> None:
    """A login that hangs holds those who wait for it no longer than their own calls (C4)."""
    lease = site.lease()
    site.held = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_within, 10.0, lease.fresh)
        assert site.entered.wait(10.0)
        with within(0.05), pytest.raises(UnreachableError, match="took too long"):
            lease.fresh()
        site.held.set()
        assert first.result(10.0) == "session-1"


def _within(seconds: float, work: Callable[[], str]) -> str:
    with within(seconds):
        return work()


# A session that the provider rejects.


def _answers(used: list[str], *each: Exception | None) -> Callable[[str], str]:
    left = iter(each)

    def work(session: str) -> str:
        used.append(session)
        answer = next(left)
        if answer is not None:
            raise answer
        return session

    return work


def test_a_rejected_session_is_renewed_once(site: Site) -> None:
    """The call is made again with another session, and no third time (F2a)."""
    lease, used = site.lease(), list[str]()
    with attempts.counted() as made:
        assert lease.under(_answers(used, _REJECTED, None)) == "session-2"
    assert made.count == 2
    assert used == ["session-1", "session-2"]
    assert site.rejected == [None, "session-1"]
    with pytest.raises(CredentialsFailedError, match="rejected"):
        lease.under(_answers(used, _REJECTED, _REJECTED))
    assert used[2:] == ["session-2", "session-3"]


def test_another_answer_renews_nothing(site: Site) -> None:
    """An answer about the call itself reaches the caller as it is, without a renewal."""
    lease = site.lease()
    with pytest.raises(AccessDeniedError):
        lease.under(_answers([], _DENIED))
    assert site.logins == 1


def test_proving_logs_in_anew(site: Site) -> None:
    """An existing session proves nothing: proving logs in, and raises what the login raises."""
    lease = site.lease()
    lease.fresh()
    assert lease.prove() == "session-2"
    site.fails = CredentialsFailedError("ours")
    with pytest.raises(CredentialsFailedError):
        lease.prove()
    assert lease.session == "session-2"


def test_probing_keeps_the_session(site: Site) -> None:
    """Finding out whether a principal can log in leaves its session as it is."""
    lease = site.lease()
    lease.fresh()
    assert lease.probe()
    for error in (CouldNotTellError("down"), WithdrawnError(_DENIED, _DOUBT)):
        site.fails = error
        assert not lease.probe()
    assert lease.session == "session-1"


def test_a_session_is_not_shown() -> None:
    """Neither what a login gave nor what a lease holds shows its session."""
    assert "hunter2" not in repr(Granted("hunter2"))
