"""The tokens that Keyfold holds, and when one counts.

Invariant (protocol F2a): a token that a vault does not accept is got anew once, by a new login,
and failing that is CREDENTIALS_FAILED. Trust that a customer withdrew is their refusal only if
Keyfold's own side is shown good since; otherwise it is CREDENTIALS_FAILED, too. A token is got
anew at least every `LONGEST` seconds, since withdrawn trust shows only then. It must not know
keys.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.azure.errors import Reply, credentials_failed
from keyfold_server.providers.azure.logins import Token, WithdrawnError
from keyfold_server.providers.shared.deadlines import current, within

_log = logging.getLogger(__name__)

LONGEST: Final = 10 * 60.0
"""Seconds after which a token is not used any more, however long Entra would let it live."""

_AHEAD: Final = 0.8
"""Part of its time after which a token is got anew while the old one still serves."""

_SPREAD: Final = 0.1
"""Part of its time by which that comes earlier, at random."""

_PAUSE: Final = 15.0
"""Seconds until getting one ahead is tried again after it failed."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, and its times on the monotonic clock."""

    token: Token
    ahead: float
    ends: float


class Credential:
    """The tokens of one principal for one audience. Safe for many threads."""

    def __init__(
        self,
        name: str,
        login: Callable[[], Token],
        shown_good: Callable[[Credential], bool],
        clock: Callable[[], float],
    ) -> None:
        """Prepares; the login comes with the first call.

        Args:
            name: The principal, empty for the server's own identity.
            login: Logs in anew.
            shown_good: Tells whether Keyfold's own side is good, seen from beside this one.
            clock: Monotonic seconds.
        """
        self.name = name
        self.accepted_at: float | None = None
        self._login = login
        self._shown_good = shown_good
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._not_before = 0.0

    def fresh(self) -> Token:
        """Returns what calls are made with from now on; logs in anew where it is time.

        Raises:
            KmsError: There is no token.
        """
        held, now = self._held, self._clock()
        if held is not None and now < held.ahead:
            return held.token
        if held is not None and now < held.ends:
            return self._renewed_ahead(held, now)
        with self._turn():
            if self._held is None or self._held is held:
                return self._begin()
            return self._held.token

    def renew(self, used: Token) -> Token:
        """Returns another token than the one that was used and not accepted.

        Raises:
            KmsError: There is none.
        """
        with self._turn():
            if self._held is not None and self._held.token is not used:
                return self._held.token
            return self._begin()

    def probe(self) -> bool:
        """Tells whether the principal can log in now; what is held stays."""
        try:
            self._login()
        except (KmsError, WithdrawnError):
            return False
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits for this thread's turn, as long as its call may take."""
        try:
            taken = self._lock.acquire(timeout=current().remaining())
        except TimeoutError:
            taken = False
        if not taken:
            raise UnreachableError("another call took too long to renew the Azure token")
        try:
            yield
        finally:
            self._lock.release()

    def _renewed_ahead(self, held: _Held, now: float) -> Token:
        """Logs in anew in one thread, while the others go on with what there is."""
        if now < self._not_before or not self._lock.acquire(blocking=False):
            return held.token
        try:
            # An Entra that hangs must leave the call time to use what there is.
            with within(max(0.0, current().ends - time.monotonic()) / 2):
                return self._begin() if self._held is held else held.token
        except CouldNotTellError as error:
            self._not_before = now + _PAUSE
            _log.warning("%s could not log in anew yet: %s", self._who(), error.message)
            return held.token
        finally:
            self._lock.release()

    def _begin(self) -> Token:
        """Logs in; under the lock."""
        began = self._clock()
        try:
            token = self._login()
        except WithdrawnError as error:
            meant = self._meaning(error)
            if not isinstance(meant, CouldNotTellError):
                self._held = None
            raise meant from error
        # The end that Entra names is of its clock: where ours is wrong a vault says so, and the
        # token is renewed then.
        lasts = min(LONGEST, max(0.0, token.expires - time.time()))
        # Tokens that were got together are renewed one after the other.
        ahead = lasts * (_AHEAD - random.uniform(0, _SPREAD))  # noqa: S311  no secret
        self._held = _Held(token, began + ahead, began + lasts)
        self.accepted_at = began
        return token

    def _meaning(self, error: WithdrawnError) -> KmsError:
        """Returns what it means that the application is not in the tenant (protocol F2a)."""
        if self._shown_good(self):
            return AccessDeniedError(
                f"Microsoft Entra does not know principal {self.name} any more "
                f"(AADSTS{error.code}); its tenant must let the application in, and enable it",
                provider_request_id=error.request_id,
            )
        return CredentialsFailedError(
            f"Microsoft Entra does not know principal {self.name} (AADSTS{error.code}), and "
            "Keyfold's own side could not be shown to be good; look at the server's identity",
            provider_request_id=error.request_id,
        )

    def _who(self) -> str:
        return f"principal {self.name}" if self.name else "the server's own Azure identity"


def under(credential: Credential, work: Callable[[Token], Reply], what_for: str) -> Reply:
    """Carries out a call with a token, a second time where it had to be renewed.

    Args:
        credential: Whose token.
        work: The call.
        what_for: The call in words.

    Raises:
        CredentialsFailedError: The renewed one was not accepted either.
    """
    used = credential.fresh()
    reply = work(used)
    if reply.unauthorized:
        renewed = credential.renew(used)
        attempts.count_retry()
        reply = work(renewed)
        if reply.unauthorized:
            raise credentials_failed(what_for, reply.request_id)
    return reply
