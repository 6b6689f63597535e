"""Sessions at Vault and OpenBao: one token for each origin, renewed ahead.

Invariant (protocol F2a): the server's 403 is a refusal only under a token that is known to be
good, and `lookup-self` decides. A token that is not good any more is replaced once and, failing
that, the answer is CREDENTIALS_FAILED. A login is made anew at least every `LONGEST` seconds,
since a role taken away shows only then. It must not know keys.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.shared.deadlines import current, within
from keyfold_server.providers.vault.clients import Clients
from keyfold_server.providers.vault.errors import Answer, Fault
from keyfold_server.providers.vault.logins import Login
from keyfold_server.providers.vault.origins import Origin

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

AHEAD: Final = 8 * 60.0
"""Seconds after which a login is made anew while the old token still serves, less up to a tenth;
two thirds of the token's own time where that is less."""

LONGEST: Final = 10 * 60.0
"""Seconds after which a token is not used any more."""

RECENT: Final = 5.0
"""Seconds after a login within which its policies count as those that the role has now."""

_PAUSE: Final = 15.0
"""Seconds until renewing ahead is tried again after it failed."""


class Session(NamedTuple):
    """A token in use.

    Attributes:
        client: The SDK's client for keys; their uris name the namespace.
        own: The SDK's client for the token itself, in the namespace of the login.
        began: When the login began, on the monotonic clock.
        ahead: When to renew it while it still serves.
        ends: When it is not used any more.
    """

    client: Any
    own: Any
    began: float
    ahead: float
    ends: float


class Sessions:
    """The sessions at one origin, one after the other. Safe for many threads."""

    def __init__(self, place: str, origin: Origin, clock: Callable[[], float]) -> None:
        """Prepares; the login comes with the first call.

        Args:
            place: The origin: scheme, host and port.
            origin: What the settings say of it.
            clock: Monotonic seconds.
        """
        self._place = place
        self._namespace = origin.namespace
        self._clients = Clients(place, origin)
        self._login = Login(place, origin, self._clients)
        self._clock = clock
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._not_before = 0.0

    def under(self, work: Callable[[Any], _T]) -> _T:
        """Carries out a call, a second time where the token had to be replaced.

        Args:
            work: What is called with the SDK's client.

        Raises:
            Answer: The server answered no; a DENIED is one under a token that is good.
            KmsError: There is no good token to be had.
        """
        used = self.fresh()
        try:
            return work(used.client)
        except Answer as answer:
            if answer.fault is not Fault.DENIED:
                raise
            denied = answer
        good = self._accepted(used)
        if good and self._clock() - used.began < RECENT:
            raise denied
        try:
            new = self._renew(used)
        except KmsError:
            # A denial under a token that was accepted counts, whatever a new one would say.
            if good:
                raise denied from None
            raise
        attempts.count_retry()
        try:
            return work(new.client)
        except Answer as again:
            if again.fault is Fault.DENIED and not good and not self._accepted(new):
                raise self._not_accepted() from again
            raise

    def prove(self) -> None:
        """Shows the token to be good, with another one if need be.

        Raises:
            CredentialsFailedError: No token is accepted.
            Answer: The server answered something else.
        """
        used = self.fresh()
        if not self._accepted(used) and not self._accepted(self._renew(used)):
            raise self._not_accepted()

    def fresh(self) -> Session:
        """Returns the session; logs in anew where it is time.

        Raises:
            KmsError: There is none to be had.
        """
        session, now = self._session, self._clock()
        if session is not None and now < session.ahead:
            return session
        if session is not None and now < session.ends:
            return self._renewed_ahead(session, now)
        with self._turn():
            if self._session is not session and self._session is not None:
                return self._session
            return self._begin()

    def _renew(self, used: Session) -> Session:
        """Returns another session than the one whose token was not accepted."""
        with self._turn():
            if self._session is not used and self._session is not None:
                return self._session
            return self._begin()

    def _renewed_ahead(self, session: Session, now: float) -> Session:
        """Logs in anew in one thread, while the others go on with what there is."""
        if now < self._not_before or not self._lock.acquire(blocking=False):
            return session
        try:
            # Half of the call's time, so that a login that hangs leaves the call its own.
            with within(current().remaining() / 2):
                return self._begin()
        except CouldNotTellError as error:
            self._not_before = now + _PAUSE
            _log.warning("no new login at %s yet: %s", self._place, error.message)
            return session
        finally:
            self._lock.release()

    def _begin(self) -> Session:
        """Logs in; under the lock."""
        began = self._clock()
        token = self._login.take()
        # Sessions that began together are renewed one after the other.
        early = random.uniform(0.9, 1.0)  # noqa: S311  no secret
        held = token.seconds or LONGEST
        client = self._clients.client(token.secret)
        self._session = Session(
            client,
            self._clients.client(token.secret, self._namespace) if self._namespace else client,
            began,
            began + early * min(held * 2 / 3, AHEAD),
            began + min(held, LONGEST),
        )
        return self._session

    def _accepted(self, session: Session) -> bool:
        """Tells whether the server accepts a session's token now."""
        try:
            session.own.auth.token.lookup_self()["data"]["ttl"]  # Without it, it is no answer.
        except Answer as answer:
            if answer.fault is Fault.DENIED:
                return False
            raise
        return True

    def _not_accepted(self) -> CredentialsFailedError:
        return CredentialsFailedError(
            f"{self._place} does not accept the token that Keyfold has as {self._login.name}; "
            "renew its credential, and let its policy allow read auth/token/lookup-self"
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits for this thread's turn, as long as its call may take."""
        if not self._lock.acquire(timeout=current().remaining()):
            raise UnreachableError("another call took too long to log in to the Vault server")
        try:
            yield
        finally:
            self._lock.release()
