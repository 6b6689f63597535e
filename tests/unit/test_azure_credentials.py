"""When Keyfold renews a token for Azure, and when withdrawn trust counts (protocol F2a)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from fakes import FakeClock
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.azure.clouds import CLOUDS
from keyfold_server.providers.azure.credentials import tokens, under
from keyfold_server.providers.azure.logins import EntraToken, Logins, withdrawn
from keyfold_server.providers.azure.principals import Applications
from keyfold_server.providers.azure.replies import Reply
from keyfold_server.providers.azure.uri import Place
from keyfold_server.providers.shared.deadlines import current, within
from keyfold_server.providers.shared.lease import LONGEST, Lease
from keyfold_server.providers.shared.principals import MOST

_HOUR: Final = 3_600.0
_PLACE: Final = Place("https://v.vault.azure.net", "https://vault.azure.net", CLOUDS[0], hsm=False)
_OK: Final = Reply(200)
_NO: Final = Reply(401)


@pytest.fixture(autouse=True)
def _call() -> Iterator[None]:
    """Makes each test a call of its own."""
    with within(10.0):
        yield


class Entra:
    """Gives numbered tokens, or raises `fails`."""

    def __init__(self, lasts: float = _HOUR) -> None:
        self.lasts = lasts
        self.logins = 0
        self.fails: Exception | None = None

    def __call__(self) -> EntraToken:
        self.logins += 1
        if self.fails is not None:
            raise self.fails
        return EntraToken(f"token-{self.logins}", time.time() + self.lasts)


def _credential(entra: Entra, clock: FakeClock, *, good: bool = True) -> Lease[EntraToken]:
    return tokens("t/c", entra, clock=clock.monotonic, shown_good=lambda _: good)


def test_a_token_is_got_anew_within_ten_minutes() -> None:
    """Withdrawn trust shows at a login, so the last login is never longer ago (F2a)."""
    entra, clock = Entra(lasts=24 * _HOUR), FakeClock()
    credential = _credential(entra, clock)
    for _ in range(60):
        began = clock.monotonic()
        token = credential.fresh()
        assert credential.accepted_at is not None
        assert began - credential.accepted_at < LONGEST
        assert credential.fresh() is token
        clock.advance(60.0)
    assert 6 <= entra.logins <= 10


def test_a_short_token_is_got_anew_in_time() -> None:
    """Keyfold renews a short token before it ends."""
    entra, clock = Entra(lasts=60.0), FakeClock()
    credential = _credential(entra, clock)
    credential.fresh()
    clock.advance(61.0)
    assert credential.fresh().value == "token-2"


def test_getting_one_ahead_may_fail() -> None:
    """An outage of Entra fails no call while the token is good, and causes no rush on Entra."""
    entra, clock = Entra(), FakeClock()
    credential = _credential(entra, clock)
    credential.fresh()
    entra.fails = UnreachableError("down")
    clock.advance(LONGEST * 0.85)
    for _ in range(3):
        assert credential.fresh().value == "token-1"
    assert entra.logins == 2
    clock.advance(LONGEST)
    with pytest.raises(UnreachableError):
        credential.fresh()


def test_getting_one_ahead_leaves_the_call_its_time() -> None:
    """A login that hangs leaves half of a call's time for the token that is still good (C4)."""
    clock, given = FakeClock(), list[float]()

    def login() -> EntraToken:
        given.append(current().remaining())
        if len(given) > 1:
            raise UnreachableError("hung")
        return EntraToken("token", time.time() + _HOUR)

    credential = tokens("t/c", login, clock=clock.monotonic, shown_good=lambda _: True)
    credential.fresh()
    clock.advance(LONGEST * 0.85)
    assert credential.fresh().value == "token"
    assert given[1] <= given[0] / 2


def test_trust_that_is_withdrawn_shows_while_a_token_serves() -> None:
    """A refusal at a renewal ahead counts at once, and nobody uses the token again (F2a)."""
    entra, clock = Entra(), FakeClock()
    credential = _credential(entra, clock)
    credential.fresh()
    entra.fails = withdrawn("t/c", 700016, "id-1")
    clock.advance(LONGEST * 0.85)
    with pytest.raises(AccessDeniedError):
        credential.fresh()
    with pytest.raises(AccessDeniedError) as raised:
        credential.fresh()
    assert raised.value.provider_request_id == "id-1"


def test_withdrawn_trust_is_no_refusal_while_our_own_side_fails() -> None:
    """A missing application is a refusal only if Keyfold's own side is shown good since (F2a)."""
    entra = Entra()
    entra.fails = withdrawn("t/c", 700016, "")
    with pytest.raises(CredentialsFailedError):
        _credential(entra, FakeClock(), good=False).fresh()


@pytest.mark.parametrize(
    ("replies", "raised"),
    [([_OK], None), ([_NO, _OK], None), ([_NO, _NO], CredentialsFailedError)],
)
def test_a_token_is_renewed_once(replies: list[Reply], raised: type[KmsError] | None) -> None:
    """Keyfold replaces a rejected token once; a second rejection is its own fault (F2a)."""
    used: list[str] = []
    answers = iter(replies)

    def work(token: EntraToken) -> Reply:
        used.append(token.value)
        return next(answers)

    credential = _credential(Entra(), FakeClock())
    if raised is None:
        assert under(credential, work, "for a test") is _OK
    else:
        with pytest.raises(raised):
            under(credential, work, "for a test")
    assert used == [f"token-{number}" for number in range(1, len(replies) + 1)]


def test_many_that_were_not_accepted_log_in_once() -> None:
    """Sixteen calls with the same rejected token share one new login."""
    entra = Entra()
    credential = _credential(entra, FakeClock())
    used = credential.fresh()
    together = threading.Barrier(16)

    def renew(_: int) -> str:
        with within(10.0):
            together.wait(10.0)
            return credential.renew(used).value

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(renew, range(16))) == {"token-2"}


def test_waiting_for_anothers_login_ends_with_the_budget() -> None:
    """A caller waits for another's login that hangs no longer than its own budget (C4)."""
    inside, over = threading.Event(), threading.Event()

    def hang() -> EntraToken:
        inside.set()
        over.wait(10.0)
        raise UnreachableError("hung")

    credential = tokens("t/c", hang, clock=time.monotonic, shown_good=lambda _: True)

    def first() -> None:
        with within(10.0), pytest.raises(UnreachableError, match="hung"):
            credential.fresh()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first)
        assert inside.wait(10.0)
        with within(0.05), pytest.raises(UnreachableError, match="took too long"):
            credential.fresh()
        over.set()
        waiting.result(10.0)


def test_a_token_is_not_shown() -> None:
    """A token's repr does not show the token."""
    assert "hunter2" not in repr(EntraToken("hunter2", 0.0))


# Is Keyfold's own side good?


class Directory(Logins):
    """Logins that raise `fails`, by principal; an empty name is the server's own identity."""

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.asked: list[str] = []

    def own(self, place: Place) -> EntraToken:
        return self.principal("", place)

    def principal(self, principal: str, place: Place) -> EntraToken:
        self.asked.append(principal)
        if principal in self.fails:
            raise self.fails[principal]
        return EntraToken(principal, time.time() + _HOUR)


_GONE: Final = withdrawn("t/c", 700016, "")
_OURS: Final = CredentialsFailedError("ours")


@pytest.mark.parametrize(
    ("canary", "others", "fails", "meaning"),
    [
        ("k/k", (), {}, AccessDeniedError),
        ("k/k", (), {"k/k": _OURS}, CredentialsFailedError),
        ("k/k", (), {"k/k": _GONE}, CredentialsFailedError),
        ("k/k", ("b/b",), {"b/b": _OURS}, AccessDeniedError),
        (None, ("b/b",), {"": _OURS}, AccessDeniedError),
        (None, ("b/b", "d/d"), {"b/b": _GONE}, AccessDeniedError),
        (None, ("b/b", "d/d"), {"b/b": _GONE, "d/d": _OURS}, CredentialsFailedError),
        (None, (), {}, AccessDeniedError),
        (None, (), {"": _OURS}, CredentialsFailedError),
        (None, (), {"": UnreachableError("down")}, CredentialsFailedError),
    ],
)
def test_who_shows_our_own_side_to_be_good(
    canary: str | None,
    others: tuple[str, ...],
    fails: dict[str, Exception],
    meaning: type[KmsError],
) -> None:
    """The canary decides; else other principals; else the server's own identity (F2a)."""
    directory = Directory()
    principals = Applications(directory, canary, None, FakeClock().monotonic)
    customer = principals.of("a/a", _PLACE).lease
    for each in (customer, *(principals.of(other, _PLACE).lease for other in others)):
        each.fresh()
    directory.fails = {**fails, "a/a": _GONE}
    with pytest.raises(meaning):
        customer.renew(customer.fresh())


@pytest.mark.parametrize("canary", [None, "k/k"])
def test_the_check_tries_the_servers_identity_and_the_canary(canary: str | None) -> None:
    """`check` logs in as each identity of the settings; failures are Keyfold's own fault."""
    directory = Directory()
    principals = Applications(directory, canary, None, FakeClock().monotonic)
    principals.try_logins(_PLACE)
    assert directory.asked == [each for each in ("", canary) if each is not None]
    for who in directory.asked.copy():
        # Even a canary that was withdrawn is no customer's refusal.
        directory.fails = {who: _GONE if who else _OURS}
        with pytest.raises(CredentialsFailedError):
            principals.try_logins(_PLACE)


def test_a_principal_of_another_cloud_shows_nothing() -> None:
    """Each cloud has its own Entra, so one cloud's principals say nothing of another's (F2a)."""
    directory = Directory()
    principals = Applications(directory, None, None, FakeClock().monotonic)
    china = Place("https://v.vault.azure.cn", "https://vault.azure.cn", CLOUDS[1], hsm=False)
    principals.of("b/b", china).lease.fresh()
    customer = principals.of("a/a", _PLACE).lease
    customer.fresh()
    directory.fails = {"a/a": _GONE, "": _OURS}
    with pytest.raises(CredentialsFailedError):
        customer.renew(customer.fresh())


def test_what_is_kept_is_bounded() -> None:
    """The number of principals is bounded, and the least recently used one goes."""
    principals = Applications(Directory(), None, None, FakeClock().monotonic)
    first = principals.of("0/0", _PLACE).lease
    assert principals.of("0/0", _PLACE).lease is first
    for number in range(1, MOST):
        principals.of(f"{number}/0", _PLACE)
    assert principals.of("0/0", _PLACE).lease is first
    principals.of("x/0", _PLACE)
    assert principals.of("0/0", _PLACE).lease is first
    for number in range(MOST):
        principals.of(f"{number}/1", _PLACE)
    assert principals.of("0/0", _PLACE).lease is not first
