"""A session at a provider that is renewed ahead of its end: the one lease of every provider.

A *session* is whatever a provider's calls are made with: AWS keys, an Entra token, a Google
header, a Vault client. A lease gets one by logging in, keeps it, and renews it. These rules are
the same for every provider:

    at most ten minutes   A session is used for at most `LONGEST` seconds, and no longer than
                          `CLOCK_MARGIN` before the end that the provider named. Trust that a
                          customer withdrew shows only when Keyfold logs in (protocol F2a).
    renewed ahead         From 8 minutes on, or two thirds of a shorter session, less up to an
                          eighth at random, one caller renews while the others use the session
                          that there is. Sessions that began together are not renewed together.
    part of the time      A renewal ahead may take half of its call's time. A login that hangs or
                          drips must leave the call time to use the session that there is (C4).
    one at a time         Callers who need a session wait for one login, each for no longer than
                          its own call. Whoever gets the lock looks again, and takes the outcome
                          of a login that began after it came: a new session or the error. An
                          error that may be due to one caller's short time is its own.
    renewed once          A session that the provider rejects is replaced once per call; if the
                          provider rejects the next one, too, the call is CREDENTIALS_FAILED.
    a refusal counts      Where a renewal shows that trust was withdrawn, no caller uses the old
                          session again, though it would still work.
    backoff               After a renewal ahead that could not tell, nobody tries again for
                          `PAUSE` seconds, and the session serves on until its end.

Invariant: nobody waits, and nothing is sent, longer than the call in `deadlines.within` may take.
This module must not know any provider.
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
"""Seconds after which a session is not used any more, however long the provider would let it."""

AHEAD: Final = 8 * 60.0
"""Seconds after which a session is renewed while it still serves, less up to an eighth."""

_AHEAD_PART: Final = 2 / 3
"""Part of a short session after which it is renewed."""

_SPREAD: Final = 1 / 8
"""Part of that time by which a renewal comes earlier, at random."""

CLOCK_MARGIN: Final = 30.0
"""Seconds before its end at which a session is not used any more: clocks differ."""

PAUSE: Final = 15.0
"""Seconds until a renewal ahead is tried again after one that could not tell."""

_PART: Final = 1 / 2
"""Part of a call's remaining time that a renewal ahead may take."""


@dataclass(frozen=True, slots=True)
class _Held(Generic[_S]):
    """A session with its times on the lease's clock.

    Attributes:
        session: The session.
        number: The number of the login that gave it; the lease counts its logins.
        ahead: The time from which it is renewed.
        ends: The time from which it is not used.
    """

    session: _S = field(repr=False)
    number: int
    ahead: float
    ends: float


class Lease(Generic[_S]):
    """The sessions of one principal, one after the other. Safe for many threads.

    Attributes:
        name: The principal; empty for the server's own identity.
        cloud: The cloud that knows the principal: one cloud's answers say nothing of another's.
        accepted_at: When the login began that last succeeded, on the lease's clock; None before
            the first one, and after a refusal.
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
            login: Logs in anew, within the thread's call. It takes the session that the provider
                rejected, or None, and raises KmsError or `WithdrawnError`.
            clock: Returns monotonic seconds.
            name: See the class.
            kind: What the principal is, for people, such as `role`.
            cloud: See the class.
            shown_good: Tells whether Keyfold's own side is good, asking others than this lease.
            longest: Most seconds that a session is used. Only an identity that no customer can
                withdraw has another value than `LONGEST`.
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
        """The session that was last got, or None; nobody is asked."""
        held = self._held
        return None if held is None else held.session

    def fresh(self) -> _S:
        """Returns the session for the next call, renewed where it is time.

        Raises:
            KmsError: There is no session that may be used.
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
            KmsError: There is no other one.
        """
        return self._once(self._begun, lambda found: found.session != rejected, rejected)

    def prove(self) -> _S:
        """Logs in anew, whatever session there is, and returns the new session.

        Raises:
            KmsError: The login failed.
        """
        came = self._begun
        return self._once(came, lambda found: found.number > came)

    def probe(self) -> bool:
        """Tells whether the principal can log in now; the session that there is stays."""
        try:
            self._login(None)
        except (KmsError, WithdrawnError):
            return False
        return True

    def under(self, work: Callable[[_S], _R]) -> _R:
        """Carries out a call, and again with another session if the provider rejects the first.

        Args:
            work: Makes the call with a session; raises `RejectedError` if it is rejected.

        Raises:
            CredentialsFailedError: The provider rejected the second session, too.
            KmsError: There is no session.
        """
        used = self.fresh()
        try:
            return work(used)
        except RejectedError:
            pass  # Not an answer yet: the session may just have ended.
        renewed = self.renew(used)
        attempts.count_retry()
        try:
            return work(renewed)
        except RejectedError as error:
            raise error.failure from error

    def _renewed_ahead(self, held: _Held[_S]) -> _S:
        """Renews in one thread, while the others go on with the session that there is."""
        if self._clock() < self._not_before or not self._lock.acquire(blocking=False):
            return held.session
        try:
            # Another thread may have been here since `held` was read.
            found, now = self._held, self._clock()
            if found is not None and (found is not held or now < self._not_before):
                return found.session
            with within(max(0.0, current().ends - monotonic()) * _PART):
                return self._begin()
        except CouldNotTellError as error:
            if self._held is not held:
                raise  # A refusal took the session away; it is not used again.
            self._not_before = self._clock() + PAUSE
            _log.warning("the session of %s is not renewed yet: %s", self._who, error.message)
            return held.session
        finally:
            self._lock.release()

    def _once(
        self, came: int, serves: Callable[[_Held[_S]], bool], rejected: _S | None = None
    ) -> _S:
        """Returns a session that serves: another caller's, or one from a login of its own.

        Args:
            came: How many logins had begun when the caller came.
            serves: Tells whether the session that there is will do.
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
                # That login began after this caller came, so its answer is as good as a new one.
                raise self._failure.at()
            return self._begin(rejected)
        finally:
            self._lock.release()

    def _begin(self, rejected: _S | None = None) -> _S:
        """Logs in; the caller holds the lock."""
        self._begun += 1
        self._failure = None
        began = self._clock()
        try:
            granted = self._login(rejected)
        except WithdrawnError as error:
            meant = error.refusal if self._shown_good(self) else error.doubt
            raise self._noted(meant) from error
        except KmsError as error:
            raise self._noted(error)  # noqa: B904  it is the same error
        lasts = max(0.0, granted.seconds)
        ahead = min(AHEAD, lasts * _AHEAD_PART) * random.uniform(1 - _SPREAD, 1)  # noqa: S311
        ends = max(ahead, min(self._longest, lasts - CLOCK_MARGIN))
        self._held = _Held(granted.session, self._begun, began + ahead, began + ends)
        self.accepted_at = began
        return granted.session

    def _noted(self, error: KmsError) -> KmsError:
        """Returns an error of a login, after it took effect on the lease."""
        if isinstance(error, RefusedError):
            self._held = None
            self.accepted_at = None
        call = current()
        if not call.passed and monotonic() < call.ends:
            # A copy, because a raised error holds on to the frames that it went through.
            self._failure = error.at()
        return error
