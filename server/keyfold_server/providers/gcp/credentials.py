"""Credentials for Google Cloud that are held and renewed, and the server's own one.

Invariant (protocol F2a): a credential that is not accepted is got anew once and, failing that, is
CREDENTIALS_FAILED. Tokens are got here, not by google-auth when it sends: where each goes, and
when, is ours to say. It must not know keys.
"""

from __future__ import annotations

import logging
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

import google.auth
from google.auth.credentials import with_scopes_if_required

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.gcp.clients import Headers
from keyfold_server.providers.gcp.errors import (
    BROKEN,
    NotAcceptedError,
    not_accepted,
    oauth_word,
)
from keyfold_server.providers.gcp.http import Exchange, Sender
from keyfold_server.providers.shared.deadlines import current

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_MARGIN: Final = 225.0
"""Seconds before its end at which our own token is got anew: a machine's metadata server gives a
new one from then on, and the same one before."""

_LAST: Final = 30.0
"""Seconds before its end from which our own token is not used any more: clocks differ."""

_ENDLESS: Final = 3600.0
"""Seconds that a token is used which does not tell its end."""

_PAUSE: Final = 15.0
"""Seconds until renewing ahead is tried again after it failed."""

_PLATFORM: Final = ("https://www.googleapis.com/auth/cloud-platform",)


@dataclass(frozen=True, slots=True)
class Token:
    """A credential that is had.

    Attributes:
        headers: What shows it.
        began: When it was asked for; this and the next two on the monotonic clock.
        ahead: From when on it is got anew.
        ends: From when on it is not used.
    """

    headers: Headers = field(repr=False)
    began: float
    ahead: float
    ends: float


class Held(ABC):
    """A credential that is got when it is needed, and anew when it is time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes monotonic seconds; asks nobody."""
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._not_before = 0.0

    def fresh(self) -> Headers:
        """Returns what calls are made with from now on, renewed where it is time.

        Raises:
            KmsError: It cannot be had.
        """
        token, now = self._token, self._clock()
        if token is not None and now < token.ahead:
            return token.headers
        if token is not None and now < token.ends:
            return self._renewed_ahead(token, now)
        with self._turn():
            return self._begin() if self._token is token else self._now()

    def renew(self, used: Headers) -> Headers:
        """Returns another credential than the one that was used and not accepted.

        Raises:
            KmsError: There is none.
        """
        with self._turn():
            if self._token is None or self._token.headers == used:
                return self._begin()
            return self._now()

    def prove(self) -> None:
        """Gets the credential anew, whatever is held.

        Raises:
            KmsError: It cannot be had.
        """
        with self._turn():
            self._begin()

    @abstractmethod
    def _get(self) -> Token:
        """Asks for the credential; under the lock."""

    def _begin(self) -> Headers:
        """Gets the credential; under the lock."""
        try:
            self._token = self._get()
        except CouldNotTellError:
            raise
        except KmsError:
            self._token = None
            raise
        return self._token.headers

    def _now(self) -> Headers:
        if self._token is None:
            raise UnreachableError("the credential ended while the call began; try again")
        return self._token.headers

    def _renewed_ahead(self, token: Token, now: float) -> Headers:
        """Gets the credential anew in one thread, while the others go on with what there is."""
        if now < self._not_before or not self._lock.acquire(blocking=False):
            return token.headers
        try:
            return self._begin() if self._token is token else self._now()
        except CouldNotTellError as error:
            self._not_before = now + _PAUSE
            _log.warning("a Google credential could not be renewed yet: %s", error.message)
            return token.headers
        finally:
            self._lock.release()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits for this thread's turn, as long as its call may take."""
        if not self._lock.acquire(timeout=current().remaining()):
            raise UnreachableError("another call took too long to renew the Google credential")
        try:
            yield
        finally:
            self._lock.release()


def under(credential: Held, work: Callable[[Headers], _T]) -> _T:
    """Carries out a call under a credential, a second time where it had to be renewed.

    Raises:
        CredentialsFailedError: The renewed one was not accepted either.
    """
    used = credential.fresh()
    try:
        return work(used)
    except NotAcceptedError as error:
        _log.info("a Google credential was not accepted (%s); renewing it", error.word)
    renewed = credential.renew(used)
    attempts.count_retry()
    try:
        return work(renewed)
    except NotAcceptedError as error:
        raise not_accepted(error.word) from error


class Own(Held):
    """The server's own identity: a credentials file, a federated identity or the machine's."""

    def __init__(self, sender: Sender, clock: Callable[[], float]) -> None:
        """Takes what sends, and monotonic seconds; looks for nothing yet."""
        super().__init__(clock)
        self._sender = sender
        self._source: Any = None

    def renew(self, used: Headers) -> Headers:
        """Looks for the credential again, from the beginning."""
        with self._turn():
            if self._token is not None and self._token.headers != used:
                return self._now()
            self._source = None
            renewed = self._begin()
        if renewed == used:
            raise CredentialsFailedError(
                "Google Cloud does not accept the server's own credential, and there is no other; "
                "renew it where the GOOGLE_* environment points to"
            )
        return renewed

    def _get(self) -> Token:
        began = self._clock()
        exchange = Exchange(self._sender)
        try:
            self._source = self._source or _found(exchange)
            self._source.refresh(exchange)
            headers: dict[str, str] = {}
            self._source.apply(headers)
            life = _seconds_until(self._source.expiry)
        except KmsError:
            raise
        except (*BROKEN, OSError) as error:
            self._source = None
            raise _no_credential(error, exchange) from error
        ahead = max(0.0, life - _MARGIN - random.uniform(0, 30))  # noqa: S311  no secret
        ends = max(ahead, life - _LAST)
        return Token(tuple(headers.items()), began, began + ahead, began + ends)


def _found(exchange: Exchange) -> Any:
    """Looks for the server's own credential where every Google tool does."""
    try:
        # Without scopes, with which the SDK would ask Google for the project's name, too.
        source, _ = google.auth.default(request=exchange)
    except UnreachableError as error:
        raise CredentialsFailedError(
            "there is no Google credential on this server: no file, and no metadata server that "
            "answers; set GOOGLE_APPLICATION_CREDENTIALS or give its machine a service account"
        ) from error
    scoped: Any = with_scopes_if_required
    return scoped(source, _PLATFORM)


def _seconds_until(expiry: datetime | None) -> float:
    if expiry is None:
        return _ENDLESS
    return (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def _no_credential(error: Exception, exchange: Exchange) -> CouldNotTellError:
    """Returns why the server's own credential is not there."""
    answer = exchange.last
    if answer is None:
        return CredentialsFailedError(
            "the server's own Google credential cannot be had; look at the GOOGLE_* environment "
            f"and what it points to ({type(error).__name__})"
        )
    word = oauth_word(answer.body)
    if answer.status == HTTPStatus.OK or word is None:
        return UnreachableError("Google's token endpoint answered with something that is no answer")
    return CredentialsFailedError(
        f"Google gives no token for the server's own credential ({word}); renew it where the "
        "GOOGLE_* environment points to"
    )
