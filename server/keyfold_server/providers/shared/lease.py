"""The lease: a principal's session at a provider, renewed ahead of its end.

A *session* is what Keyfold calls a provider with: AWS keys, an Entra token, a Google header, a
Vault client. A lease logs in to get a session, keeps it, and renews it. It keeps these rules for
every provider:

    ten minutes     Keyfold uses a session for at most `LONGEST` seconds, and stops `CLOCK_MARGIN`
                    seconds, or a sixth of a short session, before the end that the provider named.
                    Withdrawn trust shows only when Keyfold logs in, so a login is never longer ago
                    (protocol F2a).
    ahead           From 8 minutes on, or two thirds of a shorter session, one caller renews the
                    session while the others go on using it. The time comes up to an eighth earlier
                    at random, so that sessions that began together are not renewed together.
    part of a call  A renewal ahead may take half of its call's remaining time. So a login that
                    hangs or drips leaves the call time to use the session that is still good (C4).
    single flight   Callers without a session wait for one login, each for as long as its own call
                    may take. A caller that gets the lock looks again: it takes a session, or an
                    error, of a login that began after the caller came. Callers do not share an
                    error for which one caller's lack of time may be the cause (W1).
    renewed once    A call replaces a session that the provider rejects once. If the provider
                    rejects the next session, too, the call is CREDENTIALS_FAILED (F2a).
    refusal         If a renewal shows that the customer withdrew trust, no caller uses the old
                    session again, though the provider would still accept it (F2a).
    backoff         If a renewal ahead could not tell, no caller tries again for `PAUSE` seconds,
                    and the session serves on until its end (W2).

Invariant: no caller waits, and no request lasts, beyond the caller's `deadlines.within`. This
module must not know any provider.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Generic, TypeVar

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KmsError,
    RefusedError,
    UnreachableError,
)
from keyfold_server.providers.shared.deadlines import current, within
from keyfold_server.providers.shared.logins import Granted, RejectedError, WithdrawnError

_S = TypeVar("_S")
_R = TypeVar("_R")

_log = logging.getLogger(__name__)

LONGEST: Final = 10 * 60.0
"""Most seconds that Keyfold uses a session, however long the provider would accept it."""

AHEAD: Final = 8 * 60.0
"""Seconds after which a session is due for renewal, less up to an eighth."""

_AHEAD_PART: Final = 2 / 3
"""Part of a short session's time after which it is due for renewal."""

_SPREAD: Final = 1 / 8
"""Part of that time by which a renewal may come earlier, at random."""

CLOCK_MARGIN: Final = 30.0
"""Seconds before its end at which Keyfold stops using a session, since clocks differ."""

_MARGIN_PART: Final = 1 / 6
"""Part of a short session's time that takes the place of `CLOCK_MARGIN`, if it is less."""

PAUSE: Final = 15.0
"""Seconds between a renewal ahead that could not tell and the next one."""

_PART: Final = 1 / 2
"""Part of a call's remaining time that a renewal ahead may take."""


@dataclass(frozen=True, slots=True)
class _Held(Generic[_S]):
    """A session with its times on the lease's clock.

    Attributes:
        session: The session.
        number: The number of the login that gave the session; a lease counts its logins.
        ahead: The time at which the session is due for renewal.
        ends: The time at which Keyfold stops using the session.
    """

    session: _S = field(repr=False)
    number: int
    ahead: float
    ends: float


class Lease(Generic[_S]):
    """The sessions of one principal, one after the other. Safe for many threads.

    Attributes:
        name: The principal; empty for the server's own identity.
        cloud: The cloud that knows the principal; one cloud says nothing about another's.
        accepted_at: The beginning of the last successful login, on the lease's clock; None before
            the first one and after a refusal.
    """

    def __init__(
        self,
        login: Callable[[_S | None], Granted[_S]],
        *,
        clock: Callable[[], float],
        name: str = "",
        kind: str = "the server's own identity",
        cloud: str = "",
        shown_good: Callable[[Lease[_S]], bool] = lambda _: False,
        longest: float = LONGEST,
    ) -> None:
        """Prepares a lease; the login comes with the first call.

        Args:
            login: Logs in, within the thread's call. It takes the session that the provider
                rejected, or None, and raises KmsError or `WithdrawnError`.
            clock: Returns monotonic seconds.
            name: The principal; see the class.
            kind: The kind of principal for people, such as `role`.
            cloud: The cloud; see the class.
            shown_good: Tells whether Keyfold's own side is good, without asking this lease.
            longest: Most seconds that Keyfold uses a session. Only an identity that no customer
                can withdraw may have another value than `LONGEST`.
        """
        self.name = name
        self.cloud = cloud
        self.accepted_at: float | None = None
        self._login = login
        self._clock = clock
        self._who = f"{kind} {name}".rstrip()
        self._shown_good = shown_good
        self._longest = longest
        self._lock = threading.Lock()
        self._held: _Held[_S] | None = None
        self._not_before = -math.inf
        self._begun = 0
        self._failure: KmsError | None = None

    @property
    def session(self) -> _S | None:
        """The session that the lease holds, or None; reading it never logs in."""
        held = self._held
        return None if held is None else held.session

    def fresh(self) -> _S:
        """Returns the session for the next call, and renews it first if it is due.

        Raises:
            KmsError: There is no session, and the login failed.
        """
        held, now = self._held, self._clock()
        if held is not None and now < held.ahead:
            return held.session
        if held is not None and now < held.ends:
            return self._renewed_ahead(held)
        came = self._begun
        return self._once(
            came,
            lambda found: found is not held and (found.number > came or self._clock() < found.ends),
        )

    def renew(self, rejected: _S) -> _S:
        """Returns another session than the one that the provider rejected.

        Raises:
            KmsError: There is no other session, and the login failed.
        """
        return self._once(self._begun, lambda found: found.session != rejected, rejected)

    def prove(self) -> _S:
        """Logs in even if there is a session, and returns the new one.

        Raises:
            KmsError: The login failed.
        """
        came = self._begun
        return self._once(came, lambda found: found.number > came)

    def probe(self) -> bool:
        """Tells whether the principal can log in now; the lease keeps its session."""
        try:
            self._login(None)
        except (KmsError, WithdrawnError):
            return False
        return True

    def under(self, work: Callable[[_S], _R]) -> _R:
        """Makes a call, and makes it again if the provider rejects the first session.

        Args:
            work: Makes the call with a session; raises `RejectedError` if the provider rejects it.

        Raises:
            CredentialsFailedError: The provider rejected the second session, too.
            KmsError: There is no session, and the login failed.
        """
        used = self.fresh()
        try:
            return work(used)
        except RejectedError:
            pass  # The session may merely have ended, so this is not an answer yet.
        renewed = self.renew(used)
        attempts.count_retry()
        try:
            return work(renewed)
        except RejectedError as error:
            raise error.failure from error

    def _renewed_ahead(self, held: _Held[_S]) -> _S:
        """Renews in one thread, while the others go on with the session that is still good."""
        if self._clock() < self._not_before or not self._lock.acquire(blocking=False):
            return held.session
        try:
            # Another thread may have renewed the session since this one read `held`.
            found, now = self._held, self._clock()
            if found is not None and (found is not held or now < self._not_before):
                return found.session
            with within(max(0.0, current().ends - monotonic()) * _PART):
                return self._begin()
        except CouldNotTellError as error:
            if self._held is not held:
                raise  # A refusal took the session away, and nobody may use it again.
            self._not_before = self._clock() + PAUSE
            _log.warning("the session of %s is not renewed yet: %s", self._who, error.message)
            return held.session
        finally:
            self._lock.release()

    def _once(
        self, came: int, serves: Callable[[_Held[_S]], bool], rejected: _S | None = None
    ) -> _S:
        """Returns a session that another caller got meanwhile, or logs in.

        Args:
            came: The number of logins that had begun when the caller came.
            serves: Tells whether the lease's present session will do.
            rejected: The session that the provider rejected, or None.
        """
        if not self._lock.acquire(timeout=max(0.0, current().ends - monotonic())):
            raise UnreachableError(
                f"another call took too long to renew the session of {self._who}"
            )
        try:
            if self._held is not None and serves(self._held):
                return self._held.session
            if self._begun > came and self._failure is not None:
                # That login began after this caller came, so another one would say the same.
                raise self._failure.at()
            return self._begin(rejected)
        finally:
            self._lock.release()

    def _begin(self, rejected: _S | None = None) -> _S:
        """Logs in. The caller holds the lock."""
        self._begun += 1
        self._failure = None
        began = self._clock()
        try:
            granted = self._login(rejected)
        except WithdrawnError as error:
            meant = error.refusal if self._shown_good(self) else error.doubt
            raise self._noted(meant) from error
        except KmsError as error:
            raise self._noted(error)  # noqa: B904  the same error
        lasts = max(0.0, granted.seconds)
        ahead = min(AHEAD, lasts * _AHEAD_PART) * random.uniform(1 - _SPREAD, 1)  # noqa: S311
        ends = min(self._longest, lasts - min(CLOCK_MARGIN, lasts * _MARGIN_PART))
        self._held = _Held(granted.session, self._begun, began + ahead, began + ends)
        self.accepted_at = began
        return granted.session

    def _noted(self, error: KmsError) -> KmsError:
        """Returns the error of a login, after it has taken effect on the lease."""
        if isinstance(error, RefusedError):
            self._held = None
            self.accepted_at = None
        call = current()
        if not call.passed and monotonic() < call.ends:
            # A copy, because a raised error keeps the frames that it passed alive.
            self._failure = error.at()
        return error
