"""Who shows that Keyfold's own side is good, in which order, and what is kept (protocol F2a)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from fakes import FakeClock
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.shared import principals as shared
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted, WithdrawnError
from keyfold_server.providers.shared.principals import (
    MOST,
    WITNESSES,
    Bounded,
    Principal,
    Principals,
)

_GONE: Final = WithdrawnError(AccessDeniedError("withdrawn"), CredentialsFailedError("in doubt"))
_OURS: Final = CredentialsFailedError("ours")
_DOWN: Final = UnreachableError("down")


@pytest.fixture(autouse=True)
def _call() -> Iterator[None]:
    """Makes each test a call of its own."""
    with within(10.0):
        yield


class Cloud:
    """A provider where each principal can log in, unless it `fails`.

    Attributes:
        fails: The errors that logins raise, by principal; `""` is Keyfold, `canary` the canary.
        asked: The principals that logged in, in order.
        canary: Whether the settings name a canary.
    """

    def __init__(self, *, canary: bool = False) -> None:
        self.fails: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.canary = canary
        self.clock = FakeClock()
        self._principals: Principals[Principal[str, None]] = Principals()

    def login(self, name: str) -> Granted[str]:
        self.asked.append(name)
        if name in self.fails:
            raise self.fails[name]
        return Granted(f"session of {name}")

    def of(self, name: str, cloud: str = "", sessions: str = "") -> Lease[str]:
        """Returns a principal's lease; `sessions` tells several of one principal apart."""

        def make() -> Principal[str, None]:
            lease = Lease(
                lambda _: self.login(name),
                clock=self.clock.monotonic,
                name=name,
                cloud=cloud,
                shown_good=self._shown_good,
            )
            return Principal(lease, None)

        return self._principals.get((name, cloud, sessions), make).lease

    def used(self, *names: str) -> None:
        """Lets principals log in, one after the other."""
        for name in names:
            self.clock.advance(1.0)
            self.of(name).fresh()
        self.asked.clear()

    def _shown_good(self, besides: Lease[str]) -> bool:
        return self._principals.shown_good(
            besides,
            canary=(lambda: self.login("canary")) if self.canary else None,
            own=lambda: self.login(""),
        )


@pytest.mark.parametrize(
    ("canary", "others", "fails", "meaning"),
    [
        # The canary decides, whatever the others say.
        (True, (), {}, AccessDeniedError),
        (True, (), {"canary": _OURS}, CredentialsFailedError),
        (True, (), {"canary": _GONE}, CredentialsFailedError),
        (True, (), {"canary": _DOWN}, CredentialsFailedError),
        (True, ("b",), {"canary": _GONE}, CredentialsFailedError),
        (True, ("b",), {"b": _GONE, "": _OURS}, AccessDeniedError),
        # Else one witness is enough, and none is too few.
        (False, ("b",), {"": _OURS}, AccessDeniedError),
        (False, ("b", "c"), {"b": _GONE}, AccessDeniedError),
        (False, ("b", "c"), {"c": _DOWN}, AccessDeniedError),
        (False, ("b", "c"), {"b": _GONE, "c": _OURS}, CredentialsFailedError),
        (False, ("b",), {"b": _DOWN}, CredentialsFailedError),
        # Else Keyfold's own credential.
        (False, (), {}, AccessDeniedError),
        (False, (), {"": _OURS}, CredentialsFailedError),
        (False, (), {"": _DOWN}, CredentialsFailedError),
    ],
)
def test_who_shows_our_own_side_to_be_good(
    canary: bool,  # noqa: FBT001
    others: tuple[str, ...],
    fails: dict[str, Exception],
    meaning: type[KmsError],
) -> None:
    """The canary decides; else other principals; else the server's own credential (F2a)."""
    cloud = Cloud(canary=canary)
    cloud.used("a", *others)
    cloud.fails = {**fails, "a": _GONE}
    with pytest.raises(meaning):
        cloud.of("a").prove()


def test_witnesses_are_asked_the_latest_first() -> None:
    """Keyfold asks a few witnesses, and each principal once, though it has several sessions."""
    cloud = Cloud()
    cloud.used("a", "b", "c", "d", "e")
    cloud.clock.advance(1.0)
    cloud.of("c", sessions="in another region").fresh()
    cloud.asked.clear()
    cloud.fails = dict.fromkeys("abcde", _GONE)
    with pytest.raises(CredentialsFailedError):
        cloud.of("a").prove()
    assert cloud.asked == ["a", "c", "e", "d"]
    assert len(cloud.asked) == 1 + WITNESSES


def test_other_sessions_of_a_principal_are_no_witness() -> None:
    """A principal that was turned away cannot speak for itself."""
    cloud = Cloud()
    cloud.used("a")
    cloud.of("a", sessions="in another region").fresh()
    cloud.asked.clear()
    cloud.fails = {"a": _GONE}
    with pytest.raises(AccessDeniedError):
        cloud.of("a").prove()
    assert cloud.asked == ["a", ""]


def test_a_principal_of_another_cloud_shows_nothing() -> None:
    """Each cloud knows its own principals, so one's answer says nothing of another's."""
    cloud = Cloud()
    cloud.used("a")
    cloud.of("b", cloud="elsewhere").fresh()
    cloud.fails = {"a": _GONE, "": _OURS}
    with pytest.raises(CredentialsFailedError):
        cloud.of("a").prove()


def test_who_was_refused_is_no_witness_until_accepted_again() -> None:
    """A customer who withdrew before does not hold back the next customer's withdrawal."""
    cloud = Cloud()
    cloud.used("a", "b")
    cloud.fails = {"b": _GONE}
    with pytest.raises(AccessDeniedError):
        cloud.of("b").prove()
    cloud.fails["a"] = _GONE
    with pytest.raises(AccessDeniedError):
        cloud.of("a").prove()
    assert cloud.asked[-2:] == ["a", ""]
    cloud.fails.clear()
    cloud.used("a", "b")
    cloud.fails = {"a": _GONE, "b": _GONE}
    with pytest.raises(CredentialsFailedError):
        cloud.of("a").prove()


def test_who_never_logged_in_is_no_witness() -> None:
    """Only a principal that was accepted once can show that the next denial is its own."""
    cloud = Cloud()
    cloud.used("a")
    cloud.of("b")
    cloud.fails = {"a": _GONE, "b": _GONE}
    with pytest.raises(AccessDeniedError):
        cloud.of("a").prove()


# What is kept.


def test_what_is_kept_is_bounded() -> None:
    """The least recently used entry goes, and the table passes it to its callback."""
    gone: list[str] = []
    kept: Bounded[str] = Bounded(gone.append)
    for number in range(MOST):
        kept.get(number, lambda number=number: f"thing {number}")  # type: ignore[misc]
    assert kept.get(0, lambda: "another") == "thing 0"
    kept.get("one more", lambda: "one more")
    assert gone == ["thing 1"]
    assert len(kept.all()) == MOST
    assert kept.get(0, lambda: "another") == "thing 0"


def test_the_bound_is_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower bound drops as many as needed."""
    gone: list[str] = []
    kept: Bounded[str] = Bounded(gone.append)
    for name in "abc":
        kept.get(name, lambda name=name: name)  # type: ignore[misc]
    monkeypatch.setattr(shared, "MOST", 1)
    kept.get("d", lambda: "d")
    assert gone == ["a", "b", "c"]
